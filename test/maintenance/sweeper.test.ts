/** The sweep: folding beside readers, redrives and other sweeps, and retention by policy. */
import { Redis } from 'ioredis';
import { sql } from 'kysely';
import { beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { setPolicy } from '../../src/db/retention.ts';
import { findUnfolded, foldStream, planFold } from '../../src/db/streams/fold.ts';
import { defineJob, type StreamEvent } from '../../src/index.ts';
import { ChannelHub } from '../../src/journal/channel.ts';
import { Followers } from '../../src/journal/follower.ts';
import { LiveKey } from '../../src/journal/seal.ts';
import { silentLogger } from '../../src/log.ts';
import { type SweepReport, sweepOnce } from '../../src/maintenance/sweeper.ts';
import { uuidV7 } from '../../src/util/uuid.ts';
import { claimFree, insertJob, journalOf, rowOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';
import { backdateEnd, openStream, segmentsOf } from '../helpers/streams.ts';

const file = useDatabase();

const DAY = 86_400_000;
const DEFAULTS = { streamMs: 7 * DAY, jobMs: 30 * DAY };
const expired = () => undefined;

beforeEach(async () => {
  await sql`
    truncate oncefleet.jobs, oncefleet.ended_attempts, oncefleet.stream_heads, oncefleet.journal_segments, oncefleet.tenant_policies, oncefleet.retention_marks, oncefleet.retention_later,
      oncefleet.poison_alerts`.execute(file.db);
});

/** A round that does all there is to do. */
async function sweep(retention = DEFAULTS): Promise<SweepReport | undefined> {
  const round = await sweepOnce(file.db, { retention, expired, log: silentLogger() });
  expect(round?.more).toBe(false);
  return round?.report;
}

function createFollowers() {
  const redis = new Redis(testRedisUrl(), { autoResubscribe: false, maxRetriesPerRequest: null });
  onTestFinished(() => redis.disconnect());
  return new Followers({
    db: file.db,
    hub: new ChannelHub({ redis, key: new LiveKey(file.db), prefix: uniquePrefix(), log: silentLogger() }),
    log: silentLogger(),
    pollMs: 20,
    headCheckMs: 20,
  });
}

async function readAll(followers: Followers, streamId: string, after = -1): Promise<StreamEvent[]> {
  const events: StreamEvent[] = [];
  for await (const event of followers.follow({ streamId, tenant: 'default', after })) events.push(event);
  return events;
}

/** What readers are promised to keep. */
const story = (events: readonly StreamEvent[]) => events.map(({ seq, fence, json }) => [seq, fence, json]);

describe('folding', () => {
  it('leaves three segments or fewer of 10,000 small deltas, and every event as it was', async () => {
    const stream = await openStream(file.db);
    await stream.append(10_000, 7);
    await stream.end();
    const followers = createFollowers();
    const [before, viewBefore] = [await readAll(followers, stream.id), await journalOf(file.db, stream.id)];
    expect(await sweep()).toMatchObject({ foldedStreams: 1, segmentsBefore: 1_430, segmentsAfter: 2 });
    expect((await segmentsOf(file.db, stream.id)).length).toBeLessThanOrEqual(3);
    expect(story(await readAll(followers, stream.id))).toEqual(story(before));
    expect(await journalOf(file.db, stream.id)).toEqual(viewBefore);
    for (const after of [0, 6, 7, 4_999, 9_998, 9_999])
      expect(story(await readAll(followers, stream.id, after))).toEqual(story(before.slice(after + 1)));
  });

  it('keeps the fence of every event, of attempts in between and of a redrive', async () => {
    const stream = await openStream(file.db);
    for (let attempt = 0; attempt < 3; attempt++) {
      await stream.append(20);
      await stream.crash();
    }
    await stream.append(20);
    await stream.end('failed');
    await sweep();
    expect(await segmentsOf(file.db, stream.id)).toEqual([
      [0, 19, 1],
      [20, 39, 2],
      [40, 59, 3],
      [60, 80, 4],
    ]);
    await stream.redrive();
    await stream.append(40);
    await stream.end();
    const before = await journalOf(file.db, stream.id);
    await sweep();
    expect((await segmentsOf(file.db, stream.id)).slice(4)).toEqual([[81, 121, 5]]);
    expect(await journalOf(file.db, stream.id)).toEqual(before);
  });

  it('leaves open streams and short ones alone, and each stream once it is done', async () => {
    const [open, short, long] = [await openStream(file.db), await openStream(file.db), await openStream(file.db)];
    await open.append(40);
    await short.append(31);
    await short.end();
    await long.append(40);
    await long.end();
    expect(await findUnfolded(file.db, undefined, 10)).toEqual([long.id]);
    expect(await sweep()).toMatchObject({ foldedStreams: 1 });
    expect(await segmentsOf(file.db, open.id)).toHaveLength(40);
    expect(await segmentsOf(file.db, short.id)).toHaveLength(32);
    expect(await segmentsOf(file.db, long.id)).toEqual([[0, 40, 1]]);
    expect(await sweep()).toMatchObject({ foldedStreams: 0 });
  });

  it('folds what was ended from outside', async () => {
    const fleet = createTestFleet(file.url, []);
    const stream = await openStream(file.db);
    await stream.append(40);
    await sql`update oncefleet.jobs set lease_expires_at = clock_timestamp() where id = ${stream.id}`.execute(file.db);
    await fleet.cancel(stream.id);
    await sweep();
    expect(await segmentsOf(file.db, stream.id)).toEqual([
      [0, 39, 1],
      [40, 40, 2],
    ]);
  });

  it('lets a reader in the middle of it read every event once', async () => {
    const stream = await openStream(file.db);
    await stream.append(300);
    await stream.end();
    const whole = story(await readAll(createFollowers(), stream.id));
    // Within the first page, at its end, past it; the reader holds what it read before the fold.
    for (const stop of [1, 31, 32, 33, 150, 299]) {
      const reader = createFollowers().follow({ streamId: stream.id, tenant: 'default', after: -1 });
      const seen: StreamEvent[] = [];
      while (seen.length < stop) seen.push((await reader.next()).value as StreamEvent);
      await foldStream(file.db, stream.id);
      for await (const event of reader) seen.push(event);
      expect(story(seen)).toEqual(whole);
      await unfold(stream.id, 300);
    }
  });

  it('shows a reader the stream as before until it commits, and holds nobody up', async () => {
    const stream = await openStream(file.db);
    await stream.append(100);
    await stream.end();
    const whole = story(await readAll(createFollowers(), stream.id));
    const { folding, release } = await holdFold(stream.id);
    expect(story(await readAll(createFollowers(), stream.id))).toEqual(whole);
    const reader = createFollowers().follow({ streamId: stream.id, tenant: 'default', after: -1 });
    const seen: StreamEvent[] = [];
    while (seen.length < 40) seen.push((await reader.next()).value as StreamEvent);
    release();
    expect(await folding).toEqual({ before: 101, after: 1 });
    for await (const event of reader) seen.push(event);
    expect(story(seen)).toEqual(whole);
  });

  it('passes over a stream whose head somebody holds, and folds it later', async () => {
    const [held, free] = [await openStream(file.db), await openStream(file.db)];
    for (const stream of [held, free]) {
      await stream.append(40);
      await stream.end();
    }
    await file.db.transaction().execute(async (trx) => {
      await sql`select 1 from oncefleet.stream_heads where stream_id = ${held.id} for update`.execute(trx);
      expect(await sweep()).toMatchObject({ foldedStreams: 1 });
    });
    expect(await segmentsOf(file.db, held.id)).toHaveLength(41);
    expect(await sweep()).toMatchObject({ foldedStreams: 1 });
  });

  it('stops at a redrive: the stream is as it was, and is folded when it has ended again', async () => {
    const stream = await openStream(file.db);
    await stream.append(40);
    await stream.end('failed');
    await stream.redrive();
    expect(await foldStream(file.db, stream.id)).toBeUndefined();
    expect(await segmentsOf(file.db, stream.id)).toHaveLength(41);
    await stream.end();
    await sweep();
    expect(await segmentsOf(file.db, stream.id)).toEqual([
      [0, 40, 1],
      [41, 41, 2],
    ]);
  });

  it('done by two at once is done once', async () => {
    const stream = await openStream(file.db);
    await stream.append(200);
    await stream.end();
    const before = await journalOf(file.db, stream.id);
    const { folding, release } = await holdFold(stream.id);
    const other = await foldStream(file.db, stream.id);
    release();
    expect([other, await folding]).toEqual([undefined, { before: 201, after: 1 }]);
    expect(await segmentsOf(file.db, stream.id)).toEqual([[0, 200, 1]]);
    expect(await journalOf(file.db, stream.id)).toEqual(before);
  });

  it('plans groups of one fence, no larger than the limit, and none across a gap', () => {
    const segment = (firstSeq: number, lastSeq: number, fence: number, bytes: number) => ({
      firstSeq,
      lastSeq,
      fence,
      bytes,
    });
    expect(
      planFold(
        [
          segment(0, 3, 1, 40),
          segment(4, 4, 1, 60),
          segment(5, 5, 1, 1),
          segment(6, 6, 2, 1),
          segment(7, 7, 2, 500),
          segment(8, 8, 2, 1),
          segment(10, 10, 2, 1),
        ],
        100,
      ),
    ).toEqual([
      { firstSeq: 0, lastSeq: 4, segments: 2 },
      { firstSeq: 5, lastSeq: 5, segments: 1 },
      { firstSeq: 6, lastSeq: 6, segments: 1 },
      { firstSeq: 7, lastSeq: 7, segments: 1 },
      { firstSeq: 8, lastSeq: 8, segments: 1 },
      { firstSeq: 10, lastSeq: 10, segments: 1 },
    ]);
  });

  it('goes through a stream of more segments than it plans at once', async () => {
    const stream = await openStream(file.db);
    await stream.append(1);
    // Written at once: thousands of appends would only make the test slow.
    await sql`
      insert into oncefleet.journal_segments (stream_id, first_seq, last_seq, fence, events)
      select ${stream.id}, n, n, 1, ('[{"type":"delta","n":' || n || '}]')::json from generate_series(1, 4500) n`.execute(
      file.db,
    );
    await sql`update oncefleet.stream_heads set next_seq = 4501, state = 'closed', fold_due = true where stream_id = ${stream.id}`.execute(
      file.db,
    );
    expect(await sweep()).toMatchObject({ segmentsBefore: 4_501, segmentsAfter: 1 });
    expect(await segmentsOf(file.db, stream.id)).toEqual([[0, 4_500, 1]]);
    expect((await journalOf(file.db, stream.id)).length).toBe(4_501);
  });

  it('is done by one process at a time', async () => {
    await file.db.transaction().execute(async (trx) => {
      await sql`select pg_advisory_xact_lock(${0x73776570})`.execute(trx);
      expect(await sweepOnce(file.db, { retention: DEFAULTS, expired, log: silentLogger() })).toBeUndefined();
    });
    expect(await sweep()).toBeDefined();
  });

  it('is done by workers in the background', async () => {
    const job = defineJob({
      name: 'talk',
      input: z.object({}),
      async run(_input, ctx) {
        for (let n = 0; n < 50; n++) {
          await ctx.emit({ type: 'delta', n });
          await ctx.flush();
        }
      },
    });
    const fleet = createTestFleet(file.url, [job], { sweepMs: 50 });
    await fleet.work();
    const { id, result } = await fleet.enqueue(job, {});
    await result();
    await expect.poll(() => segmentsOf(file.db, id), { timeout: 10_000 }).toEqual([[0, 50, 1]]);
  });
});

/** Starts a fold that waits, with its lock held, before it merges. */
async function holdFold(id: string) {
  const held = Promise.withResolvers<void>();
  const locked = Promise.withResolvers<void>();
  const holding = file.db.transaction().execute(async (trx) => {
    // The merge deletes this row, so it waits for us; it has the head by then.
    await sql`select 1 from oncefleet.journal_segments where stream_id = ${id} and first_seq = 5 for update`.execute(
      trx,
    );
    locked.resolve();
    await held.promise;
  });
  await locked.promise;
  const folding = foldStream(file.db, id);
  const waiting = async () =>
    (
      await sql<{
        n: number;
      }>`select count(*)::int as n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`.execute(
        file.db,
      )
    ).rows[0]?.n;
  await expect.poll(waiting, { timeout: 10_000 }).toBe(1);
  return {
    folding: Promise.all([folding, holding]).then(([folded]) => folded),
    release: held.resolve,
  };
}

/** One segment an event again. */
async function unfold(id: string, deltas: number): Promise<void> {
  await file.db.transaction().execute(async (trx) => {
    const events = await sql<{ seq: number; fence: number; event: string }>`
      select seq, fence, event::text as event from oncefleet.journal_events where stream_id = ${id}`.execute(trx);
    expect(events.rows).toHaveLength(deltas + 1);
    await sql`delete from oncefleet.journal_segments where stream_id = ${id}`.execute(trx);
    for (const { seq, fence, event } of events.rows)
      await sql`
        insert into oncefleet.journal_segments (stream_id, first_seq, last_seq, fence, events)
        values (${id}, ${seq}, ${seq}, ${fence}, ${`[${event}]`})`.execute(trx);
  });
}

describe('retention', () => {
  it('removes events first and the job later, each at its own limit, and says what is gone', async () => {
    const [young, old, ancient] = [
      await openStream(file.db, { ageMs: 6 * DAY }),
      await openStream(file.db, { ageMs: 8 * DAY }),
      await openStream(file.db, { ageMs: 31 * DAY }),
    ];
    for (const stream of [young, old, ancient]) {
      await stream.append(3);
      await stream.end();
    }
    for (const { id } of [old, ancient])
      await sql`insert into oncefleet.poison_alerts (job_id, fence, tenant, name, queue, crashes, due_at)
        values (${id}, 1, 'default', 'gone', 'gone', 1, clock_timestamp())`.execute(file.db);
    expect(await sweep()).toMatchObject({ expiredStreams: 1, removedJobs: 1 });
    expect(await file.db.selectFrom('poison_alerts').select('job_id').execute()).toEqual([{ job_id: old.id }]);
    const followers = createFollowers();
    expect(await readAll(followers, young.id)).toHaveLength(4);
    expect(await segmentsOf(file.db, old.id)).toEqual([]);
    expect((await rowOf(file.db, old.id)).result).toBe('{"ok":true}');
    for (const after of [-1, 0, 2])
      await expect(readAll(followers, old.id, after)).rejects.toMatchObject({ code: 'STREAM_EXPIRED' });
    await expect(followers.readPage(old.id, 'default', -1, 10)).rejects.toMatchObject({ code: 'STREAM_EXPIRED' });
    // Who has read to the end is told that it is the end.
    expect(await readAll(followers, old.id, 3)).toEqual([]);
    await expect(readAll(followers, ancient.id)).rejects.toMatchObject({ code: 'JOB_NOT_FOUND' });
    for (const table of ['jobs', 'ended_attempts', 'stream_heads', 'journal_segments'] as const) {
      const column = { jobs: 'id', ended_attempts: 'job_id', stream_heads: 'stream_id', journal_segments: 'stream_id' }[
        table
      ];
      const rows =
        await sql`select 1 from ${sql.table(`oncefleet.${table}`)} where ${sql.ref(column)} = ${ancient.id}`.execute(
          file.db,
        );
      expect(rows.rows, table).toEqual([]);
    }
  });

  it('stops a reader that is in the middle when its events go, and does not let it hang', async () => {
    const stream = await openStream(file.db, { ageMs: 8 * DAY });
    await stream.append(100);
    await stream.end();
    const reader = createFollowers().follow({ streamId: stream.id, tenant: 'default', after: -1 });
    for (let n = 0; n < 3; n++) await reader.next();
    await sweep();
    const rest = (async () => {
      for await (const _ of reader);
    })();
    await expect(rest).rejects.toMatchObject({ code: 'STREAM_EXPIRED' });
  });

  it('follows the policy of the tenant, which may be longer, shorter or never', async () => {
    const ages = { lasting: 400 * DAY, brief: 2 * DAY, archive: 9 * DAY, default: 2 * DAY };
    const streams = new Map<string, string>();
    for (const [tenant, ageMs] of Object.entries(ages)) {
      const stream = await openStream(file.db, { tenant, ageMs });
      await stream.append(2);
      await stream.end();
      streams.set(tenant, stream.id);
    }
    await setPolicy(file.db, 'lasting', { streamMs: Number.POSITIVE_INFINITY, jobMs: Number.POSITIVE_INFINITY });
    await setPolicy(file.db, 'brief', { jobMs: DAY });
    await setPolicy(file.db, 'archive', { streamMs: 10 * DAY });
    expect(await sweep()).toMatchObject({ expiredStreams: 0, removedJobs: 1 });
    const left = await file.db.selectFrom('jobs').select('tenant').orderBy('tenant').execute();
    expect(left.map((row) => row.tenant)).toEqual(['archive', 'default', 'lasting']);
    expect(await segmentsOf(file.db, streams.get('lasting') as string)).not.toEqual([]);
    // Back to the fleet's default, the tenant is treated like all others.
    await setPolicy(file.db, 'lasting', { streamMs: null, jobMs: null });
    await setPolicy(file.db, 'archive', { streamMs: 3 * DAY });
    expect(await sweep()).toMatchObject({ expiredStreams: 1, removedJobs: 1 });
  });

  it('never removes a job that has not ended, and removes it in time when it ends late', async () => {
    const late = await openStream(file.db, { ageMs: 40 * DAY });
    await late.append(2);
    const pending = await insertJob(file.db, {
      id: late.id.replace(/.$/, (last) => (last === '0' ? '1' : '0')),
      delayMs: DAY,
    });
    expect(await sweep()).toMatchObject({ expiredStreams: 0, removedJobs: 0 });
    await late.end();
    await backdateEnd(file.db, late.id, -40 * DAY);
    await lookNow();
    expect(await sweep()).toMatchObject({ expiredStreams: 0, removedJobs: 0 });
    await backdateEnd(file.db, late.id, 8 * DAY);
    await lookNow();
    expect(await sweep()).toMatchObject({ expiredStreams: 1, removedJobs: 0 });
    await backdateEnd(file.db, late.id, 30 * DAY);
    await lookNow();
    expect(await sweep()).toMatchObject({ expiredStreams: 0, removedJobs: 1 });
    const left = await file.db.selectFrom('jobs').select('id').execute();
    expect(left).toEqual([{ id: pending }]);
    // What was put down for the job went with it.
    const later = await file.db.selectFrom('retention_later').select('job_id').execute();
    expect(new Set(later.map((row) => row.job_id))).toEqual(new Set([pending]));
  });

  it('looks at each job once, and at a waiting one no more than daily', async () => {
    await (await openStream(file.db, { ageMs: 40 * DAY })).append(2);
    await sweep();
    const marks = await file.db.selectFrom('retention_marks').selectAll().orderBy('kind').execute();
    expect(marks.map(({ tenant, kind }) => [tenant, kind])).toEqual([
      ['default', 'job'],
      ['default', 'stream'],
    ]);
    const due = await sql<{ due: boolean }>`
      select look_at between clock_timestamp() + interval '30 seconds' and clock_timestamp() + interval '1 day' as due
      from oncefleet.retention_later`.execute(file.db);
    expect(due.rows).toEqual([{ due: true }, { due: true }]);
  });

  it('keeps a job while its key is held by it, and lets the key start anew afterwards', async () => {
    const job = defineJob({ name: 'keyed', input: z.object({}), run: async () => 1 });
    const fleet = createTestFleet(file.url, [job], { jobRetentionMs: 1_000, streamRetentionMs: 1_000, sweepMs: 0 });
    await fleet.work();
    const { id, result } = await fleet.enqueue(job, {}, { key: 'k' });
    await result();
    await sql`update oncefleet.jobs set finished_at = finished_at - interval '1 hour', created_at = created_at - interval '1 hour' where id = ${id}`.execute(
      file.db,
    );
    // Of ids made just now the walk knows that they are young.
    const aged = await withOlderId(id);
    await fleet.sweep();
    expect(await fleet.enqueue(job, {}, { key: 'k' })).toMatchObject({ id: aged, outcome: 'replayed' });
    await sql`update oncefleet.jobs set expires_at = clock_timestamp() where id = ${aged}`.execute(file.db);
    await lookNow();
    expect(await fleet.sweep()).toMatchObject({ removedJobs: 1, busy: false });
    expect(await fleet.enqueue(job, {}, { key: 'k' })).toMatchObject({ outcome: 'created' });
  });

  it('leaves a job that is redriven just then, and what is locked until later', async () => {
    const stream = await openStream(file.db, { ageMs: 31 * DAY });
    await stream.append(2);
    await stream.end('failed');
    await file.db.transaction().execute(async (trx) => {
      await sql`select 1 from oncefleet.jobs where id = ${stream.id} for update`.execute(trx);
      expect(await sweep()).toMatchObject({ removedJobs: 0, expiredStreams: 0 });
    });
    expect(await segmentsOf(file.db, stream.id)).toHaveLength(3);
    await stream.redrive();
    await lookNow();
    expect(await sweep()).toMatchObject({ removedJobs: 0, expiredStreams: 0 });
    expect((await rowOf(file.db, stream.id)).status).toBe('running');
  });

  it('of a redriven job leaves what came after the removal, readable from there on', async () => {
    const stream = await openStream(file.db, { ageMs: 8 * DAY });
    await stream.append(3);
    await stream.end('failed');
    expect(await sweep()).toMatchObject({ expiredStreams: 1 });
    await stream.redrive();
    await stream.append(2);
    const followers = createFollowers();
    await expect(followers.readPage(stream.id, 'default', -1, 10)).rejects.toMatchObject({
      code: 'STREAM_EXPIRED',
      details: { keptFrom: 4 },
    });
    expect((await followers.readPage(stream.id, 'default', 3, 10)).events.map(({ seq }) => seq)).toEqual([4, 5]);
  });

  it('has nothing to remove of the stream of an eventless job, whose end is in its row', async () => {
    const id = await insertJob(file.db, { id: uuidV7(Date.now() - 8 * DAY) });
    await claimFree(file.db, id);
    const stream = createTestFleet(file.url, []);
    await sql`update oncefleet.jobs set lease_expires_at = null, lease_owner = null, status = 'completed', result = '1', finished_at = clock_timestamp() - interval '8 days' where id = ${id}`.execute(
      file.db,
    );
    expect(await sweep()).toMatchObject({ expiredStreams: 0 });
    expect((await stream.readEvents(id)).events).toMatchObject([{ seq: 0, event: { type: 'end', result: 1 } }]);
  });

  it('goes on in the next round where the time of one is not enough', async () => {
    for (let n = 0; n < 3; n++) await (await openStream(file.db, { ageMs: 31 * DAY })).end();
    const stop = new AbortController();
    stop.abort();
    const round = await sweepOnce(file.db, { retention: DEFAULTS, expired, log: silentLogger(), signal: stop.signal });
    expect(round).toMatchObject({ more: true, report: { removedJobs: 0 } });
    expect(await sweep()).toMatchObject({ removedJobs: 3 });
  });
});

/** As if it were time to look again at what was put down for later. */
async function lookNow(): Promise<void> {
  await sql`update oncefleet.retention_later set look_at = clock_timestamp()`.execute(file.db);
}

/** The row under an id that was made an hour ago. */
async function withOlderId(id: string): Promise<string> {
  const ms = Number.parseInt(id.replace('-', '').slice(0, 12), 16) - 3_600_000;
  const hex = ms.toString(16).padStart(12, '0');
  const older = `${hex.slice(0, 8)}-${hex.slice(8)}${id.slice(13)}`;
  await sql`update oncefleet.jobs set id = ${older} where id = ${id}`.execute(file.db);
  return older;
}
