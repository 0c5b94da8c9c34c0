/**
 * The configuration of a process, from its environment. `loadConfig` is the only reader of
 * an environment; everything else gets the frozen object.
 */
import { z } from 'zod';
import { DEFAULTS } from './defaults.ts';
import { InputInvalidError } from './errors.ts';

const wholeNumber = (min: number, max: number) =>
  z
    .string()
    .refine((text) => /^\d+$/.test(text) && Number(text) >= min && Number(text) <= max, {
      message: `expected a whole number from ${min} to ${max}`,
    })
    .transform(Number);
const milliseconds = wholeNumber;
const count = wholeNumber;
/** `never` is Infinity. */
const retention = (min: number, max: number) =>
  z.union([z.literal('never').transform(() => Number.POSITIVE_INFINITY), milliseconds(min, max)], {
    error: `expected a whole number from ${min} to ${max}, or never`,
  });
const url = (...protocols: string[]) =>
  z.string().refine((text) => URL.canParse(text) && protocols.includes(new URL(text).protocol), {
    message: `expected a URL that starts with ${protocols.map((p) => `${p}//`).join(' or ')}`,
  });

/** `tenant:token,tenant:token`. */
const tokens = z.string().transform((text, ctx) => {
  const byToken = new Map<string, string>();
  for (const pair of text.split(',')) {
    const at = pair.indexOf(':');
    const tenant = pair.slice(0, at).trim();
    const token = pair.slice(at + 1).trim();
    if (at < 1 || !/^[\w.-]{1,64}$/.test(tenant) || token.length < 16) {
      ctx.addIssue({
        code: 'custom',
        message:
          'expected tenant:token pairs with commas between; a tenant is 1 to 64 of A-Za-z0-9_.-, a token at least 16 characters',
      });
      return z.NEVER;
    }
    const other = byToken.get(token);
    if (other !== undefined && other !== tenant) {
      ctx.addIssue({
        code: 'custom',
        message: `${other} and ${tenant} have the same token; each tenant needs its own`,
      });
      return z.NEVER;
    }
    byToken.set(token, tenant);
  }
  return byToken;
});

