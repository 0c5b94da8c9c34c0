import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { type RunFigures, withPart, withRun } from '../../chaos/page.ts';

const run: RunFigures = {
  seed: 7,
  seconds: 600,
  faults: new Map([
    ['kill', 1_000],
    ['freeze', 2],
  ]),
  counts: {
    jobs: 10,
    completed: 8,
    failed: 1,
    cancelled: 1,
    requests: 20,
    duplicates: 10,
    attempts: 12,
    takeovers: 2,
    interruptions: 0,
    poisoned: 1,
    leasesLost: 3,
    refusedWrites: 4,
    redispatched: 5,
    effects: 6,
    events: 7,
    readers: 8,
    reconnects: 9,
    eventsRead: 10,
    gapsFilled: 11,
    processDeaths: 12,
    recoveries: { count: 1, p50Ms: 3_000, maxMs: 4_000 },
  },
};

it('a run gets its row, and takes that of an earlier run of the same seed and length', () => {
  const first = withRun('', run, '2026-01-01');
  expect(first).toContain('1,002');
  expect(first).toContain('3,000 ms, 4,000 ms');
  const other = withRun(first, { ...run, seed: 8 }, '2026-01-02');
  const again = withRun(other, run, '2026-01-03');
  const rows = again.split('\n').filter((line) => line.startsWith('| 2026'));
  expect(
    rows.map((row) =>
      row
        .split('|')
        .slice(1, 3)
        .map((cell) => cell.trim()),
    ),
  ).toEqual([
    ['2026-01-02', '8'],
    ['2026-01-03', '7'],
  ]);
});

it('docs/internals/reliability.md has the places that runs write into', () => {
  const page = readFileSync(fileURLToPath(new URL('../../docs/internals/reliability.md', import.meta.url)), 'utf8');
  for (const part of ['recovery', 'runs']) expect(withPart(page, part, () => 'new text')).toContain('\n\nnew text\n\n');
  expect(() => withPart(page, 'nothing', () => '')).toThrow('no place for nothing');
});
