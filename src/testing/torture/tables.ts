/** Tables of the database in which a handler writes: counted after, and emptied before each of its runs. */
import pg from 'pg';
import type { Database } from '../../db/schema.ts';
import { OncefleetError } from '../../errors.ts';
import type { TestFleet } from '../test-fleet.ts';

/** Tables that jobs of the fleet write for their callers. */
type BuiltinTable =
  | 'collections'
  | 'documents'
  | 'chunks'
  | 'search_parts'
  | 'search_blocks'
  | 'search_removals'
  | 'embedding_models'
  | 'chunk_vectors'
  | 'embedding_turns'
  | 'uploads'
  | 'upload_parts'
  | 'conversations'
  | 'messages';

/** The fleet's bookkeeping, which differs from run to run; `job_attempts` is a view. */
const OWN_TABLES: Record<Exclude<keyof Database, BuiltinTable | 'job_attempts'> | 'applied_migrations', true> = {
  jobs: true,
  unfinished_jobs: true,
  failed_jobs: true,
  ended_attempts: true,
  stream_heads: true,
  journal_segments: true,
  dispatch_outbox: true,
  reconciler_rounds: true,
  poison_alerts: true,
  paused_queues: true,
  limits: true,
  tenant_limits: true,
  limit_keys: true,
  limit_places: true,
  limit_waits: true,
  live_key: true,
  write_probe: true,
  api_tokens: true,
  signing_keys: true,
  audit_log: true,
  schedules: true,
  chat_requests: true,
  tenant_policies: true,
  retention_marks: true,
  retention_later: true,
  applied_migrations: true,
};

/** Rows of every table of the database but the fleet's bookkeeping, by name. */
export async function countRows({ pool, databaseSchema }: TestFleet): Promise<Record<string, number>> {
  const tables = await pool.query<{ name: string }>(
    `select format('%I.%I', schemaname, tablename) as name from pg_tables
     where schemaname not in ('pg_catalog', 'information_schema')
       and not (schemaname = $2 and tablename = any ($1)) order by 1`,
    [Object.keys(OWN_TABLES), databaseSchema],
  );
  if (tables.rows.length === 0) return {};
  const counted = await pool.query<{ name: string; rows: number }>(
    tables.rows
      .map(
        ({ name }) =>
          `select ${pg.escapeLiteral(name.replace(/^public\./, ''))} as name, count(*)::int as rows from ${name}`,
      )
      .join(' union all '),
  );
  return Object.fromEntries(counted.rows.map(({ name, rows }) => [name, rows]));
}

/** @throws Error Postgres refuses: a table with rows points to one of these */
export async function emptyTables(pool: pg.Pool, tables: readonly string[]): Promise<void> {
  if (tables.length === 0) return;
  await pool.query(`truncate ${tables.join(', ')} restart identity`).catch((cause: unknown) => {
    throw new OncefleetError('INPUT_INVALID', `Tables cannot be emptied between runs: give torture a \`reset\``, {
      cause,
    });
  });
}
