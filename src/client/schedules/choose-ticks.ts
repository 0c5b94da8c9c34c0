/** What becomes of the ticks of a schedule that are due. Pure. */
import type { DueSchedule } from '../../db/schedules.ts';
import { ticksAfter } from './times.ts';

/** Ticks that are looked at for one schedule in one transaction; a tenth of a second of cron. */
const MAX_LOOKED_AT = 2_000;

/** Ticks that `all` makes up for; those before are skipped. */
const MAX_MADE_UP = 1_000;

/** A tick that is later than this was missed, although no other has come after it. */
const LATE_MS = 60_000;

/** Which of the ticks that are due make a job, and when the next one is. */
export function chooseTicks(
  schedule: DueSchedule,
  now: number,
): { ticks: number[]; nextAt: number | null; skipped: number } {
  const due: number[] = [];
  let nextAt: number | null = null;
  for (const tick of ticksAfter(schedule, schedule.nextAt - 1)) {
    if (tick > now || due.length === MAX_LOOKED_AT) {
      nextAt = tick;
      break;
    }
    due.push(tick);
  }
  // More than are looked at: the older half is over for every kind of catching up, and the rest is looked at next.
  if (due.length === MAX_LOOKED_AT && nextAt !== null && nextAt <= now)
    return { ticks: [], nextAt: due[MAX_MADE_UP] as number, skipped: MAX_MADE_UP };
  const ticks = caughtUp(schedule, due, now);
  return { ticks, nextAt, skipped: due.length - ticks.length };
}

function caughtUp({ catchUp, overlap, busy }: DueSchedule, due: readonly number[], now: number): number[] {
  if (overlap === 'skip' && busy) return [];
  const last = due.slice(-1);
  if (catchUp === 'all') return overlap === 'skip' ? last : due.slice(-MAX_MADE_UP);
  if (catchUp === 'one') return last;
  return last.filter((tick) => now - tick <= LATE_MS);
}
