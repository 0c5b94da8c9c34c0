/** Gives a key its row: a new one, the one in flight, or the one that has the outcome. */

import type { Kysely } from 'kysely';
import { findJobsByKey, insertJobs, type JobKey, type KeyedJob, type NewJob, releaseKey } from '../db/jobs/insert.ts';
import { sourceRef } from '../db/jobs/source.ts';
import type { JobStatus } from '../db/jobs/states.ts';
import { isTerminalStatus } from '../db/jobs/states.ts';
import {
  findKeysInTransaction,
  insertJobsWithOutbox,
  type RunInTransaction,
  releaseKeyInTransaction,
} from '../db/outbox.ts';
import type { Database } from '../db/schema.ts';
import { isTransient } from '../db/transient.ts';
import { OncefleetError } from '../errors.ts';
import { Batcher } from '../util/batcher.ts';
import { uuidV7 } from '../util/uuid.ts';

/** What an enqueue found under its key. A mismatch is an error (`KEY_MISMATCH`), not an outcome. */
export type EnqueueOutcome = 'created' | 'attached' | 'replayed';

export interface Accepted {
  id: string;
  outcome: EnqueueOutcome;
  status: JobStatus;
  /** Of a row that was there before: the BullMQ job that delivers it, as `sourceRef` writes it. */
  sourceRef?: string | null;
}

/** More attempts than two processes can race each other over one expired key. */
const MAX_ROUNDS = 20;

/** Jobs that one statement inserts. */
export const MAX_INSERTED = 500;

/** How long an enqueue waits for a transaction that has its key and has not ended. */
const KEY_WAIT_MS = 10_000;

/** Keys known to be held by open transactions; what is forgotten costs its batch one wait. */
const MAX_LOCKED_KEYS = 1_000;

export class Acceptor {
  readonly #db: Kysely<Database>;
  readonly #inserts: Batcher<NewJob, boolean | 'locked'>;
  /** For keys that an open transaction holds: they wait in a lane of their own. */
  readonly #lockedInserts: Batcher<NewJob, boolean>;
  readonly #lockedKeys = new Set<string>();
  readonly #lookups: Batcher<JobKey, KeyedJob | undefined>;

