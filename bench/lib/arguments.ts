/** What benches make of their options. */
import { type BenchOptions, UsageError } from './bench.ts';

/** Another order each round: what one case leaves behind must not always meet the same next one. */
export function rotate<T>(items: readonly T[], by: number): T[] {
  const start = items.length === 0 ? 0 : by % items.length;
  return [...items.slice(start), ...items.slice(0, start)];
}

/** Those of `known` that a list with commas names, in the order of `known`; by default all. @throws UsageError */
export function choose<T extends string>(text: string | undefined, known: readonly T[]): readonly T[] {
  if (text === undefined) return known;
  const wanted = text.split(',').map((name) => name.trim());
  const unknown = wanted.filter((name) => !known.some((one) => one === name));
  if (unknown.length > 0) throw new UsageError(`Not known: ${unknown.join(', ')}; there are ${known.join(', ')}`);
  return known.filter((name) => wanted.includes(name));
}

/** An option that is a whole number; `otherwise` where it is not set. @throws UsageError */
export function numberOption<T>(own: BenchOptions['own'], name: string, otherwise: T): number | T {
  const text = own[name];
  return text === undefined ? otherwise : wholeNumber(name, text);
}

/** @throws UsageError */
export function wholeNumber(name: string, text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1)
    throw new UsageError(`--${name}: expected a number from 1 on, not "${text}"`);
  return value;
}
