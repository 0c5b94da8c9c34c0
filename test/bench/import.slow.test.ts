import { expect, test } from 'vitest';
import { runQuickly } from './run-bench.ts';

test('a quick run of the import bench measures every case; an import costs less than 1.5 x one of BullMQ', {
  timeout: 300_000,
}, async () => {
  const { rows } = await runQuickly('import');
  expect(rows.map((row) => row.case)).toEqual([
    'nothing, Node alone',
    "import 'bullmq'",
    "import 'oncefleet'",
    'a Worker of BullMQ, connected',
    'the same, its processor wrapped',
  ]);
  const ratios = rows.find((row) => row.case === "import 'oncefleet'");
  expect(ratios).toMatchObject({ msRatio: expect.any(Number), rssRatio: expect.any(Number) });
  expect(Math.max(ratios?.msRatio as number, ratios?.rssRatio as number)).toBeLessThan(1.5);
});