/** One entry a variable: schema with its default and the text `.env.example` and the docs show. */
export const CONFIG_VARIABLES = {
  DATABASE_URL: { schema: url('postgres:', 'postgresql:'), about: 'Postgres, the truth. 14 or newer.' },
  REDIS_URL: { schema: url('redis:', 'rediss:'), about: 'Redis or Valkey, dispatcher and live bus. 6.2 or newer.' },
  REDIS_CLUSTER: {
    schema: z
      .enum(['true', 'false'], 'expected true or false')
      .default('false')
      .transform((text) => text === 'true'),
    about: 'REDIS_URL is a node of a Redis Cluster (Redis or Valkey 7 or newer).',
  },
  DATABASE_POOL_SIZE: {
    schema: count(2, 500).default(DEFAULTS.databasePoolSize),
    about: 'Postgres connections of this process.',
  },
  ONCEFLEET_PREFIX: {
    schema: z
      .string()
      .regex(/^[\w.-]{1,64}$/, 'expected 1 to 64 of A-Za-z0-9_.-')
      .default(DEFAULTS.prefix),
    about: 'Prefix of every Redis key and channel; one per fleet on a shared Redis.',
  },
  ONCEFLEET_TENANT: {
    schema: z
      .string()
      .regex(/^[\w.-]{1,64}$/, 'expected 1 to 64 of A-Za-z0-9_.-')
      .default(DEFAULTS.tenant),
    about: 'Tenant of the CLI, and of HTTP requests while no tokens are set.',
  },
  ONCEFLEET_TOKENS: { schema: tokens.optional(), about: 'HTTP tokens as tenant:token,… Unset: no authentication.' },
  ONCEFLEET_ADMIN_TOKEN: {
    schema: z.string().min(16).optional(),
    about: 'Password (any user name) of Bull Board. Needed for it once ONCEFLEET_TOKENS is set.',
  },
  ONCEFLEET_JOBS: {
    schema: z.string().optional(),
    about: 'Modules that export your jobs (defineJob), commas between.',
  },
  ONCEFLEET_CONCURRENCY: {
    schema: count(1, 1_000).default(DEFAULTS.concurrency),
    about: 'Jobs a worker process runs at once, per queue.',
  },
  ONCEFLEET_LEASE_TTL_MS: {
    schema: milliseconds(1_000, 3_600_000).default(DEFAULTS.leaseTtlMs),
    about: 'How long a silent worker keeps a job.',
  },
  ONCEFLEET_HEARTBEAT_MS: {
    schema: milliseconds(100, 1_800_000).default(DEFAULTS.leaseTtlMs / 3),
    about: 'How often leases are renewed. At most half the TTL.',
  },
  ONCEFLEET_MAX_BLOCK_MS: {
    schema: milliseconds(1_000, 86_400_000).default(DEFAULTS.maxBlockMs),
    about: 'A worker whose event loop is blocked longer than this loses its leases.',
  },
  ONCEFLEET_MAX_CRASHES: {
    schema: count(0, 1_000).default(DEFAULTS.maxCrashes),
    about: 'A job with more crashes than this is poisoned.',
  },
  ONCEFLEET_RESULT_TTL_MS: {
    schema: milliseconds(1_000, 31_536_000_000).default(DEFAULTS.resultTtlMs),
    about: 'How long a finished key replays its outcome.',
  },
  ONCEFLEET_RECONCILE_MS: {
    schema: milliseconds(100, 600_000).default(DEFAULTS.reconcileMs),
    about: 'How often the reconciler looks for lost work.',
  },
  ONCEFLEET_STREAM_RETENTION_MS: {
    schema: retention(1_000, 3_155_760_000_000).default(DEFAULTS.streamRetentionMs),
    about: 'How long after its end a job keeps its events; never: as long as the job. A tenant may have its own.',
  },
  ONCEFLEET_JOB_RETENTION_MS: {
    schema: retention(1_000, 3_155_760_000_000).default(DEFAULTS.jobRetentionMs),
    about: 'How long after its end a job is kept, with its outcome; never: for good. A tenant may have its own.',
  },
  ONCEFLEET_SWEEP_MS: {
    schema: milliseconds(0, 86_400_000).default(DEFAULTS.sweepMs),
    about: 'How often finished streams are folded and old jobs removed; 0: only by `oncefleet sweep`.',
  },
  ONCEFLEET_SHUTDOWN_MS: {
    schema: milliseconds(0, 600_000).default(DEFAULTS.shutdownMs),
    about: 'SIGTERM: how long running jobs may go on before they are interrupted.',
  },
  ONCEFLEET_LINGER_MS: {
    schema: milliseconds(0, 1_000).default(DEFAULTS.lingerMs),
    about: 'How long the journal waits for company before it flushes.',
  },
  HOST: { schema: z.string().default('127.0.0.1'), about: 'Address the web process listens on.' },
  PORT: { schema: count(0, 65_535).default(3_000), about: 'Port the web process listens on; 0 picks a free one.' },
  BODY_LIMIT_BYTES: { schema: count(1_024, 104_857_600).default(1_048_576), about: 'Largest request body.' },
  LOG_LEVEL: {
    schema: z.enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']).default('info'),
    about: 'Least level logged.',
  },
  OPENAI_BASE_URL: { schema: url('http:', 'https:').optional(), about: 'An OpenAI-compatible server for answers.' },
  OPENAI_API_KEY: { schema: z.string().optional(), about: 'Its key.' },
  OPENAI_MODEL: { schema: z.string().optional(), about: 'The model to ask. Unset: the built-in extractive answerer.' },
  ONCEFLEET_ANSWER_PACE_MS: {
    schema: milliseconds(0, 1_000).default(DEFAULTS.answerPaceMs),
    about: 'Pause between the words of the built-in extractive answerer.',
  },
} as const satisfies Record<string, { schema: z.ZodType; about: string }>;

type Variables = { [K in keyof typeof CONFIG_VARIABLES]: z.output<(typeof CONFIG_VARIABLES)[K]['schema']> };

export interface Config {
  readonly databaseUrl: string;
  readonly redisUrl: string;
  readonly redisCluster: boolean;
  readonly databasePoolSize: number;
  readonly prefix: string;
  readonly tenant: string;
  /** Token to tenant; absent when anybody may call. */
  readonly tokens: ReadonlyMap<string, string> | undefined;
  readonly adminToken: string | undefined;
  readonly jobModules: readonly string[];
  readonly concurrency: number;
  readonly leaseTtlMs: number;
  readonly heartbeatMs: number;
  readonly maxBlockMs: number;
  readonly maxCrashes: number;
  readonly resultTtlMs: number;
  readonly reconcileMs: number;
  /** Infinity: as long as the job. */
  readonly streamRetentionMs: number;
  /** Infinity: for good. */
  readonly jobRetentionMs: number;
  /** 0: no sweep in the background. */
  readonly sweepMs: number;
  readonly shutdownMs: number;
  readonly lingerMs: number;
  readonly host: string;
  readonly port: number;
  readonly bodyLimitBytes: number;
  readonly logLevel: string;
  /** The model that answers, when one is configured. */
  readonly model: { baseUrl: string; apiKey: string | undefined; name: string } | undefined;
  readonly answerPaceMs: number;
}

