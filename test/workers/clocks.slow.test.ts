/** Hosts whose clocks are hours off: when a job runs is decided by Postgres's clock. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { sql } from 'kysely';
import { describe, expect, it, onTestFinished } from 'vitest';
import { rowOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';
import { LEASE_TTL_MS, type TimedProcessOptions, timedJobs } from '../helpers/timed-process.ts';

const file = useDatabase();
const WAIT = { timeout: 60_000, interval: 20 };

/** libfaketime, where it is installed. */
const FAKETIME = ['/usr/lib/x86_64-linux-gnu', '/usr/lib/aarch64-linux-gnu', '/usr/lib64']
  .map((folder) => `${folder}/faketime/libfaketime.so.1`)
  .find(existsSync);

/** A process of a fleet whose clock is off by so much (`+2h`), or right; killed when the test ends. */
async function start(
  options: Omit<TimedProcessOptions, 'databaseUrl' | 'redisUrl'>,
  by?: string,
): Promise<ChildProcess> {
  const all: TimedProcessOptions = { databaseUrl: file.url, redisUrl: testRedisUrl(), ...options };
  const skewed = { LD_PRELOAD: FAKETIME as string, FAKETIME: by, FAKETIME_DONT_FAKE_MONOTONIC: '1' };
  const child = fork(fileURLToPath(new URL('../helpers/timed-process.ts', import.meta.url)), [JSON.stringify(all)], {
    execArgv: ['--conditions=oncefleet-source'],
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    env: { ...process.env, ...(by === undefined ? {} : skewed) },
  });
  onTestFinished(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, 'exit');
    child.kill('SIGKILL');
    await gone;
  });
  const [ready] = (await once(child, 'message')) as [{ type: string; now: number }];
  expect(ready.type).toBe('ready');
  if (by !== undefined) expect(Math.abs(ready.now - Date.now())).toBeGreaterThan(3_600_000);
  return child;
}

/** By Postgres's clock, from when a job was accepted to the start of each of its attempts, in ms. */
async function startsOf(id: string): Promise<number[]> {
  const { rows } = await sql<{ ms: number }>`
    select extract(epoch from a.started_at - j.created_at)::float8 * 1000 as ms
    from oncefleet.job_attempts a join oncefleet.jobs j on j.id = a.job_id where j.id = ${id} order by a.fence`.execute(
    file.db,
  );
  return rows.map(({ ms }) => ms);
}

async function ended(id: string) {
  await expect.poll(async () => (await rowOf(file.db, id)).status, WAIT).toMatch(/completed|failed/);
  return { row: await rowOf(file.db, id), starts: await startsOf(id) };
}

/** A round of the reconciler, which brings what BullMQ keeps, and what a loaded machine takes. */
const SLACK_MS = 15_000;

