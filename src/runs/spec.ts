import type { Job } from 'bullmq';
import type { JobContext, JobPolicy } from '../jobs/define-job.ts';
import type { JobLimit } from '../jobs/limits.ts';
import type { JobEvent } from '../journal/event.ts';

/** A job as the guard needs it, made from a definition or around a plain processor. */
export interface JobSpec {
  name: string;
  queue: string;
  policy: JobPolicy;
  /**
   * Around a user's own processor: data, delays, retries, errors and cancels mean what BullMQ means by
   * them, and its queue is a part of the key's scope. Else the job is the fleet's own, defined by `defineJob`.
   */
  transparent: boolean;
  /** The idempotency key of a job that some other BullMQ client added, where its data do not say it. */
  keyOf(job: Job): string | undefined;
  /** What of such a job's data its fingerprint is made of; undefined: all but the key. @throws InputInvalidError */
  fingerprinted?: ((job: Job) => unknown) | undefined;
  /** Of its definition. */
  limits?: readonly JobLimit[];
  /** The keys of a job that some other BullMQ client added. @throws OncefleetError LIMIT_KEY_INVALID */
  limitKeysOf?(job: { input: unknown; tenant: string }): string | undefined;
  checkEvent: ((event: JobEvent) => void) | undefined;
  /** @throws InputInvalidError */
  handle(input: unknown, ctx: JobContext, job: Job): Promise<unknown>;
  onPoison?(job: { jobId: string; tenant: string; name: string; crashes: number }): void | Promise<void>;
}
