import type { Kysely } from 'kysely';
import { sql } from 'kysely';
import { afterAll, beforeAll } from 'vitest';
import { createDb, type Db } from '../../src/db/client.ts';
import { type ClaimedJob, claimJobs } from '../../src/db/jobs/claim.ts';
import { insertJobs, type NewJob } from '../../src/db/jobs/insert.ts';
import type { Settlement } from '../../src/db/jobs/settle.ts';
import type { Database } from '../../src/db/schema.ts';
import { fingerprint } from '../../src/enqueue/fingerprint.ts';
import { uuidV7 } from '../../src/util/uuid.ts';
import { createTestDatabase } from './services.ts';

/** A database for a test file: `file.db` is set by the time the first test runs. */
export function useDatabase(): { readonly url: string; readonly db: Kysely<Database>; readonly pool: Db['pool'] } {
  const file: { url?: string; client?: Db } = {};
  let drop: (() => Promise<void>) | undefined;
  beforeAll(async () => {
    const database = await createTestDatabase();
    drop = database.drop;
    file.url = database.url;
    file.client = createDb({
      url: database.url,
      maxConnections: 10,
      applicationName: 'oncefleet test',
      onError: () => undefined,
    });
  });
  afterAll(async () => {
    await file.client?.close();
    await drop?.();
  });
  return {
    get url() {
      return file.url as string;
    },
    get db() {
      return (file.client as Db).kysely;
    },
    get pool() {
      return (file.client as Db).pool;
    },
  };
}

/** Inserts a pending job and gives its id. */
export async function insertJob(db: Kysely<Database>, overrides: Partial<NewJob> = {}): Promise<string> {
  const id = overrides.id ?? uuidV7();
  await insertJobs(db, [
    {
      id,
      tenant: 'default',
      name: 'job',
      queue: 'job',
      key: null,
      fingerprint: fingerprint({}),
      input: '{}',
      options: { priority: 0, attempts: 3, backoff: { type: 'fixed', delayMs: 0 } },
      delayMs: 0,
      deadlineMs: null,
      ...overrides,
    },
  ]);
  return id;
}

/** Claims one job as `owner`, due or not. */
export async function claimOne(
  db: Kysely<Database>,
  id: string,
  overrides: { owner?: string; ttlMs?: number; maxCrashes?: number; delivery?: number; early?: boolean } = {},
) {
  const [answer] = await claimJobs(
    db,
    [{ id, owner: uuidV7(), ttlMs: 60_000, maxCrashes: 5, delivery: 0, own: true, early: true, ...overrides }],
    'worker',
  );
  if (answer === undefined) throw new Error('no answer');
  return answer;
}

/** Claims one job that is known to be free. */
export async function claimFree(db: Kysely<Database>, id: string): Promise<ClaimedJob> {
  const answer = await claimOne(db, id);
  if (answer.decision !== 'claimed') throw new Error(`not claimed: ${answer.decision}`);
  return answer.job;
}

/** The end of a run that has returned 1, and emitted nothing. */
export function settlement(id: string, fence: number, overrides: Partial<Settlement> = {}): Settlement {
  return {
    id,
    fence,
    status: 'completed',
    outcome: 'completed',
    result: '1',
    error: null,
    resultTtlMs: 60_000,
    delayMs: 0,
    delivery: 0,
    batch: undefined,
    ...overrides,
  };
}

/** Has Postgres refuse events with "poison" in them, as data. */
export async function refusePoison(db: Kysely<Database>): Promise<void> {
  await sql`
    alter table oncefleet.journal_segments drop constraint if exists wholesome,
      add constraint wholesome check (events::text not like '%poison%')`.execute(db);
}

/** Backdates a lease, as if its owner had sent no heartbeat for longer than its TTL. */
export async function expireLease(db: Kysely<Database>, id: string): Promise<void> {
  await db
    .updateTable('jobs')
    .set({ lease_expires_at: sql`clock_timestamp() - interval '1 second'` })
    .where('id', '=', id)
    .execute();
}

/** Moves the time from which a job may run into the past. */
export async function backdateJob(db: Kysely<Database>, id: string, ms: number): Promise<void> {
  await sql`
    with job as (update oncefleet.jobs set run_at = run_at - ${ms}::float8 * interval '1 ms' where id = ${id} returning run_at)
    update oncefleet.unfinished_jobs u set run_at = job.run_at from job where u.job_id = ${id}`.execute(db);
}

export async function rowOf(db: Kysely<Database>, id: string) {
  return db.selectFrom('jobs').selectAll().where('id', '=', id).executeTakeFirstOrThrow();
}

/** The whole journal of a stream, each event with its seq. Fails on a gap or a duplicate. */
export async function journalOf(
  db: Kysely<Database>,
  id: string,
): Promise<{ seq: number; fence: number; event: { type: string } & Record<string, unknown> }[]> {
  const rows = await sql<{ seq: number; fence: number; event: string }>`
    select seq, fence, event from oncefleet.journal_events where stream_id = ${id} order by seq`.execute(db);
  rows.rows.forEach((row, i) => {
    if (row.seq !== i) throw new Error(`journal of ${id}: seq ${row.seq} at place ${i}`);
  });
  return rows.rows.map((row) => ({ ...row, event: JSON.parse(row.event) }));
}
