import { sql } from 'kysely';
import { describe, expect, it } from 'vitest';
import { claimJobs } from '../../../src/db/jobs/claim.ts';
import { settleJobs } from '../../../src/db/jobs/settle.ts';
import { defineLimits, pauseKeys, tidyKeys, wakeKeys } from '../../../src/db/limits.ts';
import { uuidV7 } from '../../../src/util/uuid.ts';
import { claimOne, expireLease, insertJob, rowOf, settlement, useDatabase } from '../../helpers/fixtures.ts';

const file = useDatabase();

/** A limit and a key of its own for each test. */
async function newKey(numbers: { concurrency?: number; rate?: { max: number; perMs: number } }): Promise<string> {
  const name = `limit-${uuidV7()}`;
  await defineLimits(file.db, [{ name, ...numbers }]);
  return `${name}/key`;
}

const insertUnder = (...keys: string[]) => insertJob(file.db, { limitKeys: JSON.stringify(keys) });

/** As a delivery to a worker of the fleet, whose row says when the job runs. */
const claim = (id: string) => claimOne(file.db, id, { early: false });

async function claimAll(ids: readonly string[]): Promise<string[]> {
  const answers = await claimJobs(
    file.db,
    ids.map((id) => ({ id, owner: uuidV7(), ttlMs: 60_000, maxCrashes: 5, delivery: 0, own: true })),
    'worker',
  );
  return answers.map(({ decision }) => decision);
}

function againOf(answer: Awaited<ReturnType<typeof claim>>) {
  if (answer.decision !== 'limited') throw new Error(answer.decision);
  return answer.again;
}

const endRun = (id: string, fence = 1) => settleJobs(file.db, [settlement(id, fence)]);
const wokenBy = async (...keys: string[]) => (await wakeKeys(file.db, keys)).jobs.map(({ id }) => id);
const waitOf = (id: string) =>
  file.db.selectFrom('limit_waits').selectAll().where('job_id', '=', id).executeTakeFirst();

