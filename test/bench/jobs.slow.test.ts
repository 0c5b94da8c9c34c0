import { expect, test } from 'vitest';
import { runBench, runQuickly } from './run-bench.ts';

test('a quick run of the jobs bench measures every case and writes its figures as JSON', {
  timeout: 300_000,
}, async () => {
  const { out, machine, rows } = await runQuickly('jobs');
  expect(out).toContain('| BullMQ alone ');
  expect(machine.postgresSettings).toMatchObject({ fsync: 'on', synchronous_commit: 'on' });
  expect(
    rows.map((row) => [row.case, row.subject, row.way].filter((part) => part !== undefined).join(', ')).sort(),
  ).toEqual([
    'adding, bullmq, bulk',
    'adding, bullmq, concurrent',
    'adding, bullmq, single',
    'adding, oncefleet, bulk',
    'adding, oncefleet, concurrent',
    'adding, oncefleet, replayed',
    'adding, oncefleet, single',
    'latency, bullmq',
    'latency, naive',
    'latency, oncefleet',
    'processing, bullmq',
    'processing, graphile-worker',
    'processing, naive',
    'processing, oncefleet',
    'processing, pg-boss',
    'replayed delivery, oncefleet',
    'replayed duplicate, oncefleet',
  ]);
  for (const row of rows.filter((candidate) => candidate.case !== 'latency')) {
    expect(row, row.case).toMatchObject({
      jobs: expect.any(Number),
      rounds: 1,
      jobsPerSecondMin: expect.any(Number),
      jobsPerSecondMedian: expect.any(Number),
      jobsPerSecondMax: expect.any(Number),
    });
  }
  expect(rows.find((row) => row.case === 'processing' && row.subject === 'oncefleet')).toMatchObject({
    ofBullmqRatio: expect.any(Number),
    ofNaiveRatio: expect.any(Number),
  });
});

test('a mistake in the command ends it at once, with what there is to choose from', { timeout: 30_000 }, async () => {
  const mistakes = [
    { args: ['speed'], choice: 'jobs' },
    { args: ['jobs', '--fast'], choice: '--quick' },
    { args: ['jobs', '--subjects', 'sidekiq'], choice: 'bullmq' },
  ];
  for (const { args, choice } of mistakes) {
    const { code, out } = await runBench(args);
    expect(code, out).toBe(2);
    expect(out).toContain(choice);
    expect(out).not.toMatch(/\n\s+at /);
  }
});

test('a quick run of the fairness bench measures B alone and beside A, in turns, in order and with BullMQ alone', {
  timeout: 300_000,
}, async () => {
  const { rows } = await runQuickly('fairness');
  expect(rows.map((row) => `${row.subject}, ${row.case}`)).toEqual(
    ['oncefleet', 'in-order', 'bullmq'].flatMap((subject) => [`${subject}, alone`, `${subject}, beside A`]),
  );
  for (const row of rows) expect(row.p95Ms).toBeGreaterThan(0);
});
