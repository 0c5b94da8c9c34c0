/**
 * The configuration of a process, from its environment. `loadConfig` is the only reader of
 * an environment; everything else gets the frozen object.
 */
import { z } from 'zod';
import {
  accessIssues,
  bearerToken,
  CALLER_VARIABLES,
  type CallerSettings,
  callerSettings,
  origins,
  tokens,
} from './access-settings.ts';
import { InputInvalidError } from './errors.ts';
import {
  EMBEDDING_RANGES,
  EMBEDDING_REQUESTS_PER_MINUTE,
  type EmbeddingSettings,
  embeddingOf,
  MAX_OUTPUT_TOKENS,
  MODEL_RANGES,
  type ModelSettings,
  modelIssues,
  modelOf,
} from './model-settings.ts';
import {
  ANSWER_PACE_MS,
  DEFAULT_SCHEMA,
  databaseSchema,
  databaseUrl,
  digits,
  heartbeatMessage,
  number,
  RANGES,
  redisUrl,
  retentionVariable,
  SHORT_NAME,
  SHORT_NAME_MESSAGE,
  STORED_BYTES,
  serviceUrl,
  UPLOAD_BYTES,
  unknownMessage,
} from './options.ts';

const shortName = z.string().regex(SHORT_NAME, SHORT_NAME_MESSAGE);

/** What requests in progress, and answers that are not read, may hold in memory. */
export const IN_FLIGHT_BYTES = 67_108_864;

