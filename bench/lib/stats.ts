export interface Spread {
  min: number;
  median: number;
  max: number;
}

/** @throws Error there are no values */
export function spread(values: readonly number[]): Spread {
  return { min: percentile(values, 0), median: percentile(values, 50), max: percentile(values, 100) };
}

/**
 * The value below which `percent` of all values lie, between neighbours by linear interpolation.
 *
 * @throws Error there are no values
 */
export function percentile(values: readonly number[], percent: number): number {
  if (values.length === 0) throw new Error('no values');
  const sorted = [...values].sort((a, b) => a - b);
  const place = ((sorted.length - 1) * percent) / 100;
  const below = sorted[Math.floor(place)] as number;
  const above = sorted[Math.ceil(place)] as number;
  return below + (above - below) * (place - Math.floor(place));
}

/** To so many significant digits: figures of a noisy machine deserve no more. */
export function round(value: number, digits = 4): number {
  return Number(value.toPrecision(digits));
}
