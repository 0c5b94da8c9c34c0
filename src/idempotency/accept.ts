/** Gives a key its row: a new one, the one in flight, or the one that has the outcome. */
import type { Kysely } from 'kysely';
import { findJobsByKey, insertJobs, type KeyedJob, type NewJob, releaseKey } from '../db/jobs.ts';
import type { Database } from '../db/schema.ts';
import { isTransient } from '../db/transient.ts';
import { OncefleetError } from '../errors.ts';
import { Batcher } from '../journal/batcher.ts';
import type { EnqueueOutcome, JobStatus } from './client-types.ts';
import { uuidV7 } from './uuid.ts';

export interface Accepted {
  id: string;
  outcome: EnqueueOutcome;
  status: JobStatus;
}

/** More rounds than two processes can race each other over one expired key. */
const MAX_ROUNDS = 20;

export class Acceptor {
  readonly #db: Kysely<Database>;
  readonly #inserts: Batcher<NewJob, boolean>;
  readonly #lookups: Batcher<{ tenant: string; name: string; key: string }, KeyedJob | undefined>;

  constructor(db: Kysely<Database>) {
    this.#db = db;
    this.#inserts = new Batcher({
      run: async (jobs) => {
        const inserted = await insertJobs(db, jobs);
        return jobs.map((job) => inserted.has(job.id));
      },
      isolate: (error) => !isTransient(error),
      maxBatch: 500,
      maxInFlight: 2,
    });
    this.#lookups = new Batcher({ run: (keys) => findJobsByKey(db, keys), maxBatch: 1_000, maxInFlight: 2 });
  }

  /**
   * @param onFailedKey `rerun`: a failed job lets its key go to a new row
   * @throws OncefleetError KEY_MISMATCH
   */
  async accept(wanted: Omit<NewJob, 'id'>, onFailedKey: 'replay' | 'rerun'): Promise<Accepted> {
    const job: NewJob = { ...wanted, id: uuidV7() };
    for (let round = 0; round < MAX_ROUNDS; round++) {
      if (await this.#inserts.call(job)) return { id: job.id, outcome: 'created', status: 'pending' };
      if (job.key === null) throw new Error('a job without a key met another');
      const holder = await this.#lookups.call({ tenant: job.tenant, name: job.name, key: job.key });
      // Let go between the two statements: the next insert gets it.
      if (holder === undefined) continue;
      const rerun = onFailedKey === 'rerun' && holder.status === 'failed';
      if (holder.expired || rerun) {
        await releaseKey(this.#db, holder.id, rerun);
        continue;
      }
      if (holder.fingerprint !== job.fingerprint) {
        throw new OncefleetError(
          'KEY_MISMATCH',
          `The key was used with another input, by job ${holder.id}: send the same input, or choose another key`,
          {
            details: { jobId: holder.id },
          },
        );
      }
      const finished = holder.status !== 'pending' && holder.status !== 'running';
      return { id: holder.id, outcome: finished ? 'replayed' : 'attached', status: holder.status };
    }
    throw new OncefleetError('INTERNAL', `The key of a ${job.name} job changed hands ${MAX_ROUNDS} times in a row`);
  }
}
