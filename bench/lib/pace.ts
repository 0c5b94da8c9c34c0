/** Open-loop load: each thing is done when it is due, whatever became of earlier ones. */
import { setTimeout as sleep } from 'node:timers/promises';
import { now } from './clock.ts';

const TICK_MS = 1;

/**
 * Calls `emit` `total` times, evenly spread, in order.
 *
 * @returns how late each call was, in milliseconds: the machine's part in latencies measured from there
 */
export async function pace(perSecond: number, total: number, emit: (n: number) => void): Promise<number[]> {
  const late: number[] = [];
  const begun = now();
  const dueAt = (n: number) => begun + (n * 1_000) / perSecond;
  for (let n = 0; n < total; ) {
    const at = now();
    for (; n < total && dueAt(n) <= at; n++) {
      late.push(at - dueAt(n));
      emit(n);
    }
    await sleep(TICK_MS);
  }
  return late;
}
