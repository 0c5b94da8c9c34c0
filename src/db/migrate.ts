import { readdir } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { type Kysely, sql, type Transaction } from 'kysely';
import type { Migration } from 'kysely/migration';
import { OncefleetError } from '../errors.ts';
import { schemaOf } from './own-schema.ts';

// The same distance in a checkout (src/db) and in a build (dist/src/db).
const MIGRATIONS = new URL('../../migrations/', import.meta.url);

/**
 * What has been applied, in our schema. Not Kysely's migrator with its table there: a migrator of
 * the user's, with no schema set, looks for `kysely_migration` in all schemas. It would find ours,
 * make none of its own, and fail.
 */
const APPLIED = 'applied_migrations';

// biome-ignore lint/suspicious/noExplicitAny: whatever tables it knows of.
type AnyDb = Kysely<any>;
// biome-ignore lint/suspicious/noExplicitAny: as above.
type AnyTransaction = Transaction<any>;

export interface SchemaOptions {
  /** The schema of the fleet's tables. Default that of the fleet whose `db` it is, else `oncefleet`. */
  schema?: string;
}

/**
 * Applies every migration that is missing, in one transaction, one process at a time. Makes the
 * schema where there is none.
 *
 * @param db any Kysely instance on the database; its plugins and search_path do not matter
 * @returns the names applied now
 * @throws OncefleetError SCHEMA_NEWER the database has migrations this build does not know
 */
export async function migrate(db: AnyDb, { schema = schemaOf(db) }: SchemaOptions = {}): Promise<string[]> {
  const known = await loadMigrations();
  return inTransaction(db, async (trx) => {
    await lockMigrations(trx, schema);
    if (!(await hasSchema(trx, schema))) await sql`create schema ${sql.id(schema)}`.execute(trx);
    const applied = await refuseNewer(trx, known, schema);
    const missing = Object.entries(known).filter(([name]) => !applied.has(name));
    if (missing.length === 0) return [];
    await sql`
      create table if not exists ${sql.id(schema, APPLIED)} (
        name text primary key,
        applied_at timestamptz not null default clock_timestamp()
      )`.execute(trx);
    await withSearchPath(trx, schema, async () => {
      for (const [name, migration] of missing) {
        await migration.up(trx);
        await sql`insert into ${sql.id(schema, APPLIED)} (name) values (${name})`.execute(trx);
      }
    });
    return missing.map(([name]) => name);
  });
}

/**
 * Refuses to start against a schema that this build does not fit.
 *
 * @throws OncefleetError SCHEMA_OUTDATED, SCHEMA_NEWER
 */
export async function checkSchema(db: AnyDb, { schema = schemaOf(db) }: SchemaOptions = {}): Promise<void> {
  const known = await loadMigrations();
  const applied = await refuseNewer(db.withoutPlugins(), known, schema);
  const missing = Object.keys(known).filter((name) => !applied.has(name));
  if (missing.length > 0) {
    throw new OncefleetError('SCHEMA_OUTDATED', `The database lacks ${missing.join(', ')}: run \`oncefleet migrate\``, {
      details: { missing },
    });
  }
}

async function loadMigrations(): Promise<Record<string, Migration>> {
  const folder = fileURLToPath(MIGRATIONS);
  const files = (await readdir(folder)).filter((file) => /^\d{4}_\w+\.(ts|js)$/.test(file)).sort();
  const migrations: Record<string, Migration> = {};
  for (const file of files) {
    migrations[file.replace(/\.(ts|js)$/, '')] = (await import(new URL(file, MIGRATIONS).href)) as Migration;
  }
  return migrations;
}

/** A transaction of its own, or the caller's. */
function inTransaction<T>(db: AnyDb, run: (trx: AnyTransaction) => Promise<T>): Promise<T> {
  const plain = db.withoutPlugins();
  return plain.isTransaction ? run(plain as AnyTransaction) : plain.transaction().execute(run);
}

/** Before anything is looked at: the making of the schema is as much a part of it as the tables. */
async function lockMigrations(trx: AnyTransaction, schema: string): Promise<void> {
  await sql`select pg_advisory_xact_lock(hashtextextended(${`oncefleet migrate ${schema}`}::text, 0))`.execute(trx);
}

async function hasSchema(db: AnyDb, schema: string): Promise<boolean> {
  const { rows } = await sql`select from pg_namespace where nspname = ${schema}`.execute(db);
  return rows.length > 0;
}

/** Asked of the catalogue, which needs no rights on what it tells of. */
async function hasTable(db: AnyDb, schema: string, table: string): Promise<boolean> {
  const { rows } = await sql`
    select from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = ${schema} and c.relname = ${table}`.execute(db);
  return rows.length > 0;
}

/** Migrations name no schema: theirs is the first of the path, which is put back for a caller's transaction. */
async function withSearchPath(trx: AnyTransaction, schema: string, run: () => Promise<void>): Promise<void> {
  const { rows } = await sql<{ path: string }>`select current_setting('search_path') as path`.execute(trx);
  // With pg_temp named, and last, no temporary table takes the place of one of ours.
  await sql`select set_config('search_path', ${`"${schema}", pg_temp`}, true)`.execute(trx);
  await run();
  await sql`select set_config('search_path', ${rows[0]?.path ?? ''}, true)`.execute(trx);
}

async function refuseNewer(db: AnyDb, known: Record<string, Migration>, schema: string): Promise<Set<string>> {
  if (!(await hasTable(db, schema, APPLIED))) return new Set();
  const rows = await sql<{ name: string }>`select name from ${sql.id(schema, APPLIED)}`.execute(db);
  const unknown = rows.rows.map((row) => row.name).filter((name) => !(name in known));
  if (unknown.length > 0) {
    throw new OncefleetError(
      'SCHEMA_NEWER',
      `The database was migrated by a newer build (${unknown.join(', ')}): deploy that build`,
      {
        details: { unknown },
      },
    );
  }
  return new Set(rows.rows.map((row) => row.name));
}
