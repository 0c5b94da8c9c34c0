/** Schedules: each tick makes one job, whoever looks. */
import { sql } from 'kysely';
import { beforeEach, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { tickDue } from '../../../src/client/schedules/ticker.ts';
import type { ScheduleOptions, Schedules } from '../../../src/client/schedules/types.ts';
import { defineJob } from '../../../src/index.ts';
import { silentLogger } from '../../../src/log.ts';
import { Runtime } from '../../../src/runtime/runtime.ts';
import { useDatabase } from '../../helpers/fixtures.ts';
import { createTestFleet } from '../../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../../helpers/services.ts';

const file = useDatabase();

// A tick is of all that are due, whichever test has made them.
beforeEach(() => sql`delete from oncefleet.schedules`.execute(file.db));

const job = defineJob({ name: 'job', input: z.object({ n: z.number() }), run: async ({ n }) => n });
const jobs = new Map([[job.name, job]]);

/** A fleet, and what a worker of it does to schedules. */
function start(tenant: string) {
  const fleet = createTestFleet(file.url, [job], { tenant });
  return { fleet, schedules: fleet.schedules };
}

async function withRuntimes(count: number, use: (runtimes: Runtime[]) => Promise<void>): Promise<void> {
  const options = { databaseUrl: file.url, redisUrl: testRedisUrl(), prefix: uniquePrefix(), log: silentLogger() };
  const runtimes = Array.from({ length: count }, () => new Runtime({ ...options, databasePoolSize: 2 }));
  try {
    await use(runtimes);
  } finally {
    await Promise.all(runtimes.map((runtime) => runtime.close()));
  }
}

/** As if so much time had passed in which nobody looked. */
const backdate = (tenant: string, ms: number) =>
  sql`
  update oncefleet.schedules set next_at = next_at - ${ms}::float8 * interval '1 ms',
    anchor_at = anchor_at - ${ms}::float8 * interval '1 ms' where tenant = ${tenant}`.execute(file.db);

const listed = async (schedules: Schedules, of: { tenant?: string } = {}) => {
  const page = await schedules.list(of);
  return page.schedules;
};

const keysOf = async (tenant: string) =>
  (
    await sql<{ key: string }>`
      select idempotency_key as key from oncefleet.jobs where tenant = ${tenant} order by idempotency_key`.execute(
      file.db,
    )
  ).rows.map(({ key }) => key);

const all = { input: { n: 1 }, everyMs: 60_000, catchUp: 'all' } satisfies ScheduleOptions;

describe('a schedule', () => {
  it('makes one job a tick after ten minutes in which nobody ran, however many processes look', async () => {
    const { fleet, schedules } = start('five');
    await schedules.upsert('minutely', job, all);
    await backdate('five', 600_000);
    await withRuntimes(5, async (runtimes) => {
      for (let round = 0; round < 3; round++) await Promise.all(runtimes.map((runtime) => tickDue(runtime, jobs)));
    });
    const keys = await keysOf('five');
    expect(keys).toHaveLength(10);
    expect(new Set(keys).size).toBe(10);
    const times = keys.map((key) => Date.parse(key.replace('schedule/minutely/', '')));
    expect(times.slice(1).map((at, i) => at - (times[i] as number))).toEqual(Array.from({ length: 9 }, () => 60_000));
    const [shown] = await listed(schedules);
    expect(shown).toMatchObject({ ticks: 10, skipped: 0, lastAt: new Date(times[9] as number).toISOString() });
    expect((await fleet.get(shown?.lastJobId as string))?.key).toBe(keys[9]);
    expect(Date.parse(shown?.nextAt as string)).toBe((times[9] as number) + 60_000);
  });

  it('makes a tick once, though it is asked for again', async () => {
    const { schedules } = start('again');
    await schedules.upsert('minutely', job, all);
    await backdate('again', 120_000);
    await withRuntimes(1, async ([runtime]) => {
      await tickDue(runtime as Runtime, jobs);
      expect(await keysOf('again')).toHaveLength(2);
      // As a restored backup has it, or a row that was changed by hand; and with another input since.
      await sql`update oncefleet.schedules set next_at = next_at - interval '2 minutes', input = '{"n":2}'
        where tenant = 'again'`.execute(file.db);
      await tickDue(runtime as Runtime, jobs);
      expect(await keysOf('again')).toHaveLength(2);
    });
  });

  it('enqueues none of a transaction that is rolled back, and all of it later', async () => {
    const { schedules } = start('rollback');
    await schedules.upsert('minutely', job, all);
    await backdate('rollback', 180_000);
    await sql`create function refuse_note() returns trigger language plpgsql as $$ begin raise 'no'; end $$`.execute(
      file.db,
    );
    await sql`create trigger refuse_note before update on oncefleet.schedules for each row execute function refuse_note()`.execute(
      file.db,
    );
    await withRuntimes(1, async ([runtime]) => {
      await expect(tickDue(runtime as Runtime, jobs)).rejects.toThrow('no');
      expect(await keysOf('rollback')).toEqual([]);
      await sql`drop trigger refuse_note on oncefleet.schedules`.execute(file.db);
      await tickDue(runtime as Runtime, jobs);
    });
    expect(await keysOf('rollback')).toHaveLength(3);
  });

  it('ticks in a worker, whose jobs run', async () => {
    const { fleet, schedules } = start('runs');
    const { nextAt } = await schedules.upsert('often', job, { input: { n: 7 }, everyMs: 1_000 });
    await fleet.work();
    await expect
      .poll(async () => (await fleet.find({ status: 'completed' })).jobs.length, { timeout: 15_000 })
      .toBeGreaterThan(1);
    expect((await keysOf('runs'))[0]).toBe(`schedule/often/${nextAt}`);
  });

  it('is left to a process that knows its job', async () => {
    const { schedules } = start('unknown');
    await schedules.upsert('minutely', job, all);
    await backdate('unknown', 60_000);
    const other = defineJob({ name: 'other', input: z.null(), run: async () => null });
    await withRuntimes(1, async ([runtime]) => {
      expect(await tickDue(runtime as Runtime, new Map([[other.name, other]]))).toBe(0);
      expect(await tickDue(runtime as Runtime, jobs)).toBe(1);
    });
  });

  it('that is said again keeps its next tick; with other times it counts from now', async () => {
    const { schedules } = start('again-said');
    const first = await schedules.upsert('s', job, all);
    expect(await schedules.upsert('s', job, { ...all, input: { n: 2 } })).toMatchObject({
      nextAt: first.nextAt,
      input: { n: 2 },
    });
    await backdate('again-said', 120_000);
    const changed = await schedules.upsert('s', job, { ...all, everyMs: 30_000 });
    expect(Date.parse(changed.nextAt as string)).toBeGreaterThan(Date.parse(first.nextAt as string) - 60_000);
  });

  it('that is paused does not tick, resumed makes up for nothing, and removed is gone with its jobs left', async () => {
    const { fleet, schedules } = start('paused');
    await schedules.upsert('s', job, all);
    expect((await schedules.pause('s')).pausedAt).not.toBeNull();
    await backdate('paused', 600_000);
    await withRuntimes(1, async ([runtime]) => {
      const tick = () => tickDue(runtime as Runtime, jobs);
      expect(await tick()).toBe(0);
      const { nextAt, pausedAt } = await schedules.resume('s');
      expect(pausedAt).toBeNull();
      expect(Date.parse(nextAt as string)).toBeGreaterThan(Date.now() - 1_000);
      expect(await tick()).toBe(0);
      await backdate('paused', 60_000);
      expect(await tick()).toBe(1);
      await backdate('paused', 60_000);
      expect(await schedules.remove('s')).toBe(true);
      expect(await schedules.remove('s')).toBe(false);
      expect(await tick()).toBe(0);
    });
    expect((await fleet.find()).jobs).toHaveLength(1);
    await expect(schedules.pause('s')).rejects.toMatchObject({ code: 'SCHEDULE_NOT_FOUND' });
  });

  it('of another tenant is not seen', async () => {
    const { schedules } = start('mine');
    await schedules.upsert('s', job, { ...all, tenant: 'theirs' });
    expect(await listed(schedules)).toEqual([]);
    expect(await schedules.remove('s')).toBe(false);
    expect(await listed(schedules, { tenant: 'theirs' })).toHaveLength(1);
  });

  it('with overlap skip does not tick while its job has not ended', async () => {
    const { schedules } = start('overlap');
    await schedules.upsert('s', job, { ...all, overlap: 'skip' });
    await withRuntimes(1, async ([runtime]) => {
      for (let n = 0; n < 2; n++) {
        await backdate('overlap', 60_000);
        await tickDue(runtime as Runtime, jobs);
      }
    });
    expect((await listed(schedules))[0]).toMatchObject({ ticks: 1, skipped: 1 });
  });
});

describe('upsert refuses, by path', () => {
  const input = { n: 1 };
  it.each<[string, ScheduleOptions, RegExp]>([
    ['a day that never comes', { input, cron: '0 0 30 2 *' }, /cron: never fires/],
    ['days that never come', { input, cron: '0 0 31 4,6 *' }, /cron: never fires/],
    ['seconds', { input, cron: '* * * * * *' }, /cron: expected five fields/],
    ['too few fields', { input, cron: '5' }, /cron: expected five fields/],
    ['nothing', { input, cron: '' }, /cron: expected five fields/],
    ['a time that each process would choose', { input, cron: 'H * * * *' }, /cron: expected five fields/],
    ['a minute that is none', { input, cron: '61 * * * *' }, /cron: is not understood/],
    ['a zone that is none', { input, cron: '@daily', timeZone: 'Mars/Base' }, /timeZone: is not a time zone/],
    ['a zone of an interval', { input, everyMs: 1_000, timeZone: 'UTC' }, /timeZone: goes with cron/],
    ['an interval that is too short', { input, everyMs: 999 }, /everyMs: expected a whole number from 1000/],
    ['both', { input, everyMs: 1_000, cron: '@daily' }, /everyMs: expected either/],
    ['neither', { input }, /cron: expected either/],
    [
      'an end before the start',
      { input, cron: '@daily', startAt: '2030-01-02', endAt: '2030-01-01' },
      /endAt: is before startAt/,
    ],
    ['an end before the first tick', { input, cron: '@daily', endAt: '2020-01-01' }, /endAt: is before the first tick/],
    ['times that are none', { input, cron: '@daily', startAt: 'soon', endAt: 'never' }, /startAt: .*endAt: /],
    ['an input that does not fit', { input: { n: 'x' }, cron: '@daily' }, /n: /],
    ['an option that is none', { input, cron: '@daily', zone: 'UTC' } as ScheduleOptions, /zone/],
    ['nothing at all', undefined as never, /expected/],
  ])('%s', async (_, options, message) => {
    const { schedules } = start('refused');
    await expect(schedules.upsert('s', 'job', options)).rejects.toMatchObject({
      code: 'INPUT_INVALID',
      message: expect.stringMatching(message),
    });
    expect(await listed(schedules)).toEqual([]);
  });

  it('a name that is none, and a job that nobody knows', async () => {
    const { schedules } = start('refused');
    await expect(schedules.upsert('a/b', job, all)).rejects.toThrow(/name: expected 1 to 100/);
    await expect(schedules.upsert('a', 'nobody', all)).rejects.toMatchObject({ code: 'JOB_NAME_UNKNOWN' });
  });
});
