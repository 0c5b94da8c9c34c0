/** When a schedule ticks. Pure: the time comes from Postgres, never from the clock of this process. */
import { CronExpressionParser } from 'cron-parser';

export interface Timing {
  cron: string | null;
  timeZone: string | null;
  everyMs: number | null;
  /** Milliseconds since 1970, as all times here. */
  anchorAt: number;
  startAt: number | null;
  endAt: number | null;
}

/** Shorter intervals are what a queue with a delay, or a loop, is for. */
export const MIN_EVERY_MS = 1_000;
export const MAX_EVERY_MS = 366 * 24 * 3_600_000;

/** Five fields: cron's seconds would tick each second where a minute was meant. `H` is another time in each process. */
const CRON =
  /^(?:@(?:yearly|annually|monthly|weekly|daily|hourly)|[0-9A-GI-Za-gi-z*?/,#-]+(?: +[0-9A-GI-Za-gi-z*?/,#-]+){4})$/;

/** What is wrong with a cron expression; undefined: nothing. */
export function cronProblem(cron: string): string | undefined {
  if (!CRON.test(cron))
    return 'expected five fields (minute, hour, day of month, month, day of week), without seconds and H, or @hourly, @daily, @weekly, @monthly, @yearly';
  try {
    CronExpressionParser.parse(cron, { tz: 'UTC', currentDate: new Date(0) }).next();
    return undefined;
  } catch (error) {
    const { message } = error as Error;
    return /loop limit|day of month/i.test(message) ? 'never fires' : `is not understood: ${message.slice(0, 200)}`;
  }
}

export function isTimeZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat('en', { timeZone: name });
    return true;
  } catch {
    return false;
  }
}

/** Ticks after a time, in order, up to the end of the schedule; there may be any number. */
export function* ticksAfter(timing: Timing, after: number): Generator<number, void> {
  const { endAt, startAt } = timing;
  const from = startAt === null ? after : Math.max(after, startAt - 1);
  for (const tick of timing.cron === null ? intervals(timing, from) : cronTimes(timing, from)) {
    if (endAt !== null && tick > endAt) return;
    yield tick;
  }
}

/** The first tick after a time; null: there is none. */
export function nextTick(timing: Timing, after: number): number | null {
  return ticksAfter(timing, after).next().value ?? null;
}

function* intervals({ everyMs, anchorAt }: Timing, after: number): Generator<number, void> {
  const every = everyMs as number;
  for (let n = Math.floor((after - anchorAt) / every) + 1; ; n++) yield anchorAt + n * every;
}

function* cronTimes({ cron, timeZone }: Timing, after: number): Generator<number, void> {
  const times = CronExpressionParser.parse(cron as string, {
    tz: timeZone as string,
    currentDate: new Date(after),
  });
  for (;;) yield times.next().getTime();
}
