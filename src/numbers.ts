/**
 * The door for numbers that this code did not make: from a handler, a header, the options of another BullMQ
 * client, or a row that somebody wrote by hand. A call that can be refused is (`options.ts`); where nobody is
 * there to be told, the number is clamped here, so that each statement and each timer gets one that it takes.
 */

/** A hundred years: no job outlives it. Postgres adds it to any time, and Redis keeps it in a double. */
export const CENTURY_MS = 3_155_760_000_000;

/** Of Postgres's `integer`, and of timers: setTimeout fires at once for anything longer than 24.8 days. */
export const MAX_INT = 2 ** 31 - 1;

interface Bounds {
  readonly min: number;
  readonly max: number;
  /** For what is no number. */
  readonly default: number;
}

/**
 * A number as strangers write it: numbers, bigints and numeric texts; NaN for everything else. Infinity is a number
 * here, so that `clamp` gives the bound.
 */
export function toNumber(value: unknown): number {
  if (typeof value === 'number') return value;
  if (typeof value === 'bigint') return Number(value);
  return typeof value === 'string' && value.trim() !== '' ? Number(value) : Number.NaN;
}

/** The number nearest to `value` within the bounds; never NaN, never -0. */
export function clamp(value: unknown, bounds: Bounds): number {
  const number = toNumber(value);
  return Number.isNaN(number) ? bounds.default : Math.min(Math.max(number, bounds.min), bounds.max) + 0;
}

/** The same, without a fraction. */
export function clampWhole(value: unknown, bounds: Bounds): number {
  return Math.trunc(clamp(value, bounds)) + 0;
}

const DELAY = { min: 0, max: CENTURY_MS, default: 0 };

/** A time to wait, in milliseconds. */
export function clampDelayMs(value: unknown): number {
  return clamp(value, DELAY);
}
