/**
 * `ctx.transaction` while connections to Postgres are lost. Its effects run again only where nothing of them can have been
 * committed: before COMMIT was sent, or where Postgres says that it had no effect.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { Kysely, Transaction } from 'kysely';
import { crashPoint } from '../crash-points.ts';
import type { ClaimedJob } from '../db/jobs/claim.ts';
import { findCommit, lockFence, type TransactionMark } from '../db/jobs/fence.ts';
import { asPlain, type QualifiedDatabase } from '../db/own-schema.ts';
import type { Database } from '../db/schema.ts';
import { isConnectionLost, isTransient } from '../db/transient.ts';
import { OncefleetError } from '../errors.ts';
import type { Stop } from './stop.ts';

/** How often the effects of one call run again, at most. */
const MAX_REPEATS = 3;

interface TransactionHost {
  db: Kysely<Database>;
  claimed: Pick<ClaimedJob, 'id' | 'fence'>;
  ttlMs: number;
  stop: Stop;
  lose(from: 'transaction', why: string): never;
}

type Effects<T> = (trx: Transaction<QualifiedDatabase>) => Promise<T>;

/** How far a transaction came. */
interface Progress<T> {
  mark?: TransactionMark;
  thrown?: { error: unknown };
  returned?: { value: T };
}

/**
 * @throws OncefleetError STORE_UNAVAILABLE nobody knows whether it was committed, or connections were lost too often: the
 *   attempt ends as an interruption
 */
export async function transact<T>(host: TransactionHost, effects: Effects<T>): Promise<T> {
  const pause = pauses(host.stop);
  for (let repeats = 0; ; ) {
    const progress: Progress<T> = {};
    try {
      return await execute(host, effects, progress);
    } catch (error) {
      const { mark, thrown, returned } = progress;
      // A rollback on a lost connection fails too, and its error would hide what the effects threw.
      const cause = thrown === undefined ? error : thrown.error;
      if (mark === undefined) {
        // Not one effect has begun, so this is waited for, as a checkpoint waits.
        if (!isTransient(cause)) throw cause;
      } else {
        if (!isConnectionLost(cause)) throw cause;
        if (returned !== undefined && (await hasCommitted(host, mark, cause))) return returned.value;
        if (repeats++ === MAX_REPEATS)
          throw unavailable(`its connection to Postgres was lost ${MAX_REPEATS + 1} times`, cause);
      }
      await pause();
    }
  }
}

function execute<T>(
  { db, claimed, ttlMs, stop, lose }: TransactionHost,
  effects: Effects<T>,
  progress: Progress<T>,
): Promise<T> {
  return db.transaction().execute(async (trx) => {
    stop.throwIfAborted();
    const mark = await lockFence(trx, claimed.id, claimed.fence, ttlMs);
    if (mark === undefined) return lose('transaction', 'a transaction found the row at another fence');
    progress.mark = mark;
    crashPoint('transaction.before');
    try {
      progress.returned = { value: await effects(asPlain(trx)) };
    } catch (error) {
      progress.thrown = { error };
      throw error;
    }
    crashPoint('transaction.commit.before');
    return progress.returned.value;
  });
}

/** Asks until Postgres knows: it ends the transaction of a lost connection within the lease's TTL. */
async function hasCommitted({ db, stop }: TransactionHost, mark: TransactionMark, cause: unknown): Promise<boolean> {
  const pause = pauses(stop);
  for (;;) {
    const status = await whenPossible(stop, () => findCommit(db, mark));
    if (status === 'unknown')
      throw unavailable('the connection to Postgres was lost during COMMIT, and its outcome is not known', cause);
    if (status !== 'in progress') return status === 'committed';
    await pause();
  }
}

function unavailable(why: string, cause: unknown): OncefleetError {
  return new OncefleetError('STORE_UNAVAILABLE', `ctx.transaction: ${why}; the job runs again`, { cause });
}

/** Tries until Postgres answers or the run must stop, as it must before its lease can be taken. */
export async function whenPossible<T>(stop: Stop, ask: () => Promise<T>): Promise<T> {
  const pause = pauses(stop);
  for (;;) {
    try {
      return await ask();
    } catch (err) {
      if (!isTransient(err)) throw err;
      await pause();
    }
  }
}

/** Growing pauses, from 50 ms to 2 s. Each throws the reason when the run must stop. */
function pauses(stop: Stop): () => Promise<void> {
  let waitMs = 50;
  return async () => {
    await delay(waitMs * (0.5 + Math.random()), undefined, { signal: stop.signal }).catch(() => undefined);
    stop.throwIfAborted();
    waitMs = Math.min(waitMs * 2, 2_000);
  };
}
