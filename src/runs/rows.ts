/** The row of a delivery: found, or made for a job that another BullMQ client added; and kept at what BullMQ has. */
import type { Job } from 'bullmq';
import type { ClaimedJob } from '../db/jobs/claim.ts';
import { clampRowOptions } from '../db/jobs/row-options.ts';
import { findJobBySource, type JobSource, saveInput, setSource, sourceRef } from '../db/jobs/source.ts';
import { fingerprint, inputJson } from '../enqueue/fingerprint.ts';
import { keyInData, namedRow, ownKey, sourceOf, toKey, withoutKey } from '../enqueue/foreign-job.ts';
import { readJobData } from '../enqueue/job-data.ts';
import { InputInvalidError, OncefleetError, toStoredFailure } from '../errors.ts';
import type { Backoff } from '../jobs/define-job.ts';
import { tenantName } from '../options.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { carrierOfDelivery } from '../util/tracing.ts';
import { within } from '../util/with-timeout.ts';
import type { Delivery } from './delivery.ts';
import { toUnrecoverable } from './verdict.ts';

/** How long Redis may take to say what data a job has now. Then the next delivery brings them. */
const KEEP_DATA_WAIT_MS = 500;

/** Of a queue's name and of a prefix, bytes: both are in indexes, whose entries have less than 2.7 KB. */
const MAX_NAME_BYTES = 512;

/** Schedules that were warned of; what is forgotten is warned of again. */
const MAX_WARNED = 1_000;

export interface DeliveredRow {
  readonly jobId: string;
  /** What the delivery calls the row's job: anybody who can write to Redis may have written that. */
  readonly as?: { tenant: string; name: string };
  /** It was made from a BullMQ job around whose queue this guard stands, and follows it. */
  readonly foreign: boolean;
  /** Another BullMQ job with its key made it. */
  readonly adopted: boolean;
  /** BullMQ starts the very job that made it for the first time: somebody had its counts reset, to run it again. */
  readonly restarted?: boolean;
}

export class Rows {
  readonly #runtime: Runtime;
  readonly #warnedOf = new Set<string>();

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /** The row that a delivery is about. A job that another BullMQ client added gets one here. */
  find(delivery: Delivery): DeliveredRow | Promise<DeliveredRow> {
    const { job, spec } = delivery;
    const own = readJobData(job);
    if (own !== undefined) {
      const as = { tenant: own.tenant, name: job.name };
      return { jobId: own.jobId, as, foreign: spec.transparent, adopted: false };
    }
    return this.#findOrAccept(delivery);
  }

  async #findOrAccept(delivery: Delivery): Promise<DeliveredRow> {
    const { job, spec } = delivery;
    const source = sourceOf(job);
    requireStorable(source);
    const keyScope = spec.transparent ? `${source.prefix}:${source.queue}` : '';
    const rowId = namedRow(job);
    // A processor may change its job's data, also the key in them: a job that comes again is found by what it is.
    if (job.attemptsStarted > 1 || rowId !== undefined) {
      const ref = sourceRef(source);
      const found = await findJobBySource(this.#runtime.db.kysely, { ref, rowId: rowIdOf(job, rowId), keyScope });
      if (found !== undefined) return { jobId: found.id, foreign: spec.transparent, adopted: !found.isSource };
    }
    return this.#accept(delivery, source, keyScope);
  }

