/** What a run left behind: the rows of Postgres, and whatever is still open. */
import { Redis } from 'ioredis';
import pg from 'pg';

export interface FinalJob {
  id: string;
  key: string;
  name: string;
  status: string;
  fence: number;
  crashCount: number;
  errorCount: number;
  interruptionCount: number;
  deferralCount: number;
  /** JSON texts. */
  result: string | null;
  error: string | null;
}

export interface FinalAttempt {
  jobId: string;
  fence: number;
  worker: string;
  outcome: string | null;
}

export interface FinalSegment {
  jobId: string;
  firstSeq: number;
  lastSeq: number;
  fence: number;
  /** JSON array text. */
  events: string;
}

export interface FinalState {
  jobs: FinalJob[];
  attempts: FinalAttempt[];
  heads: { jobId: string; fence: number; nextSeq: number; state: string }[];
  segments: FinalSegment[];
  effects: { key: string; step: number; jobId: string; fence: number }[];
}

/** What jobs of a run write in their transactions. No constraint on purpose: the fence alone must keep it right. */
export const CREATE_EFFECTS =
  'create table chaos_effects (key text, step int, job_id uuid, fence bigint, at timestamptz default clock_timestamp())';

export async function readFinalState(databaseUrl: string): Promise<FinalState> {
  const client = new pg.Client({ connectionString: databaseUrl, types: textual() });
  await client.connect();
  const rows = async <T>(text: string): Promise<T[]> => (await client.query(text)).rows as T[];
  try {
    return {
      jobs: await rows(`select id, idempotency_key as key, name, status, fence, crash_count as "crashCount", error_count as "errorCount",
        interruption_count as "interruptionCount", deferral_count as "deferralCount", result, error from oncefleet.jobs order by id`),
      attempts: await rows(
        `select job_id as "jobId", fence, worker, outcome from oncefleet.job_attempts order by job_id, fence`,
      ),
      heads: await rows(`select stream_id as "jobId", fence, next_seq as "nextSeq", state from oncefleet.stream_heads`),
      segments: await rows(`select stream_id as "jobId", first_seq as "firstSeq", last_seq as "lastSeq", fence, events
        from oncefleet.journal_segments order by stream_id, first_seq`),
      effects: await rows(`select key, step, job_id as "jobId", fence from chaos_effects order by key, step, at`),
    };
  } finally {
    await client.end();
  }
}

/** Jobs that have no outcome yet. */
export async function countUnfinished(databaseUrl: string): Promise<number> {
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  try {
    const { rows } = await client.query(
      `select count(*)::int as count from oncefleet.jobs where status in ('pending', 'running')`,
    );
    return Number(rows[0]?.count);
  } finally {
    await client.end();
  }
}

/** Connections of the fleet that a server still has, by name. */
export async function findConnections(databaseUrl: string, redisUrl: string): Promise<string[]> {
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  const redis = new Redis(redisUrl, { lazyConnect: true, maxRetriesPerRequest: 1 });
  redis.on('error', () => {});
  try {
    const { rows } = await client.query<{ name: string; state: string }>(
      `select application_name as name, state from pg_stat_activity where application_name like 'oncefleet%'`,
    );
    await redis.connect();
    const clients = String(await redis.client('LIST'))
      .split('\n')
      .filter((text) => text !== '');
    const ours = String(await redis.client('ID'));
    return [
      ...rows.map(({ name, state }) => `Postgres: ${name} (${state})`),
      ...clients
        .filter((text) => !text.startsWith(`id=${ours} `))
        .map((text) => `Redis: ${/ name=(\S*)/.exec(text)?.[1] ?? ''} ${/ cmd=(\S*)/.exec(text)?.[1] ?? ''}`),
    ];
  } finally {
    redis.disconnect();
    await client.end();
  }
}

/** Streams that some process still subscribes to. */
export async function findSubscriptions(redisUrl: string, prefix: string): Promise<string[]> {
  const redis = new Redis(redisUrl, { lazyConnect: true, maxRetriesPerRequest: 1 });
  redis.on('error', () => {});
  try {
    await redis.connect();
    return (await redis.pubsub('CHANNELS', `${prefix}:stream:*`)) as string[];
  } finally {
    redis.disconnect();
  }
}

/** json as the text it is, bigints as numbers. */
function textual(): pg.CustomTypesConfig {
  const [INT8, JSON_TYPE] = [20, 114];
  return {
    getTypeParser(oid: number, format?: 'text' | 'binary') {
      if (oid === JSON_TYPE) return (value: string) => value;
      if (oid === INT8) return (value: string) => Number(value);
      return pg.types.getTypeParser(oid, format as 'text');
    },
  } as pg.CustomTypesConfig;
}