/**
 * Reads every variable once and reports every problem at once.
 *
 * A variable set to blanks counts as unset.
 *
 * @throws InputInvalidError CONFIG_INVALID, one issue a problem, `path` the variable's name
 */
export function loadConfig(env: Readonly<Record<string, string | undefined>>): Config {
  const issues: { path: string; message: string }[] = [];
  const values: Record<string, unknown> = {};
  for (const [name, { schema }] of Object.entries(CONFIG_VARIABLES)) {
    const raw = env[name]?.trim() === '' ? undefined : env[name]?.trim();
    const parsed = schema.safeParse(raw);
    if (parsed.success) values[name] = parsed.data;
    else if (raw === undefined) issues.push({ path: name, message: 'is required' });
    else issues.push(...parsed.error.issues.map((issue) => ({ path: name, message: issue.message })));
  }
  for (const name of Object.keys(env)) {
    if (!name.startsWith('ONCEFLEET_') || name in CONFIG_VARIABLES) continue;
    const near = nearestName(name);
    issues.push({
      path: name,
      message: near === undefined ? 'is not a setting' : `is not a setting; did you mean ${near}?`,
    });
  }
  const v = values as Partial<Variables>;
  if (
    v.ONCEFLEET_LEASE_TTL_MS !== undefined &&
    v.ONCEFLEET_HEARTBEAT_MS !== undefined &&
    v.ONCEFLEET_HEARTBEAT_MS * 2 > v.ONCEFLEET_LEASE_TTL_MS
  ) {
    issues.push({
      path: 'ONCEFLEET_HEARTBEAT_MS',
      message: `must fit twice into ONCEFLEET_LEASE_TTL_MS (${v.ONCEFLEET_LEASE_TTL_MS})`,
    });
  }
  if (v.OPENAI_MODEL !== undefined && v.OPENAI_BASE_URL === undefined) {
    issues.push({
      path: 'OPENAI_BASE_URL',
      message: 'is required when OPENAI_MODEL is set (https://api.openai.com/v1 is OpenAI itself)',
    });
  }
  if (v.OPENAI_BASE_URL !== undefined && v.OPENAI_MODEL === undefined) {
    issues.push({ path: 'OPENAI_MODEL', message: 'is required when OPENAI_BASE_URL is set' });
  }
  if (issues.length > 0) throw new InputInvalidError('Configuration', issues, 'CONFIG_INVALID');
  const all = values as Variables;
  return Object.freeze({
    databaseUrl: all.DATABASE_URL,
    redisUrl: all.REDIS_URL,
    redisCluster: all.REDIS_CLUSTER,
    databasePoolSize: all.DATABASE_POOL_SIZE,
    prefix: all.ONCEFLEET_PREFIX,
    tenant: all.ONCEFLEET_TENANT,
    tokens: all.ONCEFLEET_TOKENS,
    adminToken: all.ONCEFLEET_ADMIN_TOKEN,
    jobModules: (all.ONCEFLEET_JOBS ?? '')
      .split(',')
      .map((path) => path.trim())
      .filter((path) => path !== ''),
    concurrency: all.ONCEFLEET_CONCURRENCY,
    leaseTtlMs: all.ONCEFLEET_LEASE_TTL_MS,
    heartbeatMs: all.ONCEFLEET_HEARTBEAT_MS,
    maxBlockMs: all.ONCEFLEET_MAX_BLOCK_MS,
    maxCrashes: all.ONCEFLEET_MAX_CRASHES,
    resultTtlMs: all.ONCEFLEET_RESULT_TTL_MS,
    reconcileMs: all.ONCEFLEET_RECONCILE_MS,
    streamRetentionMs: all.ONCEFLEET_STREAM_RETENTION_MS,
    jobRetentionMs: all.ONCEFLEET_JOB_RETENTION_MS,
    sweepMs: all.ONCEFLEET_SWEEP_MS,
    shutdownMs: all.ONCEFLEET_SHUTDOWN_MS,
    lingerMs: all.ONCEFLEET_LINGER_MS,
    host: all.HOST,
    port: all.PORT,
    bodyLimitBytes: all.BODY_LIMIT_BYTES,
    logLevel: all.LOG_LEVEL,
    model:
      all.OPENAI_BASE_URL === undefined || all.OPENAI_MODEL === undefined
        ? undefined
        : { baseUrl: all.OPENAI_BASE_URL, apiKey: all.OPENAI_API_KEY, name: all.OPENAI_MODEL },
    answerPaceMs: all.ONCEFLEET_ANSWER_PACE_MS,
  });
}

/** The setting a misspelt name most likely means, if one is close. */
function nearestName(name: string): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.ceil(name.length / 4) + 1;
  for (const candidate of Object.keys(CONFIG_VARIABLES)) {
    const distance = editDistance(name, candidate);
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
