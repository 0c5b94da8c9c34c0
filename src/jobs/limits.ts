/** Limits of a definition, and the keys of a job under them. */
import { z } from 'zod';
import { OncefleetError } from '../errors.ts';
import { aFunction, tenantName, wholeNumber } from '../options.ts';

/**
 * How many jobs of one key run at once, and how many start in a time. A job over a limit holds no slot: it waits in
 * Postgres, and is woken when a place is free.
 */
export interface JobLimit<I = unknown> {
  /**
   * What keys of this limit begin with, so that limits of other definitions are others. Default the job's name, for a
   * job with one limit. Definitions that give it one name share their places under equal keys.
   */
  name: string;
  /**
   * Which jobs share a place: computed once, at the enqueue. `undefined`: the limit does not hold for this job.
   * At most 255 characters, none of them a control character.
   */
  key(job: { input: I; tenant: string }): string | undefined;
  /** Jobs of one key that run at once, 1 to 10,000. */
  concurrency?: number | undefined;
  /** Jobs of one key that start within any `perMs` milliseconds, 1 to 10,000. */
  rate?: { max: number; perMs: number } | undefined;
}

/** As `defineJob` takes it. */
export type JobLimitOptions<I> = Omit<JobLimit<I>, 'name'> & { name?: string };

const LIMIT_NAME = /^[A-Za-z0-9][\w.-]{0,99}$/;
const MAX_LIMITS = 4;
const MAX_KEY_LENGTH = 255;
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it looks for.
const CONTROL = /[\u0000-\u001f\u007f]/;

const concurrency = wholeNumber({ min: 1, max: 10_000 });
const rate = z.strictObject({
  max: wholeNumber({ min: 1, max: 10_000 }),
  perMs: wholeNumber({ min: 1, max: 86_400_000 }),
});

/** What an operator grants a tenant; null takes it back. */
export const tenantLimitsSchema = z.strictObject({
  tenant: tenantName,
  concurrency: concurrency.nullable().optional(),
  rate: rate.nullable().optional(),
  weight: z
    .custom<number>(
      (value) => typeof value === 'number' && value >= 0.01 && value <= 100,
      'expected a weight from 0.01 to 100',
    )
    .nullable()
    .optional(),
});

const limitSchema = z
  .strictObject({
    name: z
      .custom<string>(
        (value) => typeof value === 'string' && LIMIT_NAME.test(value),
        'expected a limit name: 1 to 100 of A-Za-z0-9_.-, the first a letter or digit',
      )
      .optional(),
    key: aFunction,
    concurrency: concurrency.optional(),
    rate: rate.optional(),
  })
  .refine(
    ({ concurrency, rate }) => concurrency !== undefined || rate !== undefined,
    'expected concurrency, rate or both',
  );

export const limitsSchema = z
  .array(limitSchema)
  .max(MAX_LIMITS, `expected at most ${MAX_LIMITS} limits`)
  .superRefine((limits, context) => {
    const names = new Set<string>();
    for (const [i, { name }] of limits.entries()) {
      const say = (message: string) => context.addIssue({ code: 'custom', path: [i, 'name'], message });
      if (name === undefined && limits.length > 1) say('expected a name, because the job has several limits');
      else if (name !== undefined && names.has(name)) say('expected another name than the limits before it have');
      if (name !== undefined) names.add(name);
    }
  });

/** Limits with their names; undefined where there are none. */
export function namedLimits<I>(
  jobName: string,
  limits: readonly JobLimitOptions<I>[] | undefined,
): readonly JobLimit<I>[] | undefined {
  if (limits === undefined || limits.length === 0) return undefined;
  return Object.freeze(
    limits.map((limit) =>
      Object.freeze({
        name: limit.name ?? jobName,
        key: limit.key.bind(limit),
        concurrency: limit.concurrency,
        rate: limit.rate === undefined ? undefined : Object.freeze({ ...limit.rate }),
      }),
    ),
  );
}

/**
 * The keys of a job under its limits, as JSON text for its row; undefined where none holds for it.
 *
 * @throws OncefleetError LIMIT_KEY_INVALID a key function throws, or returns what is no key
 */
export function limitKeysOf(
  jobName: string,
  limits: readonly JobLimit[] | undefined,
  job: { input: unknown; tenant: string },
): string | undefined {
  if (limits === undefined) return undefined;
  const keys = limits.flatMap((limit, i) => {
    const path = `limits[${i}].key`;
    let key: unknown;
    try {
      key = limit.key(job);
    } catch (cause) {
      // What it says may have the input in it.
      throw invalidKey(`${path} of job ${jobName} threw`, path, cause);
    }
    if (key === undefined) return [];
    if (typeof key !== 'string')
      throw invalidKey(`${path} of job ${jobName} returned no text but ${typeName(key)}`, path);
    if (key === '' || key.length > MAX_KEY_LENGTH || CONTROL.test(key) || !key.isWellFormed())
      throw invalidKey(
        `${path} of job ${jobName} returned a text that is no key: 1 to ${MAX_KEY_LENGTH} characters, none of them a control character`,
        path,
      );
    return [`${limit.name}/${key}`];
  });
  return keys.length === 0 ? undefined : JSON.stringify(keys);
}

function typeName(value: unknown): string {
  return value === null
    ? 'null'
    : typeof value === 'object' && typeof (value as { then?: unknown }).then === 'function'
      ? 'a promise'
      : typeof value;
}

function invalidKey(message: string, path: string, cause?: unknown): OncefleetError {
  return new OncefleetError('LIMIT_KEY_INVALID', message, {
    details: { path },
    ...(cause === undefined ? {} : { cause }),
  });
}
