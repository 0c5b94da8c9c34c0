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

/** Median of the ratios within each round; undefined where no round has both. */
export function medianRatio(
  values: readonly (readonly [round: number, value: number])[],
  base: ReadonlyMap<number, number>,
): number | undefined {
  const ratios = values.flatMap(([round, value]) => (base.has(round) ? [value / (base.get(round) as number)] : []));
  return ratios.length === 0 ? undefined : spread(ratios).median;
}

/** Groups in the order of their first member; none is empty. */
export function grouped<T>(items: readonly T[], keyOf: (item: T) => string): IterableIterator<[T, ...T[]]> {
  const groups = new Map<string, [T, ...T[]]>();
  for (const item of items) {
    const group = groups.get(keyOf(item));
    if (group === undefined) groups.set(keyOf(item), [item]);
    else group.push(item);
  }
  return groups.values();
}
