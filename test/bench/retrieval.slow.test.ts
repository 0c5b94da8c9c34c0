import { expect, test } from 'vitest';
import { runBench } from './run-bench.ts';

const BASELINE = 'bench/retrieval/baseline.json';

test('oncefleet finds what it found when the baseline was written, in every language', {
  timeout: 600_000,
}, async () => {
  const { code, out } = await runBench(['retrieval', '--against', BASELINE]);
  expect(code, out).toBe(0);
  for (const group of ['English', 'German, French, Russian', 'Chinese, Japanese', 'all six in one collection'])
    expect(out).toContain(`${group}: oncefleet`);
});
