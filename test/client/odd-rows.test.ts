/** Rows that another program wrote, or a person by hand: each is shown, and none keeps others from being seen. */
import { sql } from 'kysely';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { findPendingJobs } from '../../src/db/jobs/unfinished.ts';
import { jobAnswer } from '../../src/http/schemas.ts';
import { defineJob } from '../../src/index.ts';
import { claimOne, insertJob, rowOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';

const file = useDatabase();
const job = defineJob({ name: 'odd', input: z.unknown(), run: async () => 'done' });

/** What somebody sets in a row, as SQL. */
const ODD: [string, string][] = [
  ['a time that never comes', `run_at = 'infinity'`],
  ['a time before all others', `run_at = '-infinity'`],
  ['a time of no Date', `run_at = '290000-01-01 00:00:00+00'`],
  ['a year of six digits', `run_at = '200000-01-01 00:00:00+00', created_at = '4000-01-01 00:00:00+00 BC'`],
  [
    'a key and a cancel for ever',
    `cancel_requested_at = 'infinity', started_at = '-infinity', expires_at = 'infinity'`,
  ],
  ['a fence of no double', 'fence = 9007199254740993'],
  ['a fence below 0', 'fence = -9007199254740993'],
  ['counters at their ends', 'error_count = 2147483647, crash_count = -2147483648, deferral_count = 2147483647'],
  ['no options', `options = 'null'`],
  ['other options', `options = '{"attempts":"many","priority":1e400,"backoff":[],"publish":7,"later":{"\\u0000":1}}'`],
  ['numbers in its input', `input = '{"n":1e400,"m":-1e400,"big":9007199254740993}'`],
  ['a failure without words', `status = 'failed', error = 'null', finished_at = 'infinity'`],
  ['a failure of a later build', `status = 'failed', error = '{"code":"OF_LATER","message":"x"}', finished_at = now()`],
  ['a deadline that never comes', `deadline_at = 'infinity'`],
];

async function odd(change: string, tenant = 'default'): Promise<string> {
  const id = await insertJob(file.db, { name: 'odd', queue: 'odd', tenant });
  await sql`update oncefleet.jobs set ${sql.raw(change)} where id = ${id}`.execute(file.db);
  await sql`update oncefleet.unfinished_jobs u set run_at = j.run_at from oncefleet.jobs j where j.id = u.job_id`.execute(
    file.db,
  );
  return id;
}

describe('a row with', () => {
  it.each(ODD)('%s is shown', async (_what, change) => {
    const fleet = createTestFleet(file.url, [job]);
    const id = await odd(change);
    const shown = await fleet.get(id);
    // As the API's schema has it, but for codes of later builds.
    const { error, ...rest } = JSON.parse(JSON.stringify(shown)) as z.output<typeof jobAnswer>;
    expect(jobAnswer.omit({ error: true }).safeParse(rest)).toMatchObject({ success: true });
    expect(error === null || typeof error === 'object').toBe(true);
    expect((await fleet.find({ name: 'odd' })).jobs.map((found) => found.id)).toContain(id);
    // Its stream too.
    expect(await fleet.readEvents(id)).toHaveProperty('events');
  });

  it('anything hides no other row from whatever reads several', async () => {
    const tenant = 'many';
    for (const [, change] of ODD) await odd(change, tenant);
    const plain = await insertJob(file.db, { name: 'odd', queue: 'odd', tenant });
    const fleet = createTestFleet(file.url, [job], { tenant });
    expect((await fleet.find({ limit: 100 })).jobs).toHaveLength(ODD.length + 1);
    const { jobs } = await findPendingJobs(file.db, { limit: 1_000 });
    expect(jobs.map(({ id }) => id)).toContain(plain);
    for (const { delayMs, options } of jobs) {
      expect(Number.isFinite(delayMs)).toBe(true);
      expect(Number.isInteger(options.attempts)).toBe(true);
    }
    expect((await fleet.doctor({ lookAgainMs: 0 })).findings).toBeDefined();
  });

  it('an infinite deadline runs, and with it one that waits for a time of the past', async () => {
    for (const change of [`deadline_at = 'infinity'`, `run_at = '-infinity'`]) {
      const id = await odd(change, 'runs');
      expect(await claimOne(file.db, id)).toMatchObject({ decision: 'claimed' });
      expect((await rowOf(file.db, id)).status).toBe('running');
    }
  });

  it('no error says so to a delivery', async () => {
    const id = await odd(`status = 'failed', error = 'null', finished_at = now()`, 'failed');
    expect(await claimOne(file.db, id)).toMatchObject({ decision: 'failed', error: { code: 'INTERNAL' } });
  });
});
