/** Queries of the reconciler's rounds: which process leads, and streams that disagree with their job. */
import { type Kysely, sql, type Transaction } from 'kysely';
import { isTerminalStatus } from './jobs/states.ts';
import type { Database } from './schema.ts';
import { repairHead } from './streams/heads.ts';
import { type EventBatch, segmentText } from './streams/segments.ts';
import { isTerminalEvent, rowTerminalJson } from './streams/terminal.ts';

/** Any number that nothing else locks; "once" in ASCII. */
const LOCK_ID = 0x6f6e6365;

/**
 * Takes the reconcilers' lock until the transaction ends.
 *
 * @param options.idleLimitMs Postgres ends the transaction when its owner has sent nothing for this
 *   time: a frozen process, or one behind a cut connection, must not keep the lock
 * @param options.notWithinMs not if another process has finished a round no longer ago
 */
export async function lockRound(
  trx: Transaction<Database>,
  options: { worker: string; idleLimitMs: number; notWithinMs: number },
): Promise<boolean> {
  const rows = await sql<{ locked: boolean }>`
    select set_config('idle_in_transaction_session_timeout', ${String(options.idleLimitMs)}, true),
      not exists (
        select from oncefleet.reconciler_rounds
        where worker <> ${options.worker}
          and finished_at > clock_timestamp() - ${options.notWithinMs}::float8 * interval '1 ms'
      ) and pg_try_advisory_xact_lock(${LOCK_ID}) as locked`.execute(trx);
  return rows.rows[0]?.locked === true;
}

export async function noteRound(trx: Transaction<Database>, worker: string): Promise<void> {
  await sql`
    insert into oncefleet.reconciler_rounds (finished_at, worker) values (clock_timestamp(), ${worker})
    on conflict (only_row) do update set finished_at = excluded.finished_at, worker = excluded.worker`.execute(trx);
}

/** Lets another process take over at once. */
export async function forgetRounds(db: Kysely<Database>, worker: string): Promise<void> {
  await db.deleteFrom('reconciler_rounds').where('worker', '=', worker).execute();
}

/** How long ago a round ended, in milliseconds; undefined where none is known. */
export async function findRoundAge(db: Kysely<Database>): Promise<number | undefined> {
  const rows = await sql<{ age_ms: number }>`
    select extract(epoch from clock_timestamp() - finished_at)::float8 * 1000 as age_ms from oncefleet.reconciler_rounds`.execute(
    db,
  );
  return rows.rows[0]?.age_ms;
}

/**
 * Of several jobs, those that BullMQ need not deliver: ended more than `forMs` ago, or with no row.
 */
export async function findSuperfluous(db: Kysely<Database>, ids: readonly string[], forMs: number): Promise<string[]> {
  if (ids.length === 0) return [];
  const rows = await sql<{ id: string }>`
    select w.id from unnest(${ids}::uuid[]) as w (id) left join oncefleet.jobs j on j.id = w.id
    where j.id is null or j.finished_at < clock_timestamp() - ${forMs}::float8 * interval '1 ms'`.execute(db);
  return rows.rows.map((row) => row.id);
}

/**
 * A page of streams, in the order of their ids: those that are open although their job has
 * ended, and closed although it has not.
 *
 * A page, not an index: an index on `state` would make every end of a stream write to it.
 *
 * @returns `last`: the last id read; undefined at the end
 */
export async function findOddStreams(
  db: Kysely<Database>,
  after: string | undefined,
  limit: number,
): Promise<{ ids: string[]; scanned: number; last: string | undefined }> {
  const rows = await sql<{ ids: string[] | null; scanned: number; last: string | null }>`
    with page as (
      select stream_id, state from oncefleet.stream_heads
      where ${after === undefined ? sql`true` : sql`stream_id > ${after}::uuid`}
      order by stream_id limit ${limit}
    )
    select count(*)::int as scanned, max(p.stream_id::text) as last,
      array_agg(p.stream_id::text) filter (where j.id is not null and (p.state = 'closed') <> (j.finished_at is not null)) as ids
    from page p left join oncefleet.jobs j on j.id = p.stream_id`.execute(db);
  const [row] = rows.rows;
  const scanned = row?.scanned ?? 0;
  return { ids: row?.ids ?? [], scanned, last: scanned < limit ? undefined : (row?.last ?? undefined) };
}

interface RepairedStream {
  how: 'ended' | 'closed' | 'opened';
  /** The terminal event, to be published. */
  batch: EventBatch | undefined;
}

/**
 * Makes a stream agree with its job: the terminal event is journalled if it is not there, and
 * the stream closed; or opened, where the job has not ended.
 *
 * @returns undefined when they agree, or the row is locked
 */
export async function repairStream(db: Kysely<Database>, id: string): Promise<RepairedStream | undefined> {
  return db.transaction().execute(async (trx) => {
    const job = await trx
      .selectFrom('jobs')
      .select(['status', 'result', 'error'])
      .where('id', '=', id)
      .forUpdate()
      .skipLocked()
      .executeTakeFirst();
    const head = await trx
      .selectFrom('stream_heads')
      .select(['fence', 'next_seq', 'state'])
      .where('stream_id', '=', id)
      .forUpdate()
      .executeTakeFirst();
    if (job === undefined || head === undefined) return undefined;
    const { status, result, error } = job;
    if (!isTerminalStatus(status)) {
      if (head.state === 'open') return undefined;
      await repairHead(trx, id, { state: 'open', nextSeq: head.next_seq });
      return { how: 'opened', batch: undefined };
    }
    if (head.state === 'closed') return undefined;
    const last = await sql<{ event: string }>`
      select event from oncefleet.journal_events where stream_id = ${id} and seq = ${head.next_seq - 1}`.execute(trx);
    const event = last.rows[0]?.event;
    if (event !== undefined && isTerminalEvent(event)) {
      await repairHead(trx, id, { state: 'closed', nextSeq: head.next_seq });
      return { how: 'closed', batch: undefined };
    }
    const terminalJson = rowTerminalJson({ status, result, error });
    const seq = head.next_seq;
    await trx
      .insertInto('journal_segments')
      .values({ stream_id: id, first_seq: seq, last_seq: seq, fence: head.fence, events: segmentText([terminalJson]) })
      .execute();
    await repairHead(trx, id, { state: 'closed', nextSeq: seq + 1 });
    return { how: 'ended', batch: { streamId: id, fence: head.fence, firstSeq: seq, events: [terminalJson] } };
  });
}