/** One entry a variable: schema with its default and the text `.env.example` and the docs show. */
export const CONFIG_VARIABLES = {
  DATABASE_URL: { schema: databaseUrl, about: 'Postgres, the truth. 14 or newer.' },
  REDIS_URL: {
    schema: redisUrl,
    about: 'Redis or Valkey, dispatcher and live bus. 6.2 or newer. redis+sentinel://: behind Sentinels.',
  },
  REDIS_CLUSTER: {
    schema: z
      .enum(['true', 'false'], 'expected true or false')
      .default('false')
      .transform((text) => text === 'true'),
    about: 'REDIS_URL is a node of a Redis Cluster (Redis or Valkey 7 or newer).',
  },
  DATABASE_SCHEMA: {
    schema: databaseSchema.default(DEFAULT_SCHEMA),
    about: 'Schema of the tables; `oncefleet migrate` makes it.',
  },
  DATABASE_POOL_SIZE: { schema: number(RANGES.databasePoolSize), about: 'Postgres connections of this process.' },
  ONCEFLEET_PREFIX: {
    schema: shortName.default('oncefleet'),
    about: 'Prefix of every Redis key and channel; one per fleet on a shared Redis.',
  },
  ONCEFLEET_TENANT: {
    schema: shortName.default('default'),
    about: 'Tenant of the CLI, and of HTTP requests while no tokens are set.',
  },
  ONCEFLEET_TOKENS: { schema: tokens.optional(), about: 'HTTP tokens as tenant:token,… Unset: no authentication.' },
  ONCEFLEET_REQUIRE_TOKENS: {
    schema: z
      .enum(['true', 'false'], 'expected true or false')
      .default('false')
      .transform((text) => text === 'true'),
    about: 'Every request needs a token, also where ONCEFLEET_TOKENS names none: `oncefleet token create` makes them.',
  },
  ONCEFLEET_ADMIN_TOKEN: {
    schema: z
      .string()
      .min(16)
      .refine((text) => !/\p{Cc}/u.test(text), 'expected no control characters')
      .optional(),
    about: 'Password (any user name) of Bull Board. Needed for it once ONCEFLEET_TOKENS is set.',
  },
  ONCEFLEET_ALLOW_ANYONE: {
    schema: z
      .enum(['true', 'false'], 'expected true or false')
      .default('false')
      .transform((text) => text === 'true'),
    about: 'Without tokens: HOST may be another address than loopback, and requests may name any host.',
  },
  ONCEFLEET_REDACT: {
    schema: z.string().default('password,secret,token,authorization,apiKey'),
    about: 'Names of fields of inputs, results and events whose values the console does not show, commas between.',
  },
  ONCEFLEET_CORS_ORIGINS: {
    schema: origins.optional(),
    about: 'Origins of web pages that may call the API, commas between. Unset: any (*) with tokens, none without.',
  },
  ONCEFLEET_METRICS_TOKEN: {
    schema: bearerToken.optional(),
    about: 'Token of /metrics. Needed for it once ONCEFLEET_TOKENS is set.',
  },
  ONCEFLEET_METRICS_PORT: {
    schema: digits({ min: 0, max: 65_535 }).optional(),
    about: 'Port on which a worker serves /metrics; 0 picks a free one. Unset: it serves none.',
  },
  ONCEFLEET_METRICS_HOST: {
    schema: z.string().default('127.0.0.1'),
    about: 'Address of that port.',
  },
  ONCEFLEET_METRICS_ROWS: {
    schema: z
      .enum(['true', 'false'], 'expected true or false')
      .transform((text) => text === 'true')
      .optional(),
    about: 'Whether /metrics has the gauges that are read from Postgres. Unset: of a web process yes, of a worker no.',
  },
  ONCEFLEET_JOBS: {
    schema: z.string().optional(),
    about: 'Modules that export your jobs (defineJob), commas between.',
  },
  ONCEFLEET_CONCURRENCY: {
    schema: number(RANGES.concurrency),
    about: 'Jobs a worker process runs at once, per queue.',
  },
  ONCEFLEET_LEASE_TTL_MS: {
    schema: number(RANGES.leaseTtlMs),
    about: 'How long a worker without a heartbeat keeps a job.',
  },
  ONCEFLEET_HEARTBEAT_MS: {
    schema: digits(RANGES.heartbeatMs).optional(),
    about: 'How often leases are renewed. At most half the TTL; unset: a third of it.',
  },
  ONCEFLEET_MAX_BLOCK_MS: {
    schema: number(RANGES.maxBlockMs),
    about: 'A worker whose event loop is blocked longer than this loses its leases.',
  },
  ONCEFLEET_MAX_CRASHES: {
    schema: number(RANGES.maxCrashes),
    about: 'A job with more crashes than this is poisoned.',
  },
  ONCEFLEET_RESULT_TTL_MS: {
    schema: number(RANGES.resultTtlMs),
    about: 'How long a finished key replays its outcome.',
  },
  ONCEFLEET_RECONCILE_MS: {
    schema: number(RANGES.reconcileMs),
    about: 'How often the reconciler looks for lost work.',
  },
  ONCEFLEET_STREAM_RETENTION_MS: {
    schema: retentionVariable(RANGES.streamRetentionMs),
    about: 'How long after its end a job keeps its events; never: as long as the job. A tenant may have its own.',
  },
  ONCEFLEET_JOB_RETENTION_MS: {
    schema: retentionVariable(RANGES.jobRetentionMs),
    about: 'How long after its end a job is kept, with its outcome; never: for good. A tenant may have its own.',
  },
  ONCEFLEET_SWEEP_MS: {
    schema: number(RANGES.sweepMs),
    about: 'How often finished streams are folded and old jobs removed; 0: only by `oncefleet sweep`.',
  },
  ONCEFLEET_SHUTDOWN_MS: {
    schema: number(RANGES.shutdownMs),
    about: 'SIGTERM: how long running jobs may continue before they are interrupted.',
  },
  ONCEFLEET_FAIR_TENANTS: {
    schema: z
      .enum(['true', 'false'], 'expected true or false')
      .default('true')
      .transform((text) => text === 'true'),
    about: 'Jobs of several tenants that wait in one queue are started in turns, by weight.',
  },
  ONCEFLEET_LINGER_MS: {
    schema: number(RANGES.lingerMs),
    about: 'How long the journal waits for company before it flushes.',
  },
  HOST: { schema: z.string().default('127.0.0.1'), about: 'Address the web process listens on.' },
  PORT: {
    schema: number({ min: 0, max: 65_535, default: 3_000 }),
    about: 'Port the web process listens on; 0 picks a free one.',
  },
  BODY_LIMIT_BYTES: {
    schema: number({ min: 1_024, max: 104_857_600, default: 1_048_576 }),
    about: 'Largest request body.',
  },
  IN_FLIGHT_BYTES: {
    schema: number({ min: 16_777_216, max: 17_179_869_184, default: IN_FLIGHT_BYTES }),
    about: 'What requests in progress and unread answers may hold in memory; one tenant alone, half of it.',
  },
  ...CALLER_VARIABLES,
  UPLOAD_LIMIT_BYTES: {
    schema: number(UPLOAD_BYTES),
    about: 'Largest upload: all documents of one request.',
  },
  UPLOAD_STORE_BYTES: {
    schema: number(STORED_BYTES),
    about: 'Documents of a tenant that may wait for their jobs, in bytes; more are refused.',
  },
  LOG_LEVEL: {
    schema: z.enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']).default('info'),
    about: 'Least level logged.',
  },
  OPENAI_BASE_URL: {
    schema: serviceUrl('http:', 'https:').optional(),
    about: 'An OpenAI-compatible server for answers.',
  },
  OPENAI_API_KEY: { schema: z.string().optional(), about: 'Its key.' },
  OPENAI_MODEL: { schema: z.string().optional(), about: 'The model to ask. Unset: the built-in extractive answerer.' },
  OPENAI_FIRST_TOKEN_MS: {
    schema: number(MODEL_RANGES.firstTokenMs),
    about: 'Longest from a request to the model to the first text or reasoning.',
  },
  OPENAI_IDLE_MS: {
    schema: number(MODEL_RANGES.idleMs),
    about: 'Longest pause of its text; pings and empty pieces do not count.',
  },
  OPENAI_TOTAL_MS: { schema: number(MODEL_RANGES.totalMs), about: 'Longest that one request may last.' },
  OPENAI_PATIENCE_MS: {
    schema: number(MODEL_RANGES.patienceMs),
    about: 'How long a busy or unreachable model is asked again before the attempt fails.',
  },
  OPENAI_PROMPT_TOKENS: {
    schema: number(MODEL_RANGES.promptTokens),
    about: 'Largest prompt, sources and conversation included, by estimate.',
  },
  OPENAI_MAX_OUTPUT_TOKENS: {
    schema: digits(MAX_OUTPUT_TOKENS).optional(),
    about: "Sent as max_tokens. Unset: the server's own limit.",
  },
  OPENAI_FALLBACK_MODEL: {
    schema: z.string().optional(),
    about: 'Asked where the first model has not begun to answer.',
  },
  OPENAI_FALLBACK_BASE_URL: {
    schema: serviceUrl('http:', 'https:').optional(),
    about: 'Its server. Unset: the same.',
  },
  OPENAI_FALLBACK_API_KEY: { schema: z.string().optional(), about: 'Its key. Unset: the same.' },
  EMBEDDING_MODEL: {
    schema: z.string().optional(),
    about: 'A model that makes vectors of texts, for searches by meaning. Unset: searches go by words.',
  },
  EMBEDDING_BASE_URL: {
    schema: serviceUrl('http:', 'https:').optional(),
    about: 'Its OpenAI-compatible server. Unset: OPENAI_BASE_URL.',
  },
  EMBEDDING_API_KEY: { schema: z.string().optional(), about: 'Its key. Unset: at the same server the same.' },
  EMBEDDING_REQUEST_MS: {
    schema: number(EMBEDDING_RANGES.requestMs),
    about: 'Longest that one request to it may last.',
  },
  EMBEDDING_QUESTION_MS: {
    schema: number(EMBEDDING_RANGES.questionMs),
    about: 'Longest that a question waits for its vector; then it is answered by its words alone.',
  },
  EMBEDDING_PATIENCE_MS: {
    schema: number(EMBEDDING_RANGES.patienceMs),
    about: 'How long an ingest asks a busy or unreachable server again before the attempt fails.',
  },
  EMBEDDING_BATCH: { schema: number(EMBEDDING_RANGES.batch), about: 'Most chunks in one request.' },
  EMBEDDING_REQUESTS_PER_MINUTE: {
    schema: digits(EMBEDDING_REQUESTS_PER_MINUTE).optional(),
    about: 'Most requests of this process in a minute. Unset: one after another.',
  },
  ONCEFLEET_ANSWER_PACE_MS: {
    schema: number(ANSWER_PACE_MS),
    about: 'Pause between the words of the built-in extractive answerer.',
  },
} as const satisfies Record<string, { schema: z.ZodType; about: string }>;

