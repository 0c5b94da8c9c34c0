/**
 * What BullMQ's errors mean, and what BullMQ does about an error. By name: a user's processor may
 * come with another copy of BullMQ, or another major version, than ours.
 */
import type { Job } from 'bullmq';

const CONTROL_FLOW: ReadonlySet<string> = new Set([
  'DelayedError',
  'WaitingError',
  'WaitingChildrenError',
  'RateLimitError',
]);

/** BullMQ looks at this message and not at the class. */
const RATE_LIMIT_MESSAGE = 'bullmq:rateLimitExceeded';

/** Whether a processor tells BullMQ with it that the job is elsewhere now: delayed, waiting, or rate limited. */
export function isControlFlow(error: Error): boolean {
  return CONTROL_FLOW.has(error.name) || error.message === RATE_LIMIT_MESSAGE;
}

/** Whether it says that the job must not be tried again. */
export function isUnrecoverable(error: Error): boolean {
  if (error.name === 'UnrecoverableError') return true;
  // A class derived from BullMQ's has a name of its own.
  for (let type: unknown = error.constructor; typeof type === 'function'; type = Object.getPrototypeOf(type))
    if (type.name === 'UnrecoverableError') return true;
  return false;
}

/** BullMQ's protected method, in all versions since 5.20. */
interface Decides {
  shouldRetryJob(error: Error): Promise<[retries: boolean, delayMs: number | undefined]>;
}

/**
 * What BullMQ will do about an error: by its attempts, its worker's strategy of backoff and `maxStartedAttempts`.
 *
 * @returns the delay before the next attempt, in ms; undefined when the job fails now
 * @throws what the strategy throws
 */
export async function retryDelayOf(job: Job, error: Error): Promise<number | undefined> {
  const [retries, delayMs] = await (job as unknown as Decides).shouldRetryJob(error);
  return retries ? (delayMs ?? 0) : undefined;
}

/**
 * Has BullMQ do what the row says about the error that is thrown next: a strategy with a random part
 * would give another delay when it is asked again.
 *
 * @param delayMs before the next attempt; undefined: the job fails
 */
export function decideRetry(job: Job, delayMs: number | undefined): void {
  const decision: Decides['shouldRetryJob'] = async () => [delayMs !== undefined, delayMs ?? 0];
  Object.assign(job, { shouldRetryJob: decision });
}