  async #accept({ job, spec }: Delivery, source: JobSource, keyScope: string): Promise<DeliveredRow> {
    const data: unknown = job.data;
    try {
      const given = toKey(spec.keyOf(job), 'key') ?? keyInData(data);
      if (given !== undefined && job.repeatJobKey !== undefined) this.#warnOfRepeated(job, given);
      const input = withoutKey(data);
      const { policy } = spec;
      const tenant = tenantIn(data, spec.transparent) ?? this.#runtime.settings.tenant;
      const limitKeys = spec.limitKeysOf?.({ input, tenant });
      const accepted = await this.#runtime.transitions.create(
        {
          tenant,
          name: spec.name,
          queue: spec.queue,
          key: given ?? ownKey(source),
          keyScope,
          source,
          fingerprint: fingerprint(spec.fingerprinted === undefined ? input : spec.fingerprinted(job)),
          input: inputJson(spec.transparent ? data : input),
          options: clampRowOptions({
            priority: job.opts.priority,
            attempts: job.opts.attempts ?? policy.attempts,
            backoff: foreignBackoff(job) ?? policy.backoff,
            publish: policy.publish,
            keyless: given === undefined,
            trace: carrierOfDelivery(job.opts),
          }),
          delayMs: 0,
          deadlineMs: policy.deadlineMs ?? null,
          ...(limitKeys === undefined ? {} : { limitKeys }),
        },
        // A job that BullMQ starts again is no new enqueue: its failure stands.
        job.attemptsStarted > 1 ? 'replay' : policy.onFailedKey,
        'worker',
      );
      const isSource = accepted.outcome === 'created' || accepted.sourceRef === sourceRef(source);
      return {
        jobId: accepted.id,
        foreign: spec.transparent,
        adopted: !isSource,
        restarted: isSource && accepted.outcome === 'replayed' && job.attemptsStarted === 1,
      };
    } catch (error) {
      if (error instanceof OncefleetError) throw toUnrecoverable(toStoredFailure(error));
      throw error;
    }
  }

  /**
   * Keeps a claimed row at what BullMQ has: which of its jobs delivers it from now on, and that job's
   * data, which an earlier attempt or a person in Bull Board may have changed.
   */
  async follow(claimed: ClaimedJob, row: DeliveredRow, { job, attemptsMade }: Delivery): Promise<void> {
    const db = this.#runtime.db.kysely;
    if (readJobData(job) !== undefined) {
      // Dispatched by an earlier version, which left the data behind.
      job.data = JSON.parse(claimed.input);
      return;
    }
    if (row.adopted) await setSource(db, claimed.id, sourceOf(job), claimed);
    if (job.attemptsStarted > 1 || row.adopted) {
      const input = inputJson(job.data);
      if (input !== claimed.input) await saveInput(db, claimed, input);
      claimed.input = input;
    }
    // Added again after a flush, BullMQ counts from zero.
    if (namedRow(job) === claimed.id) job.attemptsMade = Math.max(attemptsMade, claimed.errorCount);
  }

  /** Keeps data that the processor has changed since the run began, for whatever dispatches the job again. */
  async keepData(claimed: ClaimedJob, { job, spec }: Delivery): Promise<void> {
    if (!spec.transparent || inputJson(job.data) === claimed.input) return;
    const { redis, db, log } = this.#runtime;
    const asked = redis.hget(`${job.queueQualifiedName}:${job.id}`, 'data');
    // What BullMQ has, not what a processor did to its own copy.
    const data = await within(KEEP_DATA_WAIT_MS, asked, () => null).catch(() => null);
    if (data === null || data === claimed.input) return;
    await saveInput(db.kysely, claimed, data).catch((err: unknown) =>
      log.warn({ err, jobId: claimed.id }, 'changed data of the job not kept; its next delivery brings them'),
    );
  }

  /** A schedule gives each of its jobs the same data. Warned of once for each schedule. */
  #warnOfRepeated({ repeatJobKey = '', queueName, name }: Job, key: string): void {
    const schedule = `${queueName}\n${repeatJobKey}`;
    if (this.#warnedOf.has(schedule)) return;
    if (this.#warnedOf.size >= MAX_WARNED) this.#warnedOf.clear();
    this.#warnedOf.add(schedule);
    this.#runtime.log.warn(
      { queue: queueName, jobName: name, scheduler: repeatJobKey, keyBytes: Buffer.byteLength(key) },
      'The template of this job scheduler has an idempotencyKey: its first job runs, and all later ones only repeat the result. Take the key out of the template; each job of a scheduler runs once by its own id',
    );
  }
}

/** The input of a delivery whose row cannot be read: carried by BullMQ, or the data of another client's job. */
export function unguardedInput(job: Job): { value: unknown } | undefined {
  const data = job.data as { input?: unknown } | null | undefined;
  if (readJobData(job) !== undefined) return data != null && 'input' in data ? { value: data.input } : undefined;
  return { value: withoutKey(data) };
}

/**
 * The tenant in the data of another client's job. Around a user's own processor the field may mean something
 * else: what is no tenant's name there is none given.
 *
 * @throws InputInvalidError of a job of the fleet
 */
function tenantIn(data: unknown, transparent: boolean): string | undefined {
  const tenant = (data as { tenant?: unknown } | null | undefined)?.tenant;
  if (typeof tenant !== 'string') return undefined;
  const parsed = tenantName.safeParse(tenant);
  if (parsed.success) return tenant;
  if (transparent) return undefined;
  throw new InputInvalidError('Data of the job', [
    { path: 'tenant', message: parsed.error.issues[0]?.message ?? 'not valid' },
  ]);
}

/** Of the row that a job names only where it is not a copy that somebody made of the job. */
function rowIdOf(job: Job, rowId: string | undefined): string | undefined {
  return job.id === `oncefleet-${rowId}` ? rowId : undefined;
}

/** The backoff another BullMQ client asked for, where it is one of BullMQ's own; its numbers as they came. */
function foreignBackoff(job: Job): Backoff | undefined {
  const { backoff } = job.opts;
  if (typeof backoff === 'number') return { type: 'fixed', delayMs: backoff, jitter: 0 };
  if (backoff?.type !== 'fixed' && backoff?.type !== 'exponential') return undefined;
  const type = backoff.type as Backoff['type'];
  return { type, delayMs: backoff.delay ?? 0, jitter: backoff.jitter ?? 0 };
}

/** BullMQ takes any text for the name of a queue and for a prefix. @throws UnrecoverableError INPUT_INVALID with the path */
function requireStorable({ queue, prefix }: JobSource): void {
  const issues = Object.entries({ queue, prefix }).flatMap(([path, text]) => {
    const bytes = Buffer.byteLength(text);
    if (bytes > MAX_NAME_BYTES) return [{ path, message: `expected at most ${MAX_NAME_BYTES} bytes, got ${bytes}` }];
    if (text.includes('\0') || !text.isWellFormed())
      return [{ path, message: 'expected a text without NUL and without lone surrogates' }];
    return [];
  });
  if (issues.length > 0) throw toUnrecoverable(toStoredFailure(new InputInvalidError('Guarded worker', issues)));
}
