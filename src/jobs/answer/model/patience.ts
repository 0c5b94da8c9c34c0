/** When a server that is busy or unreachable is asked again. */
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { RetryAfterError } from '../../../errors.ts';
import type { ModelFault } from './errors.ts';

const FIRST_DELAY_MS = 500;
const LONGEST_DELAY_MS = 30_000;

/** Undefined: asking again would not help, or costs again. */
export function delayAfter(fault: ModelFault, tries: number): number | undefined {
  if (!fault.isPassing) return undefined;
  const doubled = 2 ** Math.min(tries - 1, 20);
  // "Retry-After: 0" again and again is no reason to ask without a pause.
  if (fault.error instanceof RetryAfterError) return Math.max(fault.error.retryAfterMs, Math.min(10 * doubled, 1_000));
  const delay = Math.min(FIRST_DELAY_MS * doubled, LONGEST_DELAY_MS);
  return Math.round(delay * (0.5 + Math.random() / 2));
}

/** Names a request in its idempotency key. */
export function digest(request: unknown): string {
  return createHash('sha256').update(JSON.stringify(request)).digest('hex').slice(0, 32);
}

/** @throws the signal's reason, once it is aborted */
export async function pause(delayMs: number, signal: AbortSignal): Promise<void> {
  try {
    await sleep(delayMs, undefined, { signal });
  } catch {
    signal.throwIfAborted();
  }
}
