/** Tables of the database in which a handler writes: counted after, and emptied before each of its runs. */
import pg from 'pg';
import { OncefleetError } from '../../errors.ts';
import type { TestFleet } from '../test-fleet.ts';

/** The fleet's bookkeeping, which differs from run to run. */
const OWN_TABLES = [
  'jobs',
  'unfinished_jobs',
  'ended_attempts',
  'stream_heads',
  'journal_segments',
  'dispatch_outbox',
  'reconciler_rounds',
  'poison_alerts',
  'tenant_policies',
  'retention_marks',
  'retention_later',
  'applied_migrations',
];

/** Rows of every table of the database but the fleet's bookkeeping, by name. */
export async function countRows({ pool, databaseSchema }: TestFleet): Promise<Record<string, number>> {
  const tables = await pool.query<{ name: string }>(
    `select format('%I.%I', schemaname, tablename) as name from pg_tables
     where schemaname not in ('pg_catalog', 'information_schema')
       and not (schemaname = $2 and tablename = any ($1)) order by 1`,
    [OWN_TABLES, databaseSchema],
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
