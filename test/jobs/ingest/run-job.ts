/** Runs one attempt of a definition against a real database, without a fleet. */
import { createDb, type Db } from '../../../src/db/client.ts';
import type { AnyJobDefinition, JobContext } from '../../../src/jobs/define-job.ts';
import type { JobEvent } from '../../../src/journal/event.ts';
import { silentLogger } from '../../../src/log.ts';

export interface Attempt {
  result: Promise<unknown>;
  events: JobEvent[];
  checkpoints: unknown[];
}

export interface AttemptOptions {
  jobId?: string;
  tenant?: string;
  resumedFrom?: unknown;
  /** What earlier attempts emitted; with any, this attempt is the second. */
  previous?: readonly JobEvent[];
  signal?: AbortSignal;
  /** Every transaction after the first, which makes the collection, fails once its statements have run. */
  crashInTransaction?: boolean;
  /** Called on every event, progress included, before it counts. */
  onEvent?(event: JobEvent): void | Promise<void>;
}

export function openTestDb(url: string): Db {
  return createDb({ url, maxConnections: 6, applicationName: 'oncefleet test', onError: () => {} });
}

export function runAttempt(db: Db, job: AnyJobDefinition, input: unknown, options: AttemptOptions = {}): Attempt {
  let transactions = 0;
  const events: JobEvent[] = [];
  const checkpoints: unknown[] = [];
  const emit = async (event: JobEvent): Promise<void> => {
    await options.onEvent?.(event);
    events.push(event);
  };
  const ctx: JobContext = {
    jobId: options.jobId ?? crypto.randomUUID(),
    tenant: options.tenant ?? 'default',
    name: job.name,
    key: null,
    attempt: options.previous === undefined ? 1 : 2,
    fence: options.previous === undefined ? 1 : 2,
    signal: options.signal ?? new AbortController().signal,
    log: silentLogger(),
    db: db.plain,
    resumedFrom: options.resumedFrom,
    previous: (async function* () {
      yield* options.previous ?? [];
    })(),
    emit,
    progress: (progress) => emit({ type: 'progress', ...progress }),
    flush: async () => {},
    checkpoint: async (value) => void checkpoints.push(structuredClone(value)),
    transaction: (effects) =>
      db.plain.transaction().execute(async (trx) => {
        const result = await effects(trx);
        if (options.crashInTransaction === true && transactions++ > 0) throw new Error('worker gone');
        return result;
      }),
    complete: async () => {},
    keyFor: (step) => step,
  };
  const parsed = job.input.safeParse(input);
  const result = parsed.success ? job.run(parsed.data, ctx) : Promise.reject(parsed.error);
  // A test that has ended closes its servers, and an attempt that it has left then fails.
  result.catch(() => undefined);
  return { result, events, checkpoints };
}