describe('a limit on how many run at once', () => {
  it('gives out as many places as there are, in one batch and in several, and the row says that it waits', async () => {
    const key = await newKey({ concurrency: 3 });
    const ids = await Promise.all(Array.from({ length: 5 }, () => insertUnder(key)));
    expect((await claimAll(ids.slice(0, 2))).sort()).toEqual(['claimed', 'claimed']);
    expect((await claimAll(ids.slice(2))).sort()).toEqual(['claimed', 'limited', 'limited']);
    const rows = await Promise.all(ids.map((id) => rowOf(file.db, id)));
    const limited = rows.filter(({ status }) => status === 'pending');
    expect(limited).toHaveLength(2);
    for (const row of limited) {
      expect(row).toMatchObject({ fence: 0, limited_count: 1, crash_count: 0 });
      expect(row.run_at.getTime()).toBeGreaterThan(Date.now() + 1_800_000);
      expect(await waitOf(row.id)).toMatchObject({ key, woken_at: null });
    }
  });

  it('never gives out more, however many claim at the same time on connections of their own', async () => {
    const key = await newKey({ concurrency: 3 });
    const ids = await Promise.all(Array.from({ length: 24 }, () => insertUnder(key)));
    const decisions = (await Promise.all(ids.map((id) => claim(id)))).map(({ decision }) => decision);
    expect(decisions.filter((decision) => decision === 'claimed')).toHaveLength(3);
    expect(decisions.filter((decision) => decision === 'limited')).toHaveLength(21);
  });

  it('an end wakes the one that has waited longest, and its place is kept for it', async () => {
    const key = await newKey({ concurrency: 1 });
    const [first, second, third, late] = await Promise.all([1, 2, 3, 4].map(() => insertUnder(key)));
    if (!first || !second || !third || !late) throw new Error('no jobs');
    await claim(first);
    await claim(second);
    await claim(third);
    expect(await wokenBy(key)).toEqual([]);
    await endRun(first);
    expect(await wokenBy(key)).toEqual([second]);
    expect(await wokenBy(key), 'the place is kept').toEqual([]);
    expect((await claim(late)).decision).toBe('limited');
    expect((await claim(third)).decision).not.toBe('claimed');
    expect(await claim(second)).toMatchObject({ decision: 'claimed', job: { limitKeys: [key] } });
    expect(await waitOf(second)).toBeUndefined();
  });

  it('one that comes while others wait queues behind them, though a place is free', async () => {
    const key = await newKey({ concurrency: 1 });
    const [holder, waits, early] = await Promise.all([1, 2, 3].map(() => insertUnder(key)));
    if (!holder || !waits || !early) throw new Error('no jobs');
    await claim(holder);
    await claim(waits);
    await endRun(holder);
    expect(await claim(early)).toMatchObject({ decision: 'limited', again: [{ key, againInMs: 0 }] });
    expect(await wokenBy(key)).toEqual([waits]);
  });

  it('a lease that expires gives its place back, and the job that lost it comes first', async () => {
    const key = await newKey({ concurrency: 1 });
    const [killed, waits] = await Promise.all([1, 2].map(() => insertUnder(key)));
    if (!killed || !waits) throw new Error('no jobs');
    await claim(killed);
    await claim(waits);
    await expireLease(file.db, killed);
    expect(await claim(killed)).toMatchObject({ decision: 'claimed', job: { fence: 2, crashCount: 1 } });
    await expireLease(file.db, killed);
    expect(await wokenBy(key)).toEqual([waits]);
    expect((await claim(waits)).decision).toBe('claimed');
    expect((await claim(killed)).decision).toBe('limited');
    expect(await rowOf(file.db, killed)).toMatchObject({ status: 'running', fence: 2 });
    await endRun(waits);
    expect(await wokenBy(key)).toEqual([killed]);
    expect(await claim(killed)).toMatchObject({ decision: 'claimed', job: { fence: 3, crashCount: 2 } });
  });

  it('a claim whose answer was lost finds the place that it has', async () => {
    const key = await newKey({ concurrency: 1 });
    const id = await insertUnder(key);
    const owner = uuidV7();
    expect((await claimOne(file.db, id, { early: false, owner })).decision).toBe('claimed');
    expect(await claimOne(file.db, id, { early: false, owner })).toMatchObject({
      decision: 'claimed',
      job: { fence: 1 },
    });
  });

  it('a job of two keys takes both places or none, and gives the one back that was kept for it', async () => {
    const [a, b] = [await newKey({ concurrency: 1 }), await newKey({ concurrency: 1 })];
    const [ofA, ofB, ofBoth, next] = [
      await insertUnder(a),
      await insertUnder(b),
      await insertUnder(a, b),
      await insertUnder(a),
    ];
    await claim(ofA);
    await claim(ofB);
    expect(await claim(ofBoth)).toMatchObject({ decision: 'limited', key: a });
    await claim(next);
    await endRun(ofA);
    expect(await wokenBy(a)).toEqual([ofBoth]);
    const answer = await claim(ofBoth);
    expect(answer).toMatchObject({ decision: 'limited', key: b });
    expect(againOf(answer)).toContainEqual({ key: a, againInMs: 0 });
    expect(await wokenBy(a)).toEqual([next]);
    await endRun(ofB);
    expect(await wokenBy(b)).toEqual([ofBoth]);
  });

  it('a place kept for a job that does not come goes to the next one, and the job behind the others', async () => {
    const key = await newKey({ concurrency: 1 });
    const [holder, absent, next] = [await insertUnder(key), await insertUnder(key), await insertUnder(key)];
    for (const id of [holder, absent, next]) await claim(id);
    await endRun(holder);
    expect(await wokenBy(key)).toEqual([absent]);
    await sql`update oncefleet.limit_waits set woken_at = clock_timestamp() - interval '1 minute' where job_id = ${absent}`.execute(
      file.db,
    );
    await tidyKeys(file.db, [key]);
    expect(await wokenBy(key)).toEqual([next]);
    expect(await waitOf(absent)).toMatchObject({ woken_at: null });
  });

  it('numbers that a later worker defines hold for jobs that wait already', async () => {
    const name = `limit-${uuidV7()}`;
    const key = `${name}/key`;
    await defineLimits(file.db, [{ name, concurrency: 1 }]);
    const ids = [await insertUnder(key), await insertUnder(key), await insertUnder(key)];
    for (const id of ids) await claim(id);
    expect(await defineLimits(file.db, [{ name, concurrency: 1 }])).toEqual([]);
    expect(await defineLimits(file.db, [{ name, concurrency: 3 }])).toEqual([name]);
    expect((await wokenBy(key)).sort()).toEqual(ids.slice(1).sort());
  });
});

