/** Queries on `stream_heads` and `journal_segments`. Values are bound, texts stay texts. */

import { type Kysely, sql } from 'kysely';
import { isTerminalStatus, type TerminalStatus } from '../jobs/states.ts';
import type { Database } from '../schema.ts';
import { named, ONE_ROW, textArray } from '../statement.ts';
import { advanceHeads } from './heads.ts';

/** Consecutive events of one stream; `events` are their JSON texts. */
export interface EventBatch {
  streamId: string;
  fence: number;
  firstSeq: number;
  events: readonly string[];
}

export interface Segment {
  firstSeq: number;
  lastSeq: number;
  fence: number;
  /** JSON array text. */
  events: string;
}

interface Head {
  fence: number;
  nextSeq: number;
  state: 'open' | 'closed';
}

/** Where a job's stream stands, as a reader needs it. */
export interface StreamState {
  streamId: string;
  fence: number;
  nextSeq: number;
  /** The first seq that retention has left; `nextSeq` when it left none. */
  keptFrom: number;
  closed: boolean;
  /** Its events are published before they are committed. */
  immediate: boolean;
  /** The terminal event of a job that ended without ever emitting: it is kept in its row. */
  rowTerminal:
    | {
        status: TerminalStatus;
        result: string | null;
        error: string | null;
        /** The result is too large to be read with the states of many streams: `findRowResult` has it. */
        resultLeftOut: boolean;
      }
    | undefined;
}

export function lastSeq(batch: EventBatch): number {
  return batch.firstSeq + batch.events.length - 1;
}

/** JSON.stringify writes no line breaks, so this one is always between two events. */
export const SEPARATOR = ',\n';

/** Events as the array text of a segment. */
export function segmentText(events: readonly string[]): string {
  return `[${events.join(SEPARATOR)}]`;
}

/** The texts of a segment's events, as they were emitted. */
export function segmentEvents(segment: Segment): string[] {
  const texts = segment.events.slice(1, -1).split(SEPARATOR);
  if (texts.length === segment.lastSeq - segment.firstSeq + 1) return texts;
  // Written, or merged, by another client.
  return (JSON.parse(segment.events) as unknown[]).map((event) => JSON.stringify(event));
}

const PROGRESS_START = '{"type":"progress",';

/** The last progress event of a batch, as `ctx.progress` writes it; null without one. */
export function lastProgress(events: readonly string[]): string | null {
  return events.findLast((event) => event.startsWith(PROGRESS_START)) ?? null;
}

/**
 * Appends one batch to each of several streams, in one statement, where their heads accept them
 * (`advanceHeads`); the others commit.
 *
 * @returns the batches that were accepted
 */
export async function appendBatches(db: Kysely<Database>, batches: readonly EventBatch[]): Promise<Set<EventBatch>> {
  const result = await db.executeQuery(
    named<{ stream_id: string; fence: number }>(
      'append',
      `with batch as (
        select *, false as terminal from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::text[])
          with ordinality as b (stream_id, fence, first_seq, last_seq, progress, events, place)
        where ${ONE_ROW}
      ), ${advanceHeads('batch')}, accepted as (
        select stream_id, fence from advanced union all select stream_id, fence from opened
      ), appended as (
        insert into oncefleet.journal_segments (stream_id, first_seq, last_seq, fence, events)
        select b.stream_id, b.first_seq, b.last_seq, b.fence, b.events::json
        from batch b join accepted using (stream_id, fence)
      )
      select stream_id, fence from accepted`,
      [
        batches.map((batch) => batch.streamId),
        batches.map((batch) => batch.fence),
        batches.map((batch) => batch.firstSeq),
        batches.map(lastSeq),
        textArray(batches.map((batch) => lastProgress(batch.events))),
        textArray(batches.map((batch) => segmentText(batch.events))),
      ],
    ),
  );
  const fences = new Map(result.rows.map((row) => [row.stream_id, row.fence]));
  return new Set(batches.filter((batch) => fences.get(batch.streamId) === batch.fence));
}

export async function findHeads(db: Kysely<Database>, streamIds: readonly string[]): Promise<Map<string, Head>> {
  const rows = await db
    .selectFrom('stream_heads')
    .select(['stream_id', 'fence', 'next_seq', 'state'])
    .where(sql<boolean>`stream_id = any(${streamIds}::uuid[])`)
    .execute();
  return new Map(rows.map((row) => [row.stream_id, { fence: row.fence, nextSeq: row.next_seq, state: row.state }]));
}

/** Results that states bring with them, bytes. */
const MAX_STATE_RESULT_BYTES = 64 * 1024;

