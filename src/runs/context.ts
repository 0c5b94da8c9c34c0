import type { Job } from 'bullmq';
import type { Transaction } from 'kysely';
import { crashPoint } from '../crash-points.ts';
import type { ClaimedJob } from '../db/jobs/claim.ts';
import { saveCheckpoint } from '../db/jobs/fence.ts';
import { readJobData } from '../enqueue/job-data.ts';
import { InputInvalidError, type Issue, LeaseLostError, OncefleetError } from '../errors.ts';
import type { JobContext } from '../jobs/define-job.ts';
import { type AttemptEvent, encodeJson, type JobEvent } from '../journal/event.ts';
import { readPrevious } from '../journal/previous.ts';
import type { StreamWriter } from '../journal/stream-writer.ts';
import type { Logger } from '../log.ts';
import type { Runtime } from '../runtime/runtime.ts';
import type { RefusedWrite } from '../util/probes.ts';
import type { TraceIds } from '../util/tracing.ts';
import { teeToDelivery } from './job-log.ts';
import { giver } from './reads.ts';
import type { Stop } from './stop.ts';
import { transact, whenPossible } from './transaction.ts';

interface ContextOptions {
  runtime: Runtime;
  /** BullMQ's side of the delivery: gets log lines and progress. */
  delivery: Job;
  claimed: ClaimedJob;
  attempt: number;
  /** What the attempt says of those before it. */
  start: AttemptEvent;
  stream: StreamWriter;
  stop: Stop;
  ttlMs: number;
  /** Checks what the handler emits; throws for what its schema refuses. */
  checkEvent: ((event: JobEvent) => void) | undefined;
  traceIds: TraceIds;
  /** Commits the job's completion inside a caller's transaction. @throws LeaseLostError */
  // biome-ignore lint/suspicious/noExplicitAny: whatever tables the handler knows of.
  complete(trx: Transaction<any>, result: unknown): Promise<void>;
}

/** Of an event that found room. */
const DONE: Promise<void> = Promise.resolve();

/** Where the accessors of a context find what they are made of. */
const MAKERS = Symbol('makers');

interface Makers {
  stop: Stop;
  createLog(): Logger;
  log: Logger | undefined;
}

interface Lazy {
  [MAKERS]: Makers;
}

/**
 * What most handlers do not ask for, and is not free. The properties are a context's own, so
 * that a copy of it has them; their functions are the same for all. With `get` in the literal
 * V8 would make a hidden class for each context, and keep it with all that the run holds until
 * the next full collection: measured, 6 KB of each job.
 */
const LAZY: PropertyDescriptorMap & ThisType<Lazy> = {
  signal: {
    enumerable: true,
    get() {
      return this[MAKERS].stop.signal;
    },
  },
  log: {
    enumerable: true,
    get() {
      const makers = this[MAKERS];
      makers.log ??= makers.createLog();
      return makers.log;
    },
  },
};

/** What a handler works with during one claim. */
export function createContext(options: ContextOptions): JobContext {
  const { runtime, delivery, claimed, stream, stop } = options;
  const db = runtime.db.kysely;
  const { id, fence } = claimed;
  const bound = { jobId: id, jobName: claimed.name, fence, ...options.traceIds };

  const lose = (write: RefusedWrite, why: string): never => {
    runtime.probes.listener?.writeRefused(write);
    const error = new LeaseLostError(id, fence, why);
    stop.abort(error);
    throw error;
  };

  const createLog = () => teeToDelivery(runtime.log.child(bound), delivery);
  const give = giver((err) => createLog().error({ err }, 'a call of the context failed, and nobody awaited it'));
  const emit = emitter(stream, give, (usage) => runtime.probes.listener?.tokensUsed(claimed, usage));

  const context: Omit<JobContext, 'signal' | 'log'> & Lazy = {
    jobId: id,
    tenant: claimed.tenant,
    name: claimed.name,
    key: claimed.key,
    attempt: options.attempt,
    fence,
    [MAKERS]: { stop, createLog, log: undefined },
    db: runtime.db.plain,
    resumedFrom: claimed.checkpoint === null ? undefined : JSON.parse(claimed.checkpoint),
    previous: { [Symbol.asyncIterator]: () => readPrevious(db, id, { ...options.start, seq: claimed.nextSeq }) },
    emit: (event: JobEvent) => emit(event, options.checkEvent),
    progress(progress) {
      try {
        checkProgress(progress);
      } catch (error) {
        return give(() => Promise.reject(error));
      }
      delivery.updateProgress(progress).catch(() => undefined);
      return emit(progressEvent(progress));
    },
    flush: () => give(() => stream.flush()),
    checkpoint: (value) =>
      give(async () => {
        const json = encodeJson(value, 'checkpoint');
        // Taken before the flush: events emitted meanwhile come after this checkpoint.
        const seq = stream.nextSeq;
        await stream.flush();
        crashPoint('checkpoint.before');
        if (!(await whenPossible(stop, () => saveCheckpoint(db, { id, fence, value: json, seq }))))
          lose('checkpoint', 'a checkpoint found the row at another fence');
        crashPoint('checkpoint.after');
      }),
    transaction: (effects) =>
      give(async () => {
        const result = await transact({ db, claimed, ttlMs: options.ttlMs, stop, lose }, effects);
        crashPoint('transaction.commit.after');
        return result;
      }),
    complete: (trx, result) => give(() => options.complete(trx, result)),
    keyFor: (step) => stepKey(id, step),
  };
  return Object.defineProperties(context, LAZY) as typeof context & JobContext;
}