describe('a limit on how many start in a time', () => {
  it('holds for any window, and says when the next place comes free', async () => {
    const key = await newKey({ rate: { max: 2, perMs: 60_000 } });
    const ids = await Promise.all(Array.from({ length: 4 }, () => insertUnder(key)));
    expect((await claimAll(ids.slice(0, 3))).sort()).toEqual(['claimed', 'claimed', 'limited']);
    for (const id of ids.slice(0, 2)) await endRun(id);
    const answer = await claim(ids[3] as string);
    expect(answer).toMatchObject({ decision: 'limited', key });
    const [again] = againOf(answer);
    expect(again?.againInMs).toBeGreaterThan(50_000);
    expect(again?.againInMs).toBeLessThanOrEqual(60_000);
    await tidyKeys(file.db, [key]);
    expect(await wokenBy(key), 'starts are counted as long as the window has them').toEqual([]);
    await sql`update oncefleet.limit_places set started_at = started_at - interval '1 minute' where key = ${key}`.execute(
      file.db,
    );
    expect(await wokenBy(key)).toHaveLength(2);
  });

  it('counts a retry as a start', async () => {
    const key = await newKey({ rate: { max: 2, perMs: 60_000 } });
    const id = await insertUnder(key);
    for (const fence of [1, 2]) {
      expect((await claim(id)).decision).toBe('claimed');
      await settleJobs(file.db, [settlement(id, fence, { status: 'pending', outcome: 'error', result: null })]);
    }
    expect((await claim(id)).decision).toBe('limited');
  });
});

describe('pauses and tenants', () => {
  it('a paused queue starts nothing, jobs without limits neither, until the pause is over', async () => {
    const queue = `queue-${uuidV7()}`;
    const id = await insertJob(file.db, { queue });
    await pauseKeys(file.db, [`@queue/${queue}`], 60_000);
    expect(await claim(id)).toMatchObject({ decision: 'limited', key: `@queue/${queue}` });
    expect(await wokenBy(`@queue/${queue}`)).toEqual([]);
    await sql`update oncefleet.limit_keys set paused_until = clock_timestamp() where key = ${`@queue/${queue}`}`.execute(
      file.db,
    );
    expect(await wokenBy(`@queue/${queue}`)).toEqual([id]);
    expect((await claim(id)).decision).toBe('claimed');
  });

  it('a shorter pause does not end a longer one', async () => {
    const key = await newKey({ concurrency: 1 });
    await pauseKeys(file.db, [key], 60_000);
    await pauseKeys(file.db, [key], 1);
    const answer = await claim(await insertUnder(key));
    expect(againOf(answer)[0]?.againInMs).toBeGreaterThan(50_000);
  });

  it('a limit of a tenant holds for all of its jobs, and for no other tenant', async () => {
    const tenant = `tenant-${uuidV7()}`;
    await file.db.insertInto('tenant_limits').values({ tenant, concurrency: 1 }).execute();
    const [a, b] = [await insertJob(file.db, { tenant }), await insertJob(file.db, { tenant })];
    expect((await claim(a)).decision).toBe('claimed');
    expect(await claim(b)).toMatchObject({ decision: 'limited', key: `@tenant/${tenant}` });
    expect((await claim(await insertJob(file.db))).decision).toBe('claimed');
  });

  it('a job around a processor of the user, which BullMQ times, is not held back', async () => {
    const tenant = `tenant-${uuidV7()}`;
    await file.db.insertInto('tenant_limits').values({ tenant, concurrency: 1 }).execute();
    for (const id of [await insertJob(file.db, { tenant }), await insertJob(file.db, { tenant })])
      expect((await claimOne(file.db, id, { early: true })).decision).toBe('claimed');
  });
});

describe('what is left behind', () => {
  it('ended jobs wait no more, used places and keys go, and a window is not forgotten', async () => {
    const key = await newKey({ concurrency: 1 });
    const [holder, waits] = [await insertUnder(key), await insertUnder(key)];
    await claim(holder);
    await claim(waits);
    await endRun(holder);
    await sql`update oncefleet.jobs set status = 'cancelled', finished_at = clock_timestamp() where id = ${waits}`.execute(
      file.db,
    );
    await tidyKeys(file.db, [key]);
    expect(await waitOf(waits)).toBeUndefined();
    for (const table of ['limit_places', 'limit_keys'] as const)
      expect(await file.db.selectFrom(table).select('key').where('key', '=', key).execute()).toEqual([]);
  });
});
