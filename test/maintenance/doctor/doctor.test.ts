/** Each disagreement made for real, seen by the doctor, repaired by it, and gone. */
import type { Queue } from 'bullmq';
import { sql } from 'kysely';
import { beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { findServerState } from '../../../src/db/doctor.ts';
import { migrate } from '../../../src/db/migrate.ts';
import { defineJob } from '../../../src/index.ts';
import { type Diagnosis, oneOfAKind } from '../../../src/maintenance/doctor/diagnosis.ts';
import { DISAGREEMENTS, type DisagreementKind } from '../../../src/maintenance/doctor/disagreements.ts';
import { type DoctorOptions, diagnose as diagnoseFleet } from '../../../src/maintenance/doctor/doctor.ts';
import { Runtime } from '../../../src/runtime/runtime.ts';
import { dropDatabase, execute, uniqueName } from '../../../src/testing/services/databases.ts';
import { uuidV7 } from '../../../src/util/uuid.ts';
import {
  backdateJob,
  claimFree,
  expireLease,
  insertJob,
  journalOf,
  rowOf,
  useDatabase,
} from '../../helpers/fixtures.ts';
import { createTestFleet } from '../../helpers/fleet.ts';
import { startTestRedis, testRedisUrl, uniquePrefix } from '../../helpers/services.ts';

const file = useDatabase();
const job = defineJob({ name: 'job', input: z.object({}), maxCrashes: 1, run: async () => 1 });
const jobs = new Map([[job.name, job]]);

/** Nothing is under way in most of these tests. */
const diagnose = (runtime: Runtime, known: typeof jobs, options: DoctorOptions = {}) =>
  diagnoseFleet(runtime, known, { lookAgainMs: 50, ...options });

/** What a fleet without workers is told of, beside what a test makes. */
const IDLE = new Set(['no-workers', 'no-reconciler']);

beforeEach(async () => {
  await sql`truncate oncefleet.jobs, oncefleet.unfinished_jobs, oncefleet.ended_attempts, oncefleet.stream_heads, oncefleet.journal_segments, oncefleet.dispatch_outbox, oncefleet.reconciler_rounds,
    oncefleet.poison_alerts, oncefleet.paused_queues`.execute(file.db);
});

async function createRuntime(redisUrl = testRedisUrl(), databaseUrl = file.url): Promise<Runtime> {
  const runtime = new Runtime({ databaseUrl, redisUrl, prefix: uniquePrefix() });
  onTestFinished(() => runtime.close());
  await expect.poll(() => runtime.redis.status).toBe('ready');
  runtime.dispatcher.queue('job');
  return runtime;
}

/** A row and its BullMQ job, in order. */
async function createDispatched(
  runtime: Runtime,
  overrides: { delayMs?: number; priority?: number } = {},
): Promise<string> {
  const { delayMs = 0, priority = 0 } = overrides;
  const options = { priority, attempts: 3, backoff: { type: 'fixed' as const, delayMs: 0 } };
  const id = await insertJob(file.db, { delayMs, options });
  const row = { id, tenant: 'default', name: 'job', queue: 'job', key: null, options, delayMs };
  await runtime.dispatcher.dispatch(row, 'client');
  return id;
}

const key = (runtime: Runtime, name: string) => runtime.dispatcher.queue('job').toKey(name);

async function endRow(id: string, status: 'completed' | 'failed'): Promise<void> {
  await sql`update oncefleet.jobs set status = ${status}, finished_at = clock_timestamp() - interval '10 s',
      expires_at = clock_timestamp() + interval '1 h', lease_owner = null, lease_expires_at = null,
      error = case when ${status} = 'failed' then '{"code":"HANDLER_ERROR","message":"no"}'::json end
    where id = ${id}`.execute(file.db);
}

/** As BullMQ writes a job that ended. */
async function endInBull(runtime: Runtime, id: string, set: 'completed' | 'failed'): Promise<void> {
  const now = Date.now();
  await runtime.redis
    .multi()
    .lrem(key(runtime, 'wait'), 0, id)
    .zadd(key(runtime, set), now, id)
    .hset(key(runtime, id), 'finishedOn', now, 'processedOn', now, 'atm', 1)
    .exec();
}

/** A started stream: one event, the head open. */
async function openStream(id: string): Promise<void> {
  await sql`insert into oncefleet.stream_heads (stream_id, fence, next_seq) values (${id}, 1, 1)`.execute(file.db);
  await sql`insert into oncefleet.journal_segments (stream_id, first_seq, last_seq, fence, events)
    values (${id}, 0, 0, 1, '[{"type":"said"}]')`.execute(file.db);
}

interface Case {
  kind: DisagreementKind;
  how: string;
  make(runtime: Runtime): Promise<string>;
  /** Afterwards, beside the doctor's own word that all is well. */
  check(runtime: Runtime, id: string): Promise<void>;
}

const stateOf = (runtime: Runtime, id: string) => runtime.dispatcher.queue('job').getJobState(id);

const CASES: Case[] = [
  {
    kind: 'not-dispatched',
    how: 'a flush',
    async make(runtime) {
      const id = await createDispatched(runtime, { priority: 7 });
      await runtime.redis.del(await runtime.redis.keys(key(runtime, '*')));
      return id;
    },
    async check(runtime, id) {
      expect(await stateOf(runtime, id)).toBe('prioritized');
      expect((await runtime.dispatcher.queue('job').getJob(id))?.opts.priority).toBe(7);
    },
  },
  {
    kind: 'not-dispatched',
    how: 'a flush, with a delay left',
    async make(runtime) {
      const id = await createDispatched(runtime, { delayMs: 600_000 });
      await runtime.redis.del(await runtime.redis.keys(key(runtime, '*')));
      return id;
    },
    async check(runtime, id) {
      expect(await stateOf(runtime, id)).toBe('delayed');
      const delayMs = (await runtime.dispatcher.queue('job').getJob(id))?.delay ?? 0;
      expect(delayMs).toBeGreaterThan(550_000);
      expect(delayMs).toBeLessThanOrEqual(600_000);
    },
  },
  ...(['completed', 'failed'] as const).map(
    (set): Case => ({
      kind: 'ended-in-bullmq',
      how: `an end as ${set} that its row knows nothing of`,
      async make(runtime) {
        const id = await createDispatched(runtime);
        await endInBull(runtime, id, set);
        return id;
      },
      check: async (runtime, id) => expect(await stateOf(runtime, id)).toBe('waiting'),
    }),
  ),
  {
    kind: 'lost',
    how: 'an eviction of the list of waiting jobs',
    async make(runtime) {
      const id = await createDispatched(runtime);
      await runtime.redis.del(key(runtime, 'wait'));
      return id;
    },
    check: async (runtime, id) => expect(await stateOf(runtime, id)).toBe('waiting'),
  },
  {
    kind: 'deserted',
    how: 'a worker that died after it had told Postgres of an interruption',
    async make(runtime) {
      const id = await createDispatched(runtime);
      await runtime.redis.lmove(key(runtime, 'wait'), key(runtime, 'active'), 'RIGHT', 'LEFT');
      return id;
    },
    check: async (runtime, id) => expect(await stateOf(runtime, id)).toBe('waiting'),
  },
  {
    kind: 'late',
    how: 'a delay in BullMQ that its row does not have',
    async make(runtime) {
      const id = await createDispatched(runtime, { delayMs: 600_000 });
      await backdateJob(file.db, id, 600_000);
      return id;
    },
    check: async (runtime, id) => expect(await stateOf(runtime, id)).toBe('waiting'),
  },
  {
    kind: 'lease-expired',
    how: 'the death of its worker after a flush',
    async make() {
      const id = await insertJob(file.db);
      await claimFree(file.db, id);
      await expireLease(file.db, id);
      return id;
    },
    async check(runtime, id) {
      expect(await stateOf(runtime, id)).toBe('waiting');
      expect(await rowOf(file.db, id)).toMatchObject({ status: 'running', fence: 1 });
    },
  },
  {
    kind: 'unended',
    how: 'a crash too many',
    async make() {
      const id = await insertJob(file.db);
      for (let crash = 0; crash < 2; crash++) {
        await claimFree(file.db, id);
        await expireLease(file.db, id);
      }
      return id;
    },
    async check(_runtime, id) {
      expect(await rowOf(file.db, id)).toMatchObject({ status: 'failed', crash_count: 2 });
      expect((await journalOf(file.db, id)).map(({ event }) => event.type)).toEqual(['error']);
    },
  },
  {
    kind: 'unended',
    how: 'a deadline that passed while no worker lived',
    async make(runtime) {
      const id = await createDispatched(runtime);
      await sql`update oncefleet.jobs set deadline_at = clock_timestamp() where id = ${id}`.execute(file.db);
      return id;
    },
    async check(runtime, id) {
      expect(await rowOf(file.db, id)).toMatchObject({ status: 'failed' });
      expect(await stateOf(runtime, id)).toBe('unknown');
    },
  },
  ...[
    ['a cancel of a job that is delayed', 600_000],
    ['an end elsewhere', 0],
  ].map(
    ([how, delayMs]): Case => ({
      kind: 'superfluous',
      how: how as string,
      async make(runtime) {
        const id = await createDispatched(runtime, { delayMs: delayMs as number });
        await endRow(id, 'completed');
        return id;
      },
      check: async (runtime, id) => expect(await stateOf(runtime, id)).toBe('unknown'),
    }),
  ),
  {
    kind: 'without-row',
    how: 'a restored backup',
    async make(runtime) {
      const id = await createDispatched(runtime);
      await file.db.deleteFrom('jobs').where('id', '=', id).execute();
      return id;
    },
    check: async (runtime, id) => expect(await stateOf(runtime, id)).toBe('unknown'),
  },
  {
    kind: 'other-outcome',
    how: 'a completion that BullMQ has as a failure',
    async make(runtime) {
      const id = await createDispatched(runtime);
      await endInBull(runtime, id, 'failed');
      await endRow(id, 'completed');
      return id;
    },
    check: async (_runtime, id) => expect((await rowOf(file.db, id)).status).toBe('completed'),
  },
  {
    kind: 'open-stream',
    how: 'a status set by hand',
    async make() {
      const id = await insertJob(file.db);
      await openStream(id);
      await endRow(id, 'failed');
      return id;
    },
    check: async (_runtime, id) =>
      expect((await journalOf(file.db, id)).map(({ event }) => event)).toEqual([
        { type: 'said' },
        { type: 'error', error: { code: 'HANDLER_ERROR', message: 'no' } },
      ]),
  },
  {
    kind: 'open-stream',
    how: 'a stream opened by hand after its end',
    async make() {
      const id = await insertJob(file.db);
      await sql`insert into oncefleet.stream_heads (stream_id, fence, next_seq) values (${id}, 1, 1)`.execute(file.db);
      await sql`insert into oncefleet.journal_segments (stream_id, first_seq, last_seq, fence, events)
        values (${id}, 0, 0, 1, '[{"type":"end"}]')`.execute(file.db);
      await endRow(id, 'completed');
      return id;
    },
    check: async (_runtime, id) =>
      expect((await journalOf(file.db, id)).map(({ event }) => event)).toEqual([{ type: 'end' }]),
  },
  {
    kind: 'unlisted',
    how: 'a row put back by hand',
    async make(runtime) {
      const id = await createDispatched(runtime, { delayMs: 60_000 });
      await file.db.deleteFrom('unfinished_jobs').where('job_id', '=', id).execute();
      return id;
    },
    check: async (_runtime, id) => {
      const listed = await file.db.selectFrom('unfinished_jobs').selectAll().where('job_id', '=', id).execute();
      expect(listed).toMatchObject([{ run_at: (await rowOf(file.db, id)).run_at }]);
    },
  },
  {
    kind: 'closed-stream',
    how: 'a status set back by hand',
    async make(runtime) {
      const id = await createDispatched(runtime);
      await openStream(id);
      await sql`update oncefleet.stream_heads set state = 'closed' where stream_id = ${id}`.execute(file.db);
      return id;
    },
    check: async (_runtime, id) => {
      const head = await sql<{
        state: string;
      }>`select state from oncefleet.stream_heads where stream_id = ${id}`.execute(file.db);
      expect(head.rows).toEqual([{ state: 'open' }]);
    },
  },
];

describe('the doctor', () => {
  it('counts the dead rows of every table that jobs write again and again', async () => {
    const { tables } = await findServerState(file.db);
    expect(tables.map(({ name }) => name).sort()).toEqual(['ended_attempts', 'jobs', 'stream_heads']);
  });

  it.each(CASES)('finds $kind after $how, repairs it when asked to, and is content then', async (made) => {
    const runtime = await createRuntime();
    const orderly = await createDispatched(runtime);
    await runtime.dispatcher.queue('job').remove(orderly);
    await file.db.deleteFrom('jobs').where('id', '=', orderly).execute();
    const id = await made.make(runtime);
    const found = await diagnose(runtime, jobs);
    const disagreements = found.findings.filter((finding) => !IDLE.has(finding.kind));
    expect(disagreements).toMatchObject([{ kind: made.kind, count: 1, repaired: 0, jobs: [{ id, queue: 'job' }] }]);
    expect(found.well).toBe(false);
    const repaired = await diagnose(runtime, jobs, { fix: true });
    expect(repaired.findings.filter((finding) => !IDLE.has(finding.kind))).toMatchObject([
      { kind: made.kind, count: 1, repaired: 1 },
    ]);
    await made.check(runtime, id);
    const after = await diagnose(runtime, jobs);
    expect(after.findings.filter((finding) => !IDLE.has(finding.kind))).toEqual([]);
  });

  it('has a case for each kind of disagreement', () => {
    expect(new Set(CASES.map(({ kind }) => kind))).toEqual(new Set(Object.keys(DISAGREEMENTS)));
  });

  it('leaves jobs that other BullMQ clients added, which get their row when they run', async () => {
    const runtime = await createRuntime();
    const queue = runtime.dispatcher.queue('job');
    await queue.add('job', { idempotencyKey: 'x' });
    await queue.add('job', {}, { jobId: uuidV7(), delay: 600_000 });
    const { findings } = await diagnose(runtime, jobs, { fix: true });
    expect(findings.filter((finding) => !IDLE.has(finding.kind))).toEqual([]);
    expect(await queue.getJobCounts('waiting', 'delayed')).toEqual({ waiting: 1, delayed: 1 });
  });

  it('looks also into queues whose jobs nobody defines any more', async () => {
    const runtime = await createRuntime();
    const id = await createDispatched(runtime, { delayMs: 600_000 });
    await endRow(id, 'completed');
    const other = new Runtime({ databaseUrl: file.url, redisUrl: testRedisUrl(), prefix: runtime.settings.prefix });
    onTestFinished(() => other.close());
    expect((await diagnose(other, new Map())).findings).toMatchObject([
      { kind: 'superfluous', jobs: [{ id }] },
      {},
      {},
    ]);
  });

  it('counts, names and repairs many, and tells how far it is', async () => {
    const runtime = await createRuntime();
    await sql`insert into oncefleet.jobs (id, tenant, name, queue, fingerprint, options, input)
      select gen_random_uuid(), 'default', 'job', 'job', '', '{"priority":0,"attempts":1,"backoff":{"type":"fixed","delayMs":0}}', '{}'
      from generate_series(1, 2500)`.execute(file.db);
    await sql`insert into oncefleet.unfinished_jobs (job_id, run_at) select id, run_at from oncefleet.jobs`.execute(
      file.db,
    );
    const seen = new Set<string>();
    const { findings, looked } = await diagnose(runtime, jobs, {
      fix: true,
      onProgress: ({ message }) => void seen.add(message),
    });
    const [finding] = findings.filter(({ kind }) => !IDLE.has(kind));
    expect(finding).toMatchObject({ kind: 'not-dispatched', count: 2500, repaired: 2500 });
    expect(finding?.jobs).toHaveLength(100);
    expect(looked.rows).toBe(2500);
    expect(seen).toContain('rows');
    expect(seen).toContain('repairing');
    expect(await runtime.dispatcher.queue('job').getJobCounts('waiting', 'prioritized')).toEqual({
      waiting: 0,
      prioritized: 2500,
    });
  });

  it('can be stopped', async () => {
    const runtime = await createRuntime();
    await createDispatched(runtime);
    const reason = new Error('enough');
    await expect(diagnose(runtime, jobs, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });

  it('raises no false alarm beside a fleet that works', async () => {
    const busy = defineJob({
      name: 'busy',
      input: z.object({ n: z.number() }),
      attempts: 2,
      backoff: { type: 'fixed', delayMs: 20 },
      async run({ n }, ctx) {
        if (n % 3 === 0) await ctx.emit({ type: 'n', n });
        if (n % 7 === 0 && ctx.attempt === 1) throw new Error('again');
        return n;
      },
    });
    const fleet = createTestFleet(file.url, [busy], { concurrency: 20 });
    await fleet.work();
    const stop = new AbortController();
    let enqueued = 0;
    const load = (async () => {
      while (!stop.signal.aborted) {
        const batch = Array.from({ length: 20 }, () => {
          const n = enqueued++;
          return fleet.enqueue(busy, { n }, { delayMs: n % 5 === 0 ? 50 : 0, priority: n % 2 });
        });
        await Promise.all(batch);
      }
    })();
    try {
      for (let round = 0; round < 3; round++)
        expect(await fleet.doctor({ fix: round === 2 })).toMatchObject({ findings: [], well: true });
    } finally {
      stop.abort();
      await load;
    }
    expect(enqueued).toBeGreaterThan(200);
  });
});

describe('the doctor tells of', () => {
  it('a queue that is paused, jobs without a worker, and a fleet in which nobody looks for lost work', async () => {
    const runtime = await createRuntime();
    await createDispatched(runtime);
    await runtime.pauses.pause(runtime.dispatcher.queue('job'), 'test');
    const { findings, well } = await diagnose(runtime, jobs, { fix: true });
    expect(findings.map(({ kind }) => kind)).toEqual(['queue-paused', 'no-workers', 'no-reconciler']);
    expect(well).toBe(false);
  });

  it.each([
    {
      what: 'a pause that Redis lost',
      make: async (runtime: Runtime, queue: Queue) => {
        await runtime.pauses.pause(queue, 'test');
        await runtime.redis.del(queue.toKey('meta'));
      },
      paused: true,
    },
    { what: 'a pause by another client', make: async (_: Runtime, queue: Queue) => queue.pause(), paused: true },
    {
      what: 'a resume by another client',
      make: async (runtime: Runtime, queue: Queue) => {
        await runtime.pauses.pause(queue, 'test');
        await queue.resume();
      },
      paused: false,
    },
  ])('$what, brings it in line when asked to, and is content then', async ({ make, paused }) => {
    const runtime = await createRuntime();
    const queue = runtime.dispatcher.queue('job');
    await make(runtime, queue);
    const differing = (diagnosis: Diagnosis) => diagnosis.findings.filter(({ kind }) => kind === 'pause-differs');
    const found = differing(await diagnose(runtime, jobs));
    expect(found).toMatchObject([{ count: 1, repaired: 0, message: expect.stringContaining('job (') }]);
    expect(differing(await diagnose(runtime, jobs, { fix: true }))).toMatchObject([{ count: 1, repaired: 1 }]);
    expect(differing(await diagnose(runtime, jobs))).toEqual([]);
    expect(await queue.isPaused()).toBe(paused);
    const rows = await file.db.selectFrom('paused_queues').select('queue').execute();
    expect(rows).toEqual(paused ? [{ queue: 'job' }] : []);
  });

  it('a Redis that may evict', async () => {
    const { redis, stop } = await startTestRedis();
    onTestFinished(stop);
    const runtime = await createRuntime(redis.url);
    expect((await diagnose(runtime, jobs)).findings).toEqual([]);
    await runtime.redis.config('SET', 'maxmemory-policy', 'allkeys-lru');
    const { findings } = await diagnose(runtime, jobs);
    expect(findings).toMatchObject([{ kind: 'redis-evicts', message: expect.stringContaining('allkeys-lru') }]);
  });

  it('a database whose locale knows no letters beyond ASCII', async () => {
    const name = uniqueName('plain');
    await execute(file.url, `create database "${name}" template template0 lc_ctype 'C'`);
    onTestFinished(() => dropDatabase(file.url, name));
    const url = new URL(file.url);
    url.pathname = name;
    const runtime = await createRuntime(testRedisUrl(), url.href);
    await migrate(runtime.db.kysely);
    expect((await diagnose(runtime, jobs)).findings).toMatchObject([
      { kind: 'database-locale', message: expect.stringContaining('LC_CTYPE of the database is C:') },
    ]);
  });

  it('poisoned jobs whose onPoison nobody calls, once they have waited for long', async () => {
    const runtime = await createRuntime();
    for (const name of ['mail', 'mail', 'bill'])
      await sql`insert into oncefleet.poison_alerts (job_id, fence, tenant, name, queue, crashes, due_at)
        values (gen_random_uuid(), 1, 'default', ${name}, ${name}, 6, clock_timestamp())`.execute(file.db);
    expect((await diagnose(runtime, jobs)).findings).toEqual([]);
    await sql`update oncefleet.poison_alerts set created_at = created_at - interval '6 min'`.execute(file.db);
    expect((await diagnose(runtime, jobs)).findings).toMatchObject([
      {
        kind: 'poison-alerts',
        message:
          '1 poisoned job named bill waits for its onPoison. 2 poisoned jobs named mail wait for their onPoison.',
      },
    ]);
  });

  it('jobs of a name that nobody has known for a day', async () => {
    const runtime = await createRuntime();
    const ids = await Promise.all(['renamed', 'renamed', 'job'].map((name) => insertJob(file.db, { name })));
    expect((await diagnose(runtime, jobs)).findings.filter(({ kind }) => kind === 'unknown-names')).toEqual([]);
    for (const id of ids) await backdateJob(file.db, id, 25 * 3_600_000);
    expect((await diagnose(runtime, jobs)).findings.filter(({ kind }) => kind === 'unknown-names')).toMatchObject([
      { message: '2 jobs named "renamed" have waited for more than a day, and this process does not know the name.' },
    ]);
  });

  it('a table that is full of dead rows', async () => {
    const runtime = await createRuntime();
    await sql`alter table oncefleet.ended_attempts set (autovacuum_enabled = false)`.execute(file.db);
    onTestFinished(async () => {
      await sql`alter table oncefleet.ended_attempts reset (autovacuum_enabled)`.execute(file.db);
    });
    const thrown = new Error('rolled back');
    const insert = file.db.transaction().execute(async (trx) => {
      await sql`insert into oncefleet.ended_attempts (job_id, fence, worker, started_at, outcome)
        select gen_random_uuid(), 1, 'w', clock_timestamp(), 'crashed' from generate_series(1, 100001)`.execute(trx);
      throw thrown;
    });
    await expect(insert).rejects.toBe(thrown);
    // Postgres's statistics follow within seconds.
    const find = async () => (await diagnose(runtime, jobs)).findings;
    await expect
      .poll(find, { timeout: 15_000, interval: 500 })
      .toMatchObject([{ kind: 'dead-rows', message: expect.stringContaining('ended_attempts has 100001 dead rows') }]);
  });
});

describe('troubles of one kind', () => {
  const paused = (name: string) => ({
    kind: 'queue-paused' as const,
    message: `Queue ${name} is paused.`,
    remedy: 'Resume it.',
    count: 0,
    repaired: 0,
    jobs: [],
  });

  it('are one finding, which names some and counts the others', () => {
    const found = oneOfAKind(Array.from({ length: 8 }, (_, i) => paused(`q${i}`)));
    expect(found).toHaveLength(1);
    expect(found[0]?.message).toMatch(/^Queue q0 is paused\. .*Queue q4 is paused\. And 3 more like them\.$/);
    expect(found[0]?.remedy).toBe('Resume it.');
  });

  it('are as they were where there is one', () => {
    expect(oneOfAKind([paused('a')])).toEqual([paused('a')]);
  });
});
