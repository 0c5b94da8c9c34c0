import { expect, test } from 'vitest';
import { runBench, runQuickly } from './run-bench.ts';

/** CI only sees that they run; nothing here waits long. */
const LIMIT = { timeout: 300_000 };

test('a quick run of the journal bench writes, follows and weighs streams in every way', LIMIT, async () => {
  const { out, machine, rows } = await runQuickly('journal');
  expect(out).toContain('| raw COPY, a row per event ');
  expect(machine.postgresSettings).toMatchObject({ fsync: 'on', synchronous_commit: 'on' });
  expect(rows.map((row) => row.subject).sort()).toEqual(['copy', 'insert', 'oncefleet', 'oncefleet-16', 'origin']);
  for (const row of rows) {
    expect(row).toMatchObject({ streams: 10, events: expect.any(Number), eventsPerSecondMedian: expect.any(Number) });
    expect(row.diskBytesPerEvent).toBeGreaterThan(0);
    // Only what is published can be followed.
    expect('followerCpuMicrosPerEvent' in row, String(row.subject)).toBe(
      row.subject !== 'copy' && row.subject !== 'insert',
    );
  }
  expect(rows.find((row) => row.subject === 'oncefleet')).toMatchObject({
    ofOriginRatio: expect.any(Number),
    ofCopyRatio: expect.any(Number),
  });
});

test('a quick run of the latency bench measures ours and resumable-stream', LIMIT, async () => {
  const { rows } = await runQuickly('latency');
  expect(rows.map((row) => row.subject).sort()).toEqual(['oncefleet', 'resumable-stream']);
  for (const row of rows) expect(row.p99Ms).toBeGreaterThanOrEqual(row.p50Ms as number);
});

test('a quick run of the fanout bench delivers one stream to all and a stream to each', LIMIT, async () => {
  const { rows } = await runQuickly('fanout');
  expect(rows.map((row) => [row.case, row.streams, row.clients])).toEqual([
    ['one stream to all', 1, 50],
    ['a stream each', 50, 50],
  ]);
  for (const row of rows) {
    expect(row).toMatchObject({ p50Ms: expect.any(Number), rssKibPerClient: expect.any(Number) });
    expect(row.burstEventsPerSecondMedian).toBeGreaterThan(0);
  }
});

test('a quick run of the dialects bench has every reader of every dialect get every event', LIMIT, async () => {
  const { rows } = await runQuickly('dialects');
  expect(rows.map((row) => [row.case, row.streams])).toEqual(
    [1, 5].flatMap((streams) => ['native', 'responses', 'completions', 'ui-messages'].map((name) => [name, streams])),
  );
  for (const row of rows) expect(row.ofNativeRatio).toBeGreaterThan(0);
});

test('a quick run of the replay bench reads a finished stream in every way', LIMIT, async () => {
  const { rows } = await runQuickly('replay');
  expect(rows[0]).toMatchObject({ case: 'as written', events: 200, eventsPerSegmentWritten: 16 });
  for (const row of rows)
    for (const figure of ['rowsRead', 'statementMs', 'readerMs', 'sseMs'])
      expect(row[figure], figure).toBeGreaterThan(0);
});

test('a quick run of the soak loads all processes, finds every job done and every stream whole', LIMIT, async () => {
  const { rows } = await runQuickly('soak');
  const judged = rows.filter((row) => row.case === 'memory');
  expect(judged.map((row) => row.process)).toEqual(['worker', 'web', 'driver']);
  for (const row of judged) expect(row.verdict).toMatch(/^(steady|grows)$/);
  const load = rows.find((row) => row.case === 'load') as Record<string, number>;
  for (const count of ['created', 'followed', 'cut']) expect(load[count], count).toBeGreaterThan(0);
});

test('a mistake in the options of a stream bench ends it before any server is started', LIMIT, async () => {
  const mistakes = [
    { args: ['journal', '--subjects', 'kafka'], choice: 'origin' },
    { args: ['journal', '--streams', 'many'], choice: '--streams' },
    { args: ['latency', '--rate', '0'], choice: '--rate' },
    { args: ['soak', '--minutes', '1'], choice: '--seconds' },
  ];
  for (const { args, choice } of mistakes) {
    const { code, out } = await runBench(args);
    expect(code, out).toBe(2);
    expect(out).toContain(choice);
    expect(out).not.toMatch(/\n\s+at /);
  }
});