describe.skipIf(FAKETIME === undefined).each(['+2h', '-2h'])('where the clock of a worker is off by %s', (by) => {
  async function stage() {
    const prefix = uniquePrefix();
    await start({ prefix, role: 'work' }, by);
    return createTestFleet(file.url, timedJobs, { prefix });
  }

  it('a schedule ticks when Postgres says so, and each tick makes one job', async () => {
    const fleet = await stage();
    await fleet.work();
    const name = `skewed${by}`.replace('+', '');
    const { nextAt } = await fleet.schedules.upsert(name, 'timed', { everyMs: 1_000, catchUp: 'all', input: {} });
    const ticks = async () => {
      const { rows } = await sql<{ key: string; late: number }>`
        select idempotency_key as key, extract(epoch from created_at - split_part(idempotency_key, '/', 3)::timestamptz)::float8 as late
        from oncefleet.jobs where starts_with(idempotency_key, ${`schedule/${name}/`}) order by 1`.execute(file.db);
      return rows;
    };
    await expect.poll(async () => (await ticks()).length, WAIT).toBeGreaterThan(4);
    await fleet.schedules.remove(name);
    const made = await ticks();
    const expected = made.map((_, n) => new Date(Date.parse(nextAt as string) + n * 1_000).toISOString());
    expect(made.map(({ key }) => key)).toEqual(expected.map((at) => `schedule/${name}/${at}`));
    for (const { late } of made) {
      expect(late).toBeGreaterThanOrEqual(0);
      expect(late * 1_000).toBeLessThan(SLACK_MS);
    }
  });

  it('a delay is as long as it was asked for', async () => {
    const fleet = await stage();
    const { id } = await fleet.enqueue('timed', {}, { delayMs: 2_000 });
    const { row, starts } = await ended(id);
    expect(row).toMatchObject({ status: 'completed', error_count: 0, crash_count: 0, interruption_count: 0 });
    expect(starts).toHaveLength(1);
    expect(starts[0]).toBeGreaterThanOrEqual(1_990);
    expect(starts[0]).toBeLessThan(2_000 + SLACK_MS);
  });

  it('a job without a delay runs at once', async () => {
    const fleet = await stage();
    const { id } = await fleet.enqueue('timed', {});
    expect((await ended(id)).starts[0]).toBeLessThan(5_000);
  });

  it.each(['backoff', 'retry-after'])('the pause before a retry is as long as %s says', async (name) => {
    const fleet = await stage();
    const { id } = await fleet.enqueue(name, {});
    const { row, starts } = await ended(id);
    expect(row).toMatchObject({ status: 'completed', error_count: 1 });
    expect(starts).toHaveLength(2);
    const pause = (starts[1] as number) - (starts[0] as number);
    expect(pause).toBeGreaterThanOrEqual(1_490);
    expect(pause).toBeLessThan(1_500 + SLACK_MS);
  });

  it('a retry that it has put off is taken in time by a worker whose clock is right', async () => {
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, timedJobs, { prefix });
    const wrong = await start({ prefix, role: 'work' }, by);
    const { id } = await fleet.enqueue('backoff', {});
    await expect.poll(async () => (await rowOf(file.db, id)).error_count, WAIT).toBe(1);
    const gone = once(wrong, 'exit');
    wrong.kill('SIGKILL');
    await gone;
    await start({ prefix, role: 'work' });
    const { row, starts } = await ended(id);
    expect(row.status).toBe('completed');
    expect((starts[1] as number) - (starts[0] as number)).toBeGreaterThanOrEqual(1_490);
  });

  it('a job that it held when it was killed is taken over once its lease has run out', async () => {
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, timedJobs, { prefix });
    const wrong = await start({ prefix, role: 'work' }, by);
    const { id } = await fleet.enqueue('held', {});
    await expect.poll(async () => (await rowOf(file.db, id)).fence, WAIT).toBe(1);
    const gone = once(wrong, 'exit');
    wrong.kill('SIGKILL');
    await gone;
    await start({ prefix, role: 'work' });
    const { row, starts } = await ended(id);
    expect(row).toMatchObject({ status: 'completed', fence: 2, crash_count: 1 });
    const pause = (starts[1] as number) - (starts[0] as number);
    expect(pause).toBeGreaterThanOrEqual(LEASE_TTL_MS - 10);
    expect(pause).toBeLessThan(2 * LEASE_TTL_MS + SLACK_MS);
  });
});

describe.skipIf(FAKETIME === undefined).each(['+2h', '-2h'])('where the clock of a client is off by %s', (by) => {
  it('a delay is as long as it was asked for', async () => {
    const prefix = uniquePrefix();
    await start({ prefix, role: 'work' });
    const client = await start({ prefix, role: 'enqueue' }, by);
    const answered = once(client, 'message');
    client.send({ name: 'timed', delayMs: 2_000 });
    const [{ id }] = (await answered) as [{ id: string }];
    const { starts } = await ended(id);
    expect(starts).toHaveLength(1);
    expect(starts[0]).toBeGreaterThanOrEqual(1_990);
    expect(starts[0]).toBeLessThan(2_000 + SLACK_MS);
  });
});