/** What a handler works with when its job runs although Postgres is unreachable: none of its events are kept. */
export function createUnguardedContext(runtime: Runtime, delivery: Job, signal: AbortSignal): JobContext {
  const own = readJobData(delivery);
  const foreign = delivery.data as { tenant?: string; idempotencyKey?: string } | null | undefined;
  // The row's id where there is one: `keyFor` must give what the guarded run of this job gives.
  const id = own?.jobId ?? `bullmq:${delivery.queueName}:${delivery.id}`;
  const nothing = async () => undefined;
  return {
    jobId: id,
    tenant: own?.tenant ?? foreign?.tenant ?? runtime.settings.tenant,
    name: delivery.name,
    key: own === undefined ? (foreign?.idempotencyKey ?? null) : own.key,
    attempt: 1,
    fence: 0,
    signal,
    db: runtime.db.plain,
    resumedFrom: undefined,
    previous: (async function* () {})(),
    log: teeToDelivery(runtime.log.child({ jobId: id, jobName: delivery.name, unguarded: true }), delivery),
    emit: nothing,
    progress: async (progress) => {
      checkProgress(progress);
      delivery.updateProgress(progress).catch(() => undefined);
    },
    flush: nothing,
    checkpoint: nothing,
    transaction: (effects) => runtime.db.plain.transaction().execute(effects),
    complete: () =>
      Promise.reject(new OncefleetError('STORE_UNAVAILABLE', 'A run without a lease cannot complete in a transaction')),
    keyFor: (step) => stepKey(id, step),
  };
}

/** Most events find room, and need no promise of their own. */
function emitter(stream: StreamWriter, give: ReturnType<typeof giver>, tellUsage: (usage: JobEvent) => void) {
  return (event: JobEvent, check?: (event: JobEvent) => void): Promise<void> => {
    let room: Promise<void> | undefined;
    try {
      check?.(event);
      room = stream.write(event);
      if (event.type === 'usage') tellUsage(event);
    } catch (error) {
      return give(() => Promise.reject(error));
    }
    return room === undefined ? DONE : give(() => room);
  };
}

function progressEvent({ done, total, message }: { done: number; total?: number; message?: string }): JobEvent {
  return {
    type: 'progress',
    done,
    ...(total === undefined ? {} : { total }),
    ...(message === undefined ? {} : { message }),
  };
}

/** @throws InputInvalidError EVENT_INVALID; nothing was emitted */
function checkProgress(progress: unknown): void {
  const { done, total, message } = (progress ?? {}) as { done?: unknown; total?: unknown; message?: unknown };
  const issues: Issue[] = [];
  if (!Number.isFinite(done)) issues.push({ path: 'done', message: 'expected a finite number' });
  if (total !== undefined && !Number.isFinite(total))
    issues.push({ path: 'total', message: 'expected a finite number, or nothing' });
  if (message !== undefined && typeof message !== 'string')
    issues.push({ path: 'message', message: 'expected a string, or nothing' });
  if (issues.length > 0) throw new InputInvalidError('ctx.progress', issues, 'EVENT_INVALID');
}

/** Two steps that gave nothing would share one key. @throws InputInvalidError */
function stepKey(jobId: string, step: unknown): string {
  if (typeof step === 'string' && step !== '') return `${jobId}:${step}`;
  throw new InputInvalidError('ctx.keyFor', [{ path: 'step', message: 'expected a string of at least one character' }]);
}