  constructor(db: Kysely<Database>) {
    this.#db = db;
    const run = async (jobs: readonly NewJob[]) => {
      const inserted = await insertJobs(db, jobs);
      return jobs.map((job) => inserted.has(job.id));
    };
    this.#inserts = new Batcher({
      run: (jobs) =>
        run(jobs).catch((error: unknown) => {
          if (!isKeyLocked(error)) throw error;
          return this.#insertOneByOne(jobs);
        }),
      isolate: (error) => !isTransient(error),
      maxBatch: MAX_INSERTED,
      maxInFlight: 2,
    });
    this.#lockedInserts = new Batcher({ run, maxBatch: 1, maxInFlight: 1 });
    this.#lookups = new Batcher({ run: (keys) => findJobsByKey(db, keys), maxBatch: 1_000, maxInFlight: 2 });
  }

  /**
   * @param onFailedKey `rerun`: a failed job leaves its key to a new row
   * @throws OncefleetError KEY_MISMATCH; Postgres's 55P03 where an open transaction holds the key for too long
   */
  async accept(wanted: Omit<NewJob, 'id'>, onFailedKey: 'replay' | 'rerun'): Promise<Accepted> {
    return acceptBy(wanted, onFailedKey, {
      insert: (job) => this.#insert(job),
      find: (job, key) => this.#lookups.call({ ...job, key }),
      release: (jobId, failedToo) => releaseKey(this.#db, jobId, failedToo),
    });
  }

  /** After a batch that met a locked key: each key is tried once, and duplicates of a locked one do not wait again. */
  async #insertOneByOne(jobs: readonly NewJob[]): Promise<(boolean | 'locked')[]> {
    const answers: (boolean | 'locked')[] = [];
    for (const job of jobs) {
      const scope = scopeOf(job);
      if (!this.#lockedKeys.has(scope)) {
        try {
          answers.push((await insertJobs(this.#db, [job])).has(job.id));
          continue;
        } catch (error) {
          if (!isKeyLocked(error)) throw error;
          if (this.#lockedKeys.size >= MAX_LOCKED_KEYS) this.#lockedKeys.clear();
          this.#lockedKeys.add(scope);
        }
      }
      answers.push('locked');
    }
    return answers;
  }

  async #insert(job: NewJob): Promise<boolean> {
    const scope = scopeOf(job);
    if (!this.#lockedKeys.has(scope)) {
      const inserted = await this.#inserts.call(job);
      if (inserted !== 'locked') return inserted;
    }
    for (const until = performance.now() + KEY_WAIT_MS; ; ) {
      try {
        const inserted = await this.#lockedInserts.call(job);
        this.#lockedKeys.delete(scope);
        return inserted;
      } catch (error) {
        if (!isKeyLocked(error) || performance.now() > until) throw error;
      }
    }
  }
}

function scopeOf({ tenant, name, key, keyScope }: NewJob): string {
  return JSON.stringify([tenant, name, key, keyScope]);
}

/** @throws OncefleetError KEY_MISMATCH */
export type AcceptInTransaction = (
  wanted: Omit<NewJob, 'id'>,
  onFailedKey: 'replay' | 'rerun',
) => Promise<Accepted & { xid: string | undefined }>;

/**
 * The same in a transaction of the caller's, which commits it or rolls it back. No answer here
 * is an error to Postgres, which would spoil the transaction; but at REPEATABLE READ and
 * SERIALIZABLE a duplicate that was committed after the snapshot is 40001, as any write is.
 *
 * @returns accepts jobs, those of one turn of the event loop in one statement; `xid` is of the transaction, where the
 *   job may be a part of it
 */
export function acceptorIn(run: RunInTransaction): AcceptInTransaction {
  const batch = { maxInFlight: 1, maxBatch: MAX_INSERTED };
  const inserts = new Batcher<NewJob, string | undefined>({
    run: async (jobs) => {
      const { ids, xid } = await insertJobsWithOutbox(run, jobs);
      return jobs.map(({ id }) => (ids.has(id) ? xid : undefined));
    },
    ...batch,
  });
  const lookups = new Batcher({ run: (keys: readonly JobKey[]) => findKeysInTransaction(run, keys), ...batch });
  return async (wanted, onFailedKey) => {
    let xid: string | undefined;
    const accepted = await acceptBy(wanted, onFailedKey, {
      insert: async (job) => {
        xid = await inserts.call(job);
        return xid !== undefined;
      },
      async find(job, key) {
        const found = await lookups.call({ ...job, key });
        xid = found?.xid ?? undefined;
        return found;
      },
      release: (jobId, failedToo) => releaseKeyInTransaction(run, jobId, failedToo),
    });
    return { ...accepted, xid };
  };
}

/** Whether an insert gave up on a key that an open transaction holds. */
export function isKeyLocked(error: unknown): boolean {
  return (error as { code?: unknown } | null)?.code === '55P03';
}

interface KeyStore {
  /** @returns false when the key is taken */
  insert(job: NewJob): Promise<boolean>;
  find(job: NewJob, key: string): Promise<KeyedJob | undefined>;
  release(jobId: string, failedToo: boolean): Promise<unknown>;
}

async function acceptBy(
  wanted: Omit<NewJob, 'id'>,
  onFailedKey: 'replay' | 'rerun',
  store: KeyStore,
): Promise<Accepted> {
  const job: NewJob = { ...wanted, id: uuidV7() };
  for (let round = 0; round < MAX_ROUNDS; round++) {
    if (await store.insert(job)) return { id: job.id, outcome: 'created', status: 'pending' };
    if (job.key === null) throw new Error('a job without a key met another');
    const holder = await store.find(job, job.key);
    // Released between the two statements: the next insert gets it.
    if (holder === undefined) continue;
    const rerun = onFailedKey === 'rerun' && holder.status === 'failed';
    if (holder.expired || rerun) {
      await store.release(holder.id, rerun);
      continue;
    }
    // The data of a BullMQ job may change between two of its deliveries: it is the same job.
    const isSame = job.source !== undefined && holder.sourceRef === sourceRef(job.source);
    if (holder.fingerprint !== job.fingerprint && !isSame) {
      throw new OncefleetError(
        'KEY_MISMATCH',
        `The key was used with another input, by job ${holder.id}: send the same input, or choose another key`,
        {
          details: { jobId: holder.id },
        },
      );
    }
    const finished = isTerminalStatus(holder.status);
    return {
      id: holder.id,
      outcome: finished ? 'replayed' : 'attached',
      status: holder.status,
      sourceRef: holder.sourceRef,
    };
  }
  throw new OncefleetError('INTERNAL', `The key of a ${job.name} job changed hands ${MAX_ROUNDS} times in a row`);
}
