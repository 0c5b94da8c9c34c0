import { spawn } from 'node:child_process';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import { z } from 'zod';
import { createTestFolder } from '../helpers/services.ts';

const MAIN = fileURLToPath(new URL('../../bench/main.ts', import.meta.url));

/** What every bench promises of `--json`. */
const figures = z.object({
  bench: z.string(),
  quick: z.boolean(),
  machine: z.object({
    measuredAt: z.iso.datetime(),
    cores: z.number().int().positive(),
    node: z.string(),
    postgres: z.string(),
    postgresSettings: z.record(z.string(), z.string()),
    redis: z.string(),
    packages: z.record(z.string(), z.string().regex(/^\d+\.\d+\.\d+/)),
    loadAverageBefore: z.number(),
    loadAverageAfter: z.number(),
  }),
  rows: z.array(z.object({ case: z.string() }).catchall(z.union([z.string(), z.number()]))).nonempty(),
});

async function runBench(args: readonly string[]): Promise<{ code: number | null; out: string }> {
  // Its own servers: commits are compared, and those of the test run do not reach the disk.
  const { DATABASE_URL: _database, REDIS_URL: _redis, ...env } = process.env;
  const child = spawn(process.execPath, [MAIN, ...args], { stdio: ['ignore', 'pipe', 'pipe'], env });
  onTestFinished(() => void child.kill('SIGTERM'));
  let out = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      out += text;
    });
  }
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { code, out };
}

test('a quick run of the jobs bench measures every case and writes its figures as JSON', {
  timeout: 90_000,
}, async () => {
  const folder = await createTestFolder();
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  const file = join(folder, 'figures.json');

  const { code, out } = await runBench(['jobs', '--quick', '--json', file]);
  expect(code, out).toBe(0);
  expect(out).toContain('| BullMQ alone ');

  const { bench, quick, machine, rows } = figures.parse(JSON.parse(await readFile(file, 'utf8')));
  expect({ bench, quick }).toEqual({ bench: 'jobs', quick: true });
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
