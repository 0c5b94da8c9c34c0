/** Streams written as a worker writes them, without one. */
import type { Kysely } from 'kysely';
import { sql } from 'kysely';
import { expect } from 'vitest';
import { redriveJob } from '../../src/db/jobs/redrive.ts';
import { type Settlement, settleJobs } from '../../src/db/jobs/settle.ts';
import type { Database } from '../../src/db/schema.ts';
import { appendBatches } from '../../src/db/streams/segments.ts';
import { rowTerminalJson } from '../../src/db/streams/terminal.ts';
import { uuidV7 } from '../../src/util/uuid.ts';
import { claimFree, expireLease, insertJob } from './fixtures.ts';

export interface TestStream {
  readonly id: string;
  readonly fence: number;
  readonly nextSeq: number;
  /** One event a segment, or `perSegment` of them. */
  append(events: number, perSegment?: number): Promise<void>;
  /** The owner is lost; another claims. */
  crash(): Promise<void>;
  end(status?: 'completed' | 'failed', options?: { resultTtlMs?: number }): Promise<void>;
  /** A failed job goes round again, claimed by another owner. */
  redrive(): Promise<void>;
}

/** A job that somebody runs. @param options.ageMs made, and if it ends ended, this long ago */
export async function openStream(
  db: Kysely<Database>,
  options: { tenant?: string; ageMs?: number } = {},
): Promise<TestStream> {
  const { ageMs = 0, tenant = 'default' } = options;
  const id = await insertJob(db, { id: uuidV7(Date.now() - ageMs), tenant });
  let { fence } = await claimFree(db, id);
  let nextSeq = 0;
  return {
    id,
    get fence() {
      return fence;
    },
    get nextSeq() {
      return nextSeq;
    },
    async append(events, perSegment = 1) {
      for (let left = events; left > 0; left -= perSegment) {
        const count = Math.min(left, perSegment);
        const texts = Array.from({ length: count }, (_, i) => deltaText(nextSeq + i));
        const batch = { streamId: id, fence, firstSeq: nextSeq, events: texts };
        expect(await appendBatches(db, [batch])).toHaveProperty('size', 1);
        nextSeq += count;
      }
    },
    async crash() {
      await expireLease(db, id);
      ({ fence } = await claimFree(db, id));
    },
    async end(status = 'completed', { resultTtlMs = 1_000 } = {}) {
      const error = status === 'failed' ? '{"code":"HANDLER_ERROR","message":"no"}' : null;
      const result = status === 'completed' ? '{"ok":true}' : null;
      const settlement: Settlement = {
        id,
        fence,
        status,
        outcome: status === 'failed' ? 'error' : 'completed',
        result,
        error,
        resultTtlMs,
        delayMs: 0,
        delivery: 0,
        batch: { streamId: id, fence, firstSeq: nextSeq, events: [rowTerminalJson({ status, result, error })] },
      };
      expect(await settleJobs(db, [settlement])).toHaveProperty('size', 1);
      nextSeq++;
      await backdateEnd(db, id, ageMs);
    },
    async redrive() {
      await redriveJob(db, id);
      ({ fence } = await claimFree(db, id));
    },
  };
}

/** As if the job had ended that much earlier. */
export async function backdateEnd(db: Kysely<Database>, id: string, ms: number): Promise<void> {
  await sql`
    update oncefleet.jobs set finished_at = finished_at - ${ms}::float8 * interval '1 ms', expires_at = expires_at - ${ms}::float8 * interval '1 ms'
    where id = ${id}`.execute(db);
}

/** Texts with what a journal must keep: quotes, brackets at the ends, escapes, halves of pairs. */
const PIECES = ['word ', '"q"', ']}', '[{', '\\', '\n', '\u0000', '\ud83d', '\udd11', 'é🔑', ''];

function deltaText(seq: number): string {
  return JSON.stringify({ type: 'delta', n: seq, text: PIECES[seq % PIECES.length], list: [[seq], []] });
}

export async function segmentsOf(db: Kysely<Database>, id: string) {
  const rows = await db
    .selectFrom('journal_segments')
    .select(['first_seq', 'last_seq', 'fence'])
    .where('stream_id', '=', id)
    .orderBy('first_seq')
    .execute();
  return rows.map((row) => [row.first_seq, row.last_seq, row.fence]);
}