/** Several streams' states in one statement; a stream whose job does not exist is missing. */
export async function findStreamStates(
  db: Kysely<Database>,
  streamIds: readonly string[],
): Promise<Map<string, StreamState & { tenant: string }>> {
  const rows = await db
    .selectFrom('jobs as j')
    .leftJoin('stream_heads as h', 'h.stream_id', 'j.id')
    .select([
      'j.id',
      'j.tenant',
      'j.status',
      'j.fence as job_fence',
      'h.fence',
      'h.next_seq',
      'h.state',
      // By its text: -> and ->> refuse a \u0000 anywhere in it, and with it all streams of the statement.
      sql<boolean>`j.options::text ~ '"publish" *: *"immediate"'`.as('immediate'),
      'h.kept_from',
      // A result can be large. It is needed only where it is the stream, and many are read at once.
      sql<string | null>`case when h.stream_id is null and j.status = 'completed'
        and octet_length(j.result::text) <= ${MAX_STATE_RESULT_BYTES} then j.result end`.as('result'),
      sql<boolean>`coalesce(h.stream_id is null and j.status = 'completed'
        and octet_length(j.result::text) > ${MAX_STATE_RESULT_BYTES}, false)`.as('result_left_out'),
      sql<string | null>`case when h.stream_id is null and j.status = 'failed' then j.error end`.as('error'),
    ])
    .where(sql<boolean>`j.id = any(${streamIds}::uuid[])`)
    .execute();
  return new Map(
    rows.map((row) => {
      const { status } = row;
      const inRow = row.next_seq === null && isTerminalStatus(status);
      return [
        row.id,
        {
          streamId: row.id,
          tenant: row.tenant,
          fence: row.fence ?? row.job_fence,
          nextSeq: row.next_seq ?? (inRow ? 1 : 0),
          keptFrom: row.kept_from ?? 0,
          closed: row.state === 'closed' || inRow,
          immediate: row.immediate,
          rowTerminal: inRow
            ? { status, result: row.result, error: row.error, resultLeftOut: row.result_left_out }
            : undefined,
        },
      ];
    }),
  );
}

/** The result of an eventless job, which is its stream; `undefined` if it is no longer completed. */
export async function findRowResult(
  db: Kysely<Database>,
  streamId: string,
): Promise<{ result: string | null } | undefined> {
  return db
    .selectFrom('jobs')
    .select('result')
    .where('id', '=', streamId)
    .where('status', '=', 'completed')
    .executeTakeFirst();
}

/**
 * What one read brings at most, bytes as stored: a reader keeps it while its client reads nothing. Texts of models
 * are compressed to a third or so, and what Postgres makes of one letter repeated is 90 times smaller.
 */
const MAX_READ_BYTES = 64 * 1024;
/** The same of the texts themselves. */
const MAX_READ_TEXT_BYTES = 256 * 1024;

/**
 * Segments of a stream from the one that holds `fromSeq`, in order: up to `limit`, and no
 * more than fit a read unless the first alone does not.
 */
export async function findSegments(
  db: Kysely<Database>,
  streamId: string,
  fromSeq: number,
  limit: number,
): Promise<Segment[]> {
  // The segment that holds fromSeq is the last one that starts at or before it. Sizes are
  // summed up before anything is decompressed.
  // Texts that compress well are measured once more as what they are, each made once (`offset 0`).
  const result = await sql<{ first_seq: number; last_seq: number; fence: number; events: string }>`
    select first_seq, last_seq, fence, events
    from (
      select s.*, sum(octet_length(s.events)) over (order by s.first_seq) - octet_length(s.events) as text_before
      from (
        select first_seq, last_seq, fence, events::text as events
        from (
          select s.*, sum(s.size) over (order by s.first_seq) - s.size as bytes_before
          from (
            select first_seq, last_seq, fence, events, pg_column_size(events) as size
            from oncefleet.journal_segments
            where stream_id = ${streamId} and last_seq >= ${fromSeq} and first_seq >= coalesce((
              select p.first_seq from oncefleet.journal_segments p
              where p.stream_id = ${streamId} and p.first_seq <= ${fromSeq} order by p.first_seq desc limit 1), 0)
            order by first_seq
            limit ${limit}
          ) s
        ) s
        where bytes_before < ${MAX_READ_BYTES}
        offset 0
      ) s
    ) s
    where text_before < ${MAX_READ_TEXT_BYTES}
    order by first_seq`.execute(db);
  return result.rows.map((row) => ({
    firstSeq: row.first_seq,
    lastSeq: row.last_seq,
    fence: row.fence,
    events: row.events,
  }));
}

/**
 * Where a stream left what its owner at `fence` wrote: the first seq of a later owner.
 *
 * @returns undefined: no later owner has written yet
 */
export async function findFork(db: Kysely<Database>, streamId: string, fence: number): Promise<number | undefined> {
  const row = await db
    .selectFrom('journal_segments')
    .select((eb) => eb.fn.min('first_seq').as('seq'))
    .where('stream_id', '=', streamId)
    .where('fence', '>', fence)
    .executeTakeFirst();
  return row?.seq ?? undefined;
}

/** The `attempt` events of a stream below a seq: what each attempt kept of those before it. */
export async function findAttemptEvents(
  db: Kysely<Database>,
  streamId: string,
  below: number,
): Promise<{ seq: number; json: string }[]> {
  // By its text, because ->> refuses a lone surrogate anywhere in the event. Only the fleet writes this type.
  const result = await sql<{ seq: number; json: string }>`
    select seq, event::text as json from oncefleet.journal_events
    where stream_id = ${streamId} and seq < ${below} and event::text like '{"type":"attempt",%'
    order by seq`.execute(db);
  return result.rows;
}
