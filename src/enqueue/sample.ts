/**
 * A look at a part of a large input. zod finds every problem before it returns, and each costs it microseconds and
 * a hundred bytes: a megabyte of wrong items would block the event loop for seconds. So a likeness of the input
 * with long arrays and objects cut is checked first, and what is wrong with its uncut parts is wrong with the input.
 */
import type { Schema } from '../jobs/define-job.ts';

/** Items of an array, or fields of an object, that are looked at; evenly spaced. */
const MAX_ITEMS = 64;
/** Values that are looked at in all. */
const MAX_VALUES = 4_096;

type ZodIssue = { code?: string; path: readonly PropertyKey[]; message: string };

interface Cut {
  /** Where an item of the likeness stands in the input. */
  places: readonly number[];
}

/**
 * Problems of a JSON value that a part of it shows. None where the value is small, or its part is right.
 *
 * Counted are only those whose value is whole in the likeness. A check that the job's author has written may look at
 * several values at once, and so find problems that only the cuts have made: it is left for the look at everything.
 */
export function sampleIssues(schema: Schema, value: unknown): ZodIssue[] {
  const likeness = new Likeness();
  const sample = likeness.of(value);
  if (likeness.cuts.size === 0) return [];
  const parsed = schema.safeParse(sample);
  if (parsed.success) return [];
  return (parsed.error.issues as readonly ZodIssue[]).flatMap((issue) => {
    const path = issue.code === 'custom' ? undefined : likeness.pathInValue(sample, issue.path);
    return path === undefined ? [] : [{ path, message: issue.message }];
  });
}

class Likeness {
  /** Arrays and objects of the likeness that lack some of what the input's have. */
  readonly cuts = new Map<object, Cut>();
  #values = 0;

  of(value: unknown): unknown {
    this.#values++;
    if (typeof value !== 'object' || value === null) return value;
    if (Array.isArray(value)) {
      const places = this.#placesIn(value.length);
      const items = places.map((place) => this.of(value[place]));
      if (places.length < value.length) this.cuts.set(items, { places });
      return items;
    }
    const keys = Object.keys(value);
    const places = this.#placesIn(keys.length);
    // Not by assignment, which takes `__proto__` for something else.
    const fields = Object.fromEntries(
      places.map((place) => {
        const key = keys[place] as string;
        return [key, this.of((value as Record<string, unknown>)[key])];
      }),
    );
    if (places.length < keys.length) this.cuts.set(fields, { places });
    return fields;
  }

  /** The path in the input of what has this path in the likeness; `undefined` if it may be the cuts' doing. */
  pathInValue(sample: unknown, path: readonly PropertyKey[]): PropertyKey[] | undefined {
    const places: PropertyKey[] = [];
    let at = sample;
    for (const key of path) {
      if (typeof at !== 'object' || at === null) return undefined;
      const cut = this.cuts.get(at);
      if (cut !== undefined && !Object.hasOwn(at, key)) return undefined;
      places.push(cut !== undefined && Array.isArray(at) ? (cut.places[Number(key)] as number) : key);
      at = (at as Record<PropertyKey, unknown>)[key];
    }
    return this.#isWhole(at) ? places : undefined;
  }

  #isWhole(value: unknown): boolean {
    if (typeof value !== 'object' || value === null) return true;
    return !this.cuts.has(value) && Object.values(value).every((part) => this.#isWhole(part));
  }

  #placesIn(length: number): number[] {
    const wanted = this.#values >= MAX_VALUES ? 0 : Math.min(length, MAX_ITEMS);
    return Array.from({ length: wanted }, (_, i) => Math.floor((i * length) / wanted));
  }
}
