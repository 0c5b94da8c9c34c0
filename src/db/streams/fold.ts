/**
 * Folding: the many small segments of a finished stream become few large ones.
 *
 * Only neighbours of one fence are merged, so every event keeps its seq and its fence. A
 * merge is one statement: a reader that pages through the stream sees the segments before or
 * after it, and continues by seq.
 */
import { type Kysely, sql } from 'kysely';
import type { Database } from '../schema.ts';
import { SEPARATOR } from './segments.ts';

/**
 * A folded segment's size, bytes of JSON: 10,000 short deltas fit two, and a reader that
 * wants one event of it parses no more than this.
 */
const FOLDED_BYTES = 512 * 1024;

/** Segments planned in one statement. */
const PLAN_SEGMENTS = 2_000;

interface SegmentSize {
  firstSeq: number;
  lastSeq: number;
  fence: number;
  bytes: number;
}

interface FoldGroup {
  firstSeq: number;
  lastSeq: number;
  segments: number;
}

/** Streams that wait to be folded, `after` one of them. */
export async function findUnfolded(db: Kysely<Database>, after: string | undefined, limit: number): Promise<string[]> {
  let query = db.selectFrom('stream_heads').select('stream_id').where(sql<boolean>`fold_due`);
  if (after !== undefined) query = query.where('stream_id', '>', after);
  const rows = await query.orderBy('stream_id').limit(limit).execute();
  return rows.map((row) => row.stream_id);
}

/**
 * Folds one stream. Merges that are done stay done should a later one fail.
 *
 * @returns how many segments went into how many; undefined: it is open again, or locked
 */
export async function foldStream(
  db: Kysely<Database>,
  streamId: string,
): Promise<{ before: number; after: number } | undefined> {
  const head = await db
    .selectFrom('stream_heads')
    .select(['next_seq', 'state'])
    .where('stream_id', '=', streamId)
    .executeTakeFirst();
  if (head === undefined) return undefined;
  let before = 0;
  let after = 0;
  if (head.state === 'closed') {
    for (let from = 0; ; ) {
      const sizes = await findSegmentSizes(db, streamId, from, PLAN_SEGMENTS);
      const groups = planFold(sizes, FOLDED_BYTES);
      for (const group of groups) {
        if (group.segments > 1 && !(await mergeSegments(db, streamId, group))) return undefined;
      }
      const last = groups.at(-1);
      if (sizes.length < PLAN_SEGMENTS || last === undefined) {
        before += sizes.length;
        after += groups.length;
        break;
      }
      // What the last group became may take in more.
      before += sizes.length - 1;
      after += groups.length - 1;
      from = last.firstSeq;
    }
  }
  // A stream that was opened again says so itself when it closes.
  await db
    .updateTable('stream_heads')
    .set({ fold_due: null })
    .where('stream_id', '=', streamId)
    .where('next_seq', '=', head.next_seq)
    .execute();
  return head.state === 'closed' ? { before, after } : undefined;
}

/** Marks a stream whose fold Postgres refuses as not due: it stays readable as it is. */
export async function forgetFold(db: Kysely<Database>, streamId: string): Promise<void> {
  await db.updateTable('stream_heads').set({ fold_due: null }).where('stream_id', '=', streamId).execute();
}

/** Which neighbours become one: of one fence, without a gap, together no larger than `maxBytes`. */
export function planFold(segments: readonly SegmentSize[], maxBytes: number): FoldGroup[] {
  const groups: (FoldGroup & { fence: number; bytes: number })[] = [];
  for (const { firstSeq, lastSeq, fence, bytes } of segments) {
    const group = groups.at(-1);
    if (group?.fence === fence && group.lastSeq + 1 === firstSeq && group.bytes + bytes <= maxBytes) {
      group.lastSeq = lastSeq;
      group.segments++;
      group.bytes += bytes;
    } else {
      groups.push({ firstSeq, lastSeq, segments: 1, fence, bytes });
    }
  }
  return groups.map(({ firstSeq, lastSeq, segments }) => ({ firstSeq, lastSeq, segments }));
}

async function findSegmentSizes(
  db: Kysely<Database>,
  streamId: string,
  from: number,
  limit: number,
): Promise<SegmentSize[]> {
  const rows = await db
    .selectFrom('journal_segments')
    .select(['first_seq', 'last_seq', 'fence', sql<number>`octet_length(events::text)`.as('bytes')])
    .where('stream_id', '=', streamId)
    .where('first_seq', '>=', from)
    .orderBy('first_seq')
    .limit(limit)
    .execute();
  return rows.map((row) => ({ firstSeq: row.first_seq, lastSeq: row.last_seq, fence: row.fence, bytes: row.bytes }));
}

/**
 * Makes one segment of a group: the first takes in the others. Nothing happens unless the
 * group is still as it was planned and its stream is finished.
 *
 * @returns whether it did
 */
async function mergeSegments(db: Kysely<Database>, streamId: string, group: FoldGroup): Promise<boolean> {
  return db.transaction().execute(async (trx) => {
    // One fold of a stream at a time, and none beside a redrive: the statement after the lock sees what stands.
    const head = await sql`
      select 1 from oncefleet.stream_heads where stream_id = ${streamId} and state = 'closed'
      for no key update skip locked`.execute(trx);
    if (head.rows.length === 0) return false;
    // btrim takes the brackets of the arrays alone: what is inside starts and ends with a brace.
    const merged = await sql`
      with merged as (
        select '[' || string_agg(btrim(events::text, '[]'), ${SEPARATOR} order by first_seq) || ']' as events
        from oncefleet.journal_segments
        where stream_id = ${streamId} and first_seq between ${group.firstSeq} and ${group.lastSeq}
        having count(*) = ${group.segments} and count(distinct fence) = 1 and max(last_seq) = ${group.lastSeq}
          and sum(last_seq - first_seq + 1) = ${group.lastSeq - group.firstSeq + 1}
      ), gone as (
        delete from oncefleet.journal_segments s using merged
        where s.stream_id = ${streamId} and s.first_seq > ${group.firstSeq} and s.first_seq <= ${group.lastSeq}
      )
      update oncefleet.journal_segments s set last_seq = ${group.lastSeq}, events = merged.events::json from merged
      where s.stream_id = ${streamId} and s.first_seq = ${group.firstSeq}
      returning 1`.execute(trx);
    return merged.rows.length > 0;
  });
}
