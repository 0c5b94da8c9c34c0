/**
 * What the options of a fleet may be: one range and one default for the environment
 * (config.ts) and for library calls, and how options that make no sense are told.
 */
import { z } from 'zod';
import { InputInvalidError, type Issue, MAX_ISSUES, toIssues } from './errors.ts';
import { CENTURY_MS, MAX_INT } from './numbers.ts';
import { parseRedisUrl, readPem } from './redis-url.ts';

/** setTimeout fires at once for anything longer: 24.8 days. */
export const MAX_TIMER_MS = MAX_INT;

/** A whole number from `min` to `max`. */
export interface Range {
  readonly min: number;
  readonly max: number;
  readonly default: number;
}

/** Numbers of a fleet; times in ms. Retention takes Infinity too. */
export const RANGES = {
  databasePoolSize: { min: 2, max: 500, default: 10 },
  concurrency: { min: 1, max: 1_000, default: 10 },
  leaseTtlMs: { min: 1_000, max: 86_400_000, default: 60_000 },
  /** Of a lease with the default TTL; else a third of it. */
  heartbeatMs: { min: 100, max: 43_200_000, default: 20_000 },
  maxBlockMs: { min: 100, max: 86_400_000, default: 600_000 },
  maxCrashes: { min: 0, max: 100_000, default: 5 },
  resultTtlMs: { min: 0, max: 31_536_000_000, default: 86_400_000 },
  reconcileMs: { min: 100, max: 3_600_000, default: 5_000 },
  streamRetentionMs: { min: 1_000, max: CENTURY_MS, default: 604_800_000 },
  jobRetentionMs: { min: 1_000, max: CENTURY_MS, default: 2_592_000_000 },
  sweepMs: { min: 0, max: 86_400_000, default: 60_000 },
  shutdownMs: { min: 0, max: 86_400_000, default: 25_000 },
  lingerMs: { min: 0, max: 60_000, default: 5 },
} as const satisfies Record<string, Range>;

/** All documents of one upload, and what of a tenant may be stored, bytes. */
/** What one document may have. */
export const MAX_DOCUMENT_BYTES = 64 * 1024 * 1024;
export const UPLOAD_BYTES = { min: 1_024, max: 2 ** 40, default: 2 ** 30 } satisfies Range;
export const STORED_BYTES = { min: 1_024, max: 2 ** 50, default: 2 ** 33 } satisfies Range;

/** Pause between the words of the built-in answerer. */
export const ANSWER_PACE_MS = { min: 0, max: 1_000, default: 15 } satisfies Range;

/** Tenants in the environment, and prefixes anywhere. */
export const SHORT_NAME = /^[\w.-]{1,64}$/;
export const SHORT_NAME_MESSAGE = 'expected 1 to 64 of A-Za-z0-9_.-';

/** Where the tables are when no schema is named. */
export const DEFAULT_SCHEMA = 'oncefleet';

/** A plain identifier of Postgres, at most as long as it keeps; `pg_…` is Postgres's own. */
export const databaseSchema = z.custom<string>(
  (value) =>
    typeof value === 'string' && /^(?!pg_)[a-z_][a-z0-9_]{0,62}$/.test(value) && value !== 'information_schema',
  'expected the name of a schema: 1 to 63 of a-z0-9_, no digit first, and neither pg_… nor information_schema',
);

export const wholeNumber = ({ min, max }: Pick<Range, 'min' | 'max'>) =>
  z.custom<number>(
    (value) => Number.isInteger(value) && (value as number) >= min && (value as number) <= max,
    `expected a whole number from ${min} to ${max}`,
  );

/** Infinity: for good. */
export const retention = ({ min, max }: Pick<Range, 'min' | 'max'>) =>
  z.custom<number>(
    (value) =>
      value === Number.POSITIVE_INFINITY ||
      (Number.isInteger(value) && (value as number) >= min && (value as number) <= max),
    `expected a whole number from ${min} to ${max}, or Infinity`,
  );

