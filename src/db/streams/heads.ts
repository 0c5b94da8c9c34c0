/**
 * The head of a stream says where it continues: the fence that may write, the next seq, whether it
 * is open. Each statement that moves a head is here, as SQL for statements that do more at once.
 */
import { sql, type Transaction } from 'kysely';
import type { Database } from '../schema.ts';

/**
 * A stream whose last batch starts here or later is folded once it has ended. A shorter one has
 * no more segments than a reader takes in one page, and its end writes no index entry.
 */
const FOLD_FROM_SEQ = 32;

/** SQL for `fold_due` of a stream that closes. @param lastBatchFrom the first seq of its last batch */
const foldDue = (lastBatchFrom: string) => `case when ${lastBatchFrom} >= ${FOLD_FROM_SEQ} then true end`;

/**
 * SQL of two CTEs, `advanced` and `opened`: they move heads behind batches and return the
 * `stream_id` and `fence` of those that accept theirs.
 *
 * A batch is accepted only if the head has its fence, is open, and expects its first seq. A stream
 * without a head accepts a batch that starts at 0: only the first claim of a job leaves no head,
 * later claims and endings from outside all write one.
 *
 * @param from a CTE with `stream_id, fence, first_seq, last_seq, progress, terminal`, a row a batch
 */
export const advanceHeads = (from: string) => `advanced as (
        update oncefleet.stream_heads h set next_seq = b.last_seq + 1, progress = coalesce(b.progress::json, h.progress),
          state = case when b.terminal then 'closed' else 'open' end,
          fold_due = case when b.terminal then ${foldDue('b.first_seq')} end
        from ${from} b
        where h.stream_id = b.stream_id and h.fence = b.fence and h.next_seq = b.first_seq and h.state = 'open'
        returning h.stream_id, h.fence
      ), opened as (
        insert into oncefleet.stream_heads (stream_id, fence, next_seq, progress, state)
        select stream_id, fence, last_seq + 1, progress::json, case when terminal then 'closed' else 'open' end
        from ${from} where first_seq = 0
        on conflict do nothing
        returning stream_id, fence
      )`;

/**
 * SQL: raises the fence of heads, so that the journal refuses the previous owner from now on.
 * Returns `stream_id`, `fence` and `next_seq`.
 *
 * @param jobs a FROM clause with `id` and `fence`
 */
export const raiseHeads = (jobs: string) => `insert into oncefleet.stream_heads (stream_id, fence, next_seq)
        select id, fence, 0 from ${jobs}
        on conflict (stream_id) do update set fence = excluded.fence
        returning stream_id, fence, next_seq`;

/**
 * SQL: raises the fence of heads, makes room for a terminal event and closes the streams. Returns
 * `stream_id` and `next_seq`; the terminal event has the seq before that.
 *
 * @param jobs a FROM clause with `id` and `fence`
 */
export const closeHeads = (jobs: string) => `insert into oncefleet.stream_heads (stream_id, fence, next_seq, state)
        select id, fence, 1, 'closed' from ${jobs}
        on conflict (stream_id) do update set
          fence = excluded.fence,
          next_seq = stream_heads.next_seq + 1,
          state = 'closed',
          fold_due = ${foldDue('stream_heads.next_seq')}
        returning stream_id, next_seq`;

/**
 * Opens the stream of a job that runs again.
 *
 * @returns false when it had no head: its terminal event was in the job's row and has seq 0
 */
export async function reopenHead(trx: Transaction<Database>, streamId: string, fence: number): Promise<boolean> {
  const created = await trx
    .insertInto('stream_heads')
    .values({ stream_id: streamId, fence, next_seq: 1, state: 'open' })
    .onConflict((oc) => oc.column('stream_id').doNothing())
    .returning('stream_id')
    .executeTakeFirst();
  if (created !== undefined) return false;
  await trx.updateTable('stream_heads').set({ state: 'open' }).where('stream_id', '=', streamId).execute();
  return true;
}

/** Sets the state of a head that disagrees with its job. */
export async function repairHead(
  trx: Transaction<Database>,
  streamId: string,
  { state, nextSeq }: { state: 'open' | 'closed'; nextSeq: number },
): Promise<void> {
  await trx
    .updateTable('stream_heads')
    .set({
      state,
      next_seq: nextSeq,
      fold_due: state === 'closed' ? sql.raw(foldDue(String(nextSeq - 1))) : null,
    })
    .where('stream_id', '=', streamId)
    .execute();
}
