/** What aborts a run from outside its lease: time, and BullMQ. Each returns a function that ends it. */
import { InterruptedError, OncefleetError } from '../errors.ts';
import { MAX_TIMER_MS } from '../options.ts';
import type { Delivery } from './delivery.ts';
import type { Stop } from './stop.ts';

/** The limits of an attempt and of its job. @returns undefined: the run has no limit in time */
export function abortByTime(
  stop: Stop,
  { timeoutMs, deadlineLeftMs }: { timeoutMs: number | undefined; deadlineLeftMs: number | null },
): (() => void) | undefined {
  if (timeoutMs === undefined && deadlineLeftMs === null) return undefined;
  const timers: NodeJS.Timeout[] = [];
  const abortAfter = (ms: number, code: 'TIMEOUT' | 'DEADLINE_EXCEEDED', message: string) =>
    timers.push(setTimeout(() => stop.abort(new OncefleetError(code, message)), ms));
  if (timeoutMs !== undefined) abortAfter(timeoutMs, 'TIMEOUT', `The attempt ran longer than ${timeoutMs} ms`);
  if (deadlineLeftMs !== null) {
    const leftMs = Math.min(Math.max(deadlineLeftMs, 0), MAX_TIMER_MS);
    abortAfter(leftMs, 'DEADLINE_EXCEEDED', 'The job was not finished by its deadline');
  }
  return () => timers.forEach(clearTimeout);
}

/** A user's processor hears BullMQ's own cancel, and what it makes of it is the outcome. */
export function abortByBullMQ(stop: Stop, jobId: string, { signal, spec }: Delivery): (() => void) | undefined {
  if (signal === undefined) return undefined;
  const onAbort = () => {
    if (spec.transparent) stop.pass(signal.reason);
    else stop.abort(new InterruptedError(jobId));
  };
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) {
    // A processor listens for a cancel once it runs; it hears then of one that came during the claim.
    if (spec.transparent) setImmediate(onAbort);
    else onAbort();
  }
  return () => signal.removeEventListener('abort', onAbort);
}