type Variables = { [K in keyof typeof CONFIG_VARIABLES]: z.output<(typeof CONFIG_VARIABLES)[K]['schema']> };

export interface Config extends CallerSettings {
  readonly databaseUrl: string;
  readonly redisUrl: string;
  readonly redisCluster: boolean;
  /** Schema of the tables. */
  readonly databaseSchema: string;
  readonly databasePoolSize: number;
  readonly prefix: string;
  readonly tenant: string;
  /** Token to tenant; absent when anybody may call; empty where only those in Postgres are accepted. */
  readonly tokens: ReadonlyMap<string, string> | undefined;
  readonly adminToken: string | undefined;
  /** Whoever reaches the web process may call it, though there are no tokens. */
  readonly allowAnyone: boolean;
  /** Names of fields whose values the console does not show. */
  readonly redactedFields: readonly string[];
  /** Absent: any with tokens, none without. */
  readonly corsOrigins: readonly string[] | undefined;
  readonly metricsToken: string | undefined;
  /** Absent: a worker serves no metrics. */
  readonly metricsPort: number | undefined;
  readonly metricsHost: string;
  /** Absent: a web process shows gauges of rows, a worker does not. */
  readonly metricsRows: boolean | undefined;
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
  readonly fairTenants: boolean;
  readonly lingerMs: number;
  readonly host: string;
  readonly port: number;
  readonly bodyLimitBytes: number;
  readonly inFlightBytes: number;
  readonly uploadLimitBytes: number;
  readonly uploadStoreBytes: number;
  readonly logLevel: string;
  /** The model that answers, when one is configured. */
  readonly model: ModelSettings | undefined;
  /** What makes vectors of texts, when one is configured. */
  readonly embedding: EmbeddingSettings | undefined;
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
    issues.push({ path: name, message: unknownMessage('a setting', name, Object.keys(CONFIG_VARIABLES)) });
  }
  const v = values as Partial<Variables>;
  const beat = heartbeatMessage(v.ONCEFLEET_HEARTBEAT_MS, v.ONCEFLEET_LEASE_TTL_MS, 'ONCEFLEET_LEASE_TTL_MS');
  if (beat !== undefined) issues.push({ path: 'ONCEFLEET_HEARTBEAT_MS', message: beat });
  issues.push(...accessIssues(v));
  issues.push(...modelIssues(v));
  if (issues.length > 0) throw new InputInvalidError('Configuration', issues, 'CONFIG_INVALID');
  const all = values as Variables;
  return Object.freeze({
    databaseUrl: all.DATABASE_URL,
    redisUrl: all.REDIS_URL,
    redisCluster: all.REDIS_CLUSTER,
    databaseSchema: all.DATABASE_SCHEMA,
    databasePoolSize: all.DATABASE_POOL_SIZE,
    prefix: all.ONCEFLEET_PREFIX,
    tenant: all.ONCEFLEET_TENANT,
    tokens: all.ONCEFLEET_TOKENS ?? (all.ONCEFLEET_REQUIRE_TOKENS ? new Map() : undefined),
    adminToken: all.ONCEFLEET_ADMIN_TOKEN,
    allowAnyone: all.ONCEFLEET_ALLOW_ANYONE,
    redactedFields: all.ONCEFLEET_REDACT.split(',')
      .map((name) => name.trim())
      .filter((name) => name !== ''),
    corsOrigins: all.ONCEFLEET_CORS_ORIGINS,
    metricsToken: all.ONCEFLEET_METRICS_TOKEN,
    metricsPort: all.ONCEFLEET_METRICS_PORT,
    metricsHost: all.ONCEFLEET_METRICS_HOST,
    metricsRows: all.ONCEFLEET_METRICS_ROWS,
    jobModules: (all.ONCEFLEET_JOBS ?? '')
      .split(',')
      .map((path) => path.trim())
      .filter((path) => path !== ''),
    concurrency: all.ONCEFLEET_CONCURRENCY,
    leaseTtlMs: all.ONCEFLEET_LEASE_TTL_MS,
    heartbeatMs: all.ONCEFLEET_HEARTBEAT_MS ?? Math.floor(all.ONCEFLEET_LEASE_TTL_MS / 3),
    maxBlockMs: all.ONCEFLEET_MAX_BLOCK_MS,
    maxCrashes: all.ONCEFLEET_MAX_CRASHES,
    resultTtlMs: all.ONCEFLEET_RESULT_TTL_MS,
    reconcileMs: all.ONCEFLEET_RECONCILE_MS,
    streamRetentionMs: all.ONCEFLEET_STREAM_RETENTION_MS,
    jobRetentionMs: all.ONCEFLEET_JOB_RETENTION_MS,
    sweepMs: all.ONCEFLEET_SWEEP_MS,
    shutdownMs: all.ONCEFLEET_SHUTDOWN_MS,
    fairTenants: all.ONCEFLEET_FAIR_TENANTS,
    lingerMs: all.ONCEFLEET_LINGER_MS,
    host: all.HOST,
    port: all.PORT,
    bodyLimitBytes: all.BODY_LIMIT_BYTES,
    inFlightBytes: all.IN_FLIGHT_BYTES,
    ...callerSettings(all),
    uploadLimitBytes: all.UPLOAD_LIMIT_BYTES,
    uploadStoreBytes: all.UPLOAD_STORE_BYTES,
    logLevel: all.LOG_LEVEL,
    model: modelOf(all),
    embedding: embeddingOf(all),
    answerPaceMs: all.ONCEFLEET_ANSWER_PACE_MS,
  });
}

/** What of a configuration is a fleet's; the rest is the web process's, the log's and the answerer's. */
const FLEET_SETTINGS = [
  'databaseUrl',
  'redisUrl',
  'redisCluster',
  'databaseSchema',
  'databasePoolSize',
  'prefix',
  'tenant',
  'concurrency',
  'leaseTtlMs',
  'heartbeatMs',
  'maxBlockMs',
  'maxCrashes',
  'resultTtlMs',
  'reconcileMs',
  'streamRetentionMs',
  'jobRetentionMs',
  'sweepMs',
  'shutdownMs',
  'fairTenants',
  'lingerMs',
] as const satisfies readonly (keyof Config)[];

export type FleetSettings = Pick<Config, (typeof FLEET_SETTINGS)[number]>;

/** The options that `createFleet` takes from a configuration. */
export function fleetSettings(config: FleetSettings): FleetSettings {
  return Object.fromEntries(FLEET_SETTINGS.map((name) => [name, config[name]])) as unknown as FleetSettings;
}