/** A time to wait, in milliseconds; Infinity: for ever. */
export const waitMs = z.custom<number>(
  (value) => typeof value === 'number' && value >= 0,
  'expected 0 or more milliseconds',
);

export const aFunction = z.custom<(...args: never[]) => unknown>(
  (value) => typeof value === 'function',
  'expected a function',
);

/** An AbortSignal, also of another realm or a polyfill. */
export const abortSignal = z.custom<AbortSignal>(
  (value) =>
    typeof value === 'object' &&
    value !== null &&
    typeof (value as AbortSignal).aborted === 'boolean' &&
    typeof (value as AbortSignal).addEventListener === 'function',
  'expected an AbortSignal',
);

export const serviceUrl = (...protocols: string[]) =>
  z.custom<string>(
    (value) => typeof value === 'string' && isServiceUrl(value, protocols),
    `expected a URL that starts with ${protocols.map((protocol) => `${protocol}//`).join(' or ')}`,
  );

function isServiceUrl(given: string, protocols: readonly string[]): boolean {
  // For pg a user may stand before no host: the folder of a socket is in `?host=`.
  const text = URL.canParse(given) ? given : given.replace(/^(postgres(?:ql)?:\/\/[^/]*@)\//, '$1host/');
  if (!URL.canParse(text)) return false;
  const { protocol, username, password, pathname } = new URL(text);
  try {
    // As the drivers do, which throw once a connection is opened.
    for (const part of [username, password, pathname]) decodeURIComponent(part);
  } catch {
    return false;
  }
  return protocols.includes(protocol);
}

/** Certificates that it names are read, as the driver does once a connection is opened. */
export const databaseUrl = serviceUrl('postgres:', 'postgresql:').check((context) => {
  const { value } = context;
  const parameters = new URLSearchParams(value.split('?')[1]);
  for (const parameter of ['sslrootcert', 'sslcert', 'sslkey']) {
    const path = parameters.get(parameter);
    try {
      if (path !== null) readPem(parameter, path);
    } catch (error) {
      context.issues.push({ code: 'custom', input: value, message: (error as Error).message });
    }
  }
});

/** See redis-url.ts. Files that it names are read. */
export const redisUrl = z.custom<string>().check((context) => {
  const { value } = context;
  try {
    if (typeof value !== 'string')
      throw new Error('expected a URL that starts with redis://, rediss:// or redis+sentinel://');
    parseRedisUrl(value);
  } catch (error) {
    context.issues.push({ code: 'custom', input: value, message: (error as Error).message });
  }
});

// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it looks for.
const CONTROL = /[\u0000-\u001f\u007f]/;

/** Ten years: what shall last longer has no end. */
export const MAX_TOKEN_LIFE_MS = 315_576_000_000;

/** Well-formed: U+FFFD takes the place of a lone surrogate on its way to Postgres, and two tenants could be one. */
export const tenantName = z.custom<string>(
  (value) =>
    typeof value === 'string' && value !== '' && value.length <= 255 && value.isWellFormed() && !CONTROL.test(value),
  'expected 1 to 255 characters, none of them a control character',
);

/** Whether a host name or address is of this machine alone. */
export function isLoopback(host: string): boolean {
  const name = host.replace(/^\[(.*)\]$/, '$1').toLowerCase();
  return name === 'localhost' || name.endsWith('.localhost') || name === '::1' || /^127(?:\.\d{1,3}){3}$/.test(name);
}

/** A text to look for among stored ones, where none has a control character; NUL is an error of Postgres's. */
export const searchText = z
  .string()
  .refine((text) => !CONTROL.test(text), 'expected a text without control characters');

/**
 * Reads the options of a library call. What is `undefined` counts as not given.
 *
 * @param what of the call, for the message
 * @param also finds problems between options that are right one by one
 * @throws InputInvalidError the problems, each with the path of its option
 */
export function parseOptions<S extends z.ZodType>(
  what: string,
  schema: S,
  options: unknown,
  also: (given: Record<string, unknown>) => Issue[] = () => [],
): z.output<S> {
  const parsed = schema.safeParse(options);
  const more = also(typeof options === 'object' && options !== null ? (options as Record<string, unknown>) : {});
  if (parsed.success && more.length === 0) return parsed.data;
  const issues: Issue[] = [];
  let count = more.length;
  for (const issue of parsed.error?.issues ?? []) {
    const unknown = issue.code === 'unrecognized_keys' ? issue.keys : undefined;
    count += unknown?.length ?? 1;
    if (issues.length >= MAX_ISSUES) continue;
    if (unknown === undefined) issues.push(...toIssues([issue]));
    else issues.push(...unknownKeys(unknown.slice(0, MAX_ISSUES), issue.path, shapeAt(schema, issue.path)));
  }
  throw new InputInvalidError(what, [...issues, ...more], 'INPUT_INVALID', count);
}

function unknownKeys(keys: readonly string[], path: readonly PropertyKey[], known: readonly string[]): Issue[] {
  return keys.map((key) => ({
    path: toIssues([{ path: [...path, key], message: '' }])[0]?.path ?? key,
    message: unknownMessage('an option', key, known),
  }));
}

/** What is wrong with a heartbeat: two must fit into a TTL, so that one may fail. */
export function heartbeatMessage(
  heartbeatMs: number | undefined,
  leaseTtlMs: number | undefined,
  ttlName: string,
): string | undefined {
  if (heartbeatMs === undefined || leaseTtlMs === undefined || heartbeatMs * 2 <= leaseTtlMs) return undefined;
  return `must fit twice into ${ttlName} (${leaseTtlMs})`;
}

/** No name of ours is as long. */
const MAX_NAME_LENGTH = 100;

/** What to say of a name that is none, with the one it most likely means. */
export function unknownMessage(kind: string, name: string, known: readonly string[]): string {
  const near = nearestName(name, known);
  return near === undefined ? `is not ${kind}` : `is not ${kind}; did you mean ${near}?`;
}

/** Names of the fields of an object schema, or of the object schema in it. */
function shapeAt(schema: z.ZodType, path: readonly PropertyKey[]): string[] {
  let at: unknown = schema;
  for (;;) {
    while (at instanceof z.ZodOptional || at instanceof z.ZodDefault) at = at.unwrap();
    if (!(at instanceof z.ZodObject)) return [];
    const [next, ...rest] = path;
    if (next === undefined) return Object.keys(at.shape);
    at = at.shape[String(next)];
    path = rest;
  }
}

function nearestName(name: string, known: readonly string[]): string | undefined {
  // The distance takes as many steps as the product of both lengths.
  if (name.length > MAX_NAME_LENGTH) return undefined;
  let best: string | undefined;
  let bestDistance = Math.ceil(name.length / 4) + 1;
  for (const candidate of known) {
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase());
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  return best;
}

function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const current = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = (previous[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1);
      current[j] = Math.min(substitution, (previous[j] as number) + 1, (current[j - 1] as number) + 1);
    }
    previous = current;
  }
  return previous[b.length] as number;
}

/** A whole number in a variable. */
export const digits = ({ min, max }: Pick<Range, 'min' | 'max'>) =>
  z
    .string()
    .refine((text) => /^\d+$/.test(text) && Number(text) >= min && Number(text) <= max, {
      message: `expected a whole number from ${min} to ${max}`,
    })
    .transform(Number);
/** The same, with its default. */
export const number = (range: Range) => digits(range).default(range.default);

/** As `number`; `never` is Infinity. */
export const retentionVariable = (range: Range) =>
  z
    .union([z.literal('never').transform(() => Number.POSITIVE_INFINITY), digits(range)], {
      error: `expected a whole number from ${range.min} to ${range.max}, or never`,
    })
    .default(range.default);
