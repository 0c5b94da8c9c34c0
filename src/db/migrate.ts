import { readdir } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { type Kysely, sql, type Transaction } from 'kysely';
import type { Migration } from 'kysely/migration';
import { OncefleetError } from '../errors.ts';
import { RELATIONS, schemaOf } from './own-schema.ts';
import { requireSession } from './session.ts';

// The same distance in a checkout (src/db) and in a build (dist/src/db).
const MIGRATIONS = new URL('../../migrations/', import.meta.url);

/**
 * What has been applied, in our schema. Not Kysely's migrator with its table there: a migrator of
 * the user's, with no schema set, searches all schemas for `kysely_migration`. It would find ours,
 * make none of its own, and fail.
 */
const APPLIED = 'applied_migrations';

/** Where earlier builds put their tables, and noted their migrations among the app's own. */
const OLD_SCHEMA = 'public';
const OLD_APPLIED = 'kysely_migration';
const OLD_LOCK = 'kysely_migration_lock';

/** How long moving the tables waits for each lock: writers of a table wait behind it. */
const MOVE_LOCK_MS = 5_000;

// biome-ignore lint/suspicious/noExplicitAny: whatever tables it knows of.
type AnyDb = Kysely<any>;
// biome-ignore lint/suspicious/noExplicitAny: as above.
type AnyTransaction = Transaction<any>;

interface SchemaOptions {
  /** The schema of the fleet's tables. Default that of the fleet whose `db` it is, else `oncefleet`. */
  schema?: string;
}

/**
 * Applies every migration that is missing, in one transaction, one process at a time. Makes the
 * schema where there is none.
 *
 * @param db any Kysely instance on the database; its plugins and search_path do not matter
 * @returns the names applied now
 * @throws OncefleetError SCHEMA_NEWER the database has migrations this build does not know;
 *   SCHEMA_ELSEWHERE the tables are where an older release put them; SCHEMA_FORBIDDEN the role may not make them;
 *   POSTGRES_UNUSABLE the database, or what is set for its sessions, would break what the fleet does
 */
export async function migrate(db: AnyDb, { schema = schemaOf(db) }: SchemaOptions = {}): Promise<string[]> {
  const known = await loadMigrations();
  return inTransaction(db, schema, async (trx) => {
    await requireSession(trx);
    await lockMigrations(trx, schema);
    if (!(await hasSchema(trx, schema))) await sql`create schema ${sql.id(schema)}`.execute(trx);
    const applied = await refuseNewer(trx, known, schema);
    const missing = Object.entries(known).filter(([name]) => !applied.has(name));
    if (missing.length === 0) return [];
    await createApplied(trx, schema);
    await withSettings(trx, schema, async () => {
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
 * @throws OncefleetError SCHEMA_OUTDATED, SCHEMA_NEWER, SCHEMA_ELSEWHERE
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

/**
 * Moves the tables that an older release has made in `public` to our schema, with the notes of their
 * migrations. Nothing is copied; all or nothing. Run it with all workers stopped: what they ask for has
 * no schema in front.
 *
 * @returns the names of what was moved; none where there is nothing of ours
 * @throws OncefleetError SCHEMA_FORBIDDEN the role does not own them; Postgres's 55P03 where a table was
 *   in use for too long, 42P07 where there are tables in both places
 */
export async function moveFromPublic(db: AnyDb, { schema = schemaOf(db) }: SchemaOptions = {}): Promise<string[]> {
  const known = await loadMigrations();
  return inTransaction(db, schema, async (trx) => {
    await lockMigrations(trx, schema);
    await sql`select set_config('lock_timeout', ${`${MOVE_LOCK_MS}ms`}, true)`.execute(trx);
    const applied = await findOldMigrations(trx, known);
    if (applied.length === 0 || schema === OLD_SCHEMA) return [];
    if (!(await hasSchema(trx, schema))) await sql`create schema ${sql.id(schema)}`.execute(trx);
    const { rows: relations } = await sql<{ name: string; kind: string }>`
      select c.relname as name, c.relkind as kind from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where n.nspname = ${OLD_SCHEMA} and c.relname = any(${[...Object.keys(RELATIONS), 'journal_events']}::text[])
        and c.relkind in ('r', 'v')
      order by c.relname`.execute(trx);
    for (const { name, kind } of relations) {
      const what = sql.raw(kind === 'v' ? 'view' : 'table');
      await sql`alter ${what} ${sql.id(OLD_SCHEMA, name)} set schema ${sql.id(schema)}`.execute(trx);
    }
    await createApplied(trx, schema);
    await sql`
      with noted as (delete from ${sql.id(OLD_SCHEMA, OLD_APPLIED)} where name = any(${applied}::text[]) returning name)
      insert into ${sql.id(schema, APPLIED)} (name) select name from noted`.execute(trx);
    // Kysely's own tables were ours alone where nothing is noted in them any more.
    const left = await sql`select from ${sql.id(OLD_SCHEMA, OLD_APPLIED)} limit 1`.execute(trx);
    if (left.rows.length === 0) {
      await sql`drop table ${sql.id(OLD_SCHEMA, OLD_APPLIED)}`.execute(trx);
      await sql`drop table if exists ${sql.id(OLD_SCHEMA, OLD_LOCK)}`.execute(trx);
    }
    return relations.map(({ name }) => name);
  });
}

async function createApplied(trx: AnyTransaction, schema: string): Promise<void> {
  await sql`
    create table if not exists ${sql.id(schema, APPLIED)} (
      name text primary key,
      applied_at timestamptz not null default clock_timestamp()
    )`.execute(trx);
  const comment = (on: string, text: string) => sql`comment on ${sql.raw(on)} is ${sql.lit(text)}`.execute(trx);
  const table = `"${schema}"."${APPLIED}"`;
  await comment(`table ${table}`, 'Migrations of these tables that have been applied');
  await comment(`column ${table}.name`, 'name of its file');
  await comment(`column ${table}.applied_at`, 'when it was applied here');
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

/** A transaction of its own, or the caller's. @throws OncefleetError SCHEMA_FORBIDDEN */
async function inTransaction<T>(db: AnyDb, schema: string, run: (trx: AnyTransaction) => Promise<T>): Promise<T> {
  const plain = db.withoutPlugins();
  try {
    return await (plain.isTransaction ? run(plain as AnyTransaction) : plain.transaction().execute(run));
  } catch (error) {
    throw (error as { code?: unknown } | null)?.code === '42501' ? forbidden(error as Error, schema) : error;
  }
}

/** Before anything is read: making the schema is as much a part of it as the tables. */
async function lockMigrations(trx: AnyTransaction, schema: string): Promise<void> {
  await sql`select pg_advisory_xact_lock(hashtextextended(${`oncefleet migrate ${schema}`}::text, 0))`.execute(trx);
}

async function hasSchema(db: AnyDb, schema: string): Promise<boolean> {
  const { rows } = await sql`select from pg_namespace where nspname = ${schema}`.execute(db);
  return rows.length > 0;
}

/** By the catalogue, which can be read without rights on the table. */
async function hasTable(db: AnyDb, schema: string, table: string): Promise<boolean> {
  const { rows } = await sql`
    select from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = ${schema} and c.relname = ${table}`.execute(db);
  return rows.length > 0;
}

/**
 * Migrations name no schema: theirs is the first of the path. And an index takes as long as it takes, whatever the
 * role's statements may. All is put back for a caller's transaction.
 */
async function withSettings(trx: AnyTransaction, schema: string, run: () => Promise<void>): Promise<void> {
  // With pg_temp named, and last, no temporary table takes the place of one of ours.
  const settings = new Map([
    ['search_path', `"${schema}", pg_temp`],
    ['statement_timeout', '0'],
    ['transaction_timeout', '0'],
  ]);
  // Before Postgres 17 there is no `transaction_timeout`.
  const { rows } = await sql<{ name: string; was: string }>`
    select name, current_setting(name) as was from pg_settings where name = any(${[...settings.keys()]}::text[])`.execute(
    trx,
  );
  const set = (name: string, value: string) => sql`select set_config(${name}, ${value}, true)`.execute(trx);
  for (const { name } of rows) await set(name, settings.get(name) as string);
  await run();
  for (const { name, was } of rows) await set(name, was);
}

async function refuseNewer(db: AnyDb, known: Record<string, Migration>, schema: string): Promise<Set<string>> {
  if (!(await hasTable(db, schema, APPLIED))) {
    if (schema !== OLD_SCHEMA && (await findOldMigrations(db, known)).length > 0) throw elsewhere(schema);
    return new Set();
  }
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

/** Migrations of ours that were noted where the app may note its own; none where the tables there are not ours. */
async function findOldMigrations(db: AnyDb, known: Record<string, Migration>): Promise<string[]> {
  // By the catalogue: a role without rights on the schema can read nothing else of it.
  const readable = await sql<{ may: boolean }>`
    select coalesce(has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select'), false) as may
    from pg_namespace n join pg_class c on c.relnamespace = n.oid and c.relname = ${OLD_APPLIED}
    where n.nspname = ${OLD_SCHEMA}`.execute(db);
  if (readable.rows[0]?.may !== true) return [];
  // A jobs table of the app's own has no fence.
  const ours = await sql`
    select from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = ${OLD_SCHEMA} and c.relname = 'jobs' and a.attname = 'fence'`.execute(db);
  if (ours.rows.length === 0) return [];
  const noted = await sql<{ name: string }>`select name from ${sql.id(OLD_SCHEMA, OLD_APPLIED)}`.execute(db);
  return noted.rows.map(({ name }) => name).filter((name) => name in known);
}

function elsewhere(schema: string): OncefleetError {
  return new OncefleetError(
    'SCHEMA_ELSEWHERE',
    `The tables of an older release are in schema ${OLD_SCHEMA}, and this one has them in ${schema}: stop all workers and run \`oncefleet migrate --from-public\``,
    { details: { schema } },
  );
}

/** What a role lacks, in words that say who can give it. */
function forbidden(cause: Error, schema: string): OncefleetError {
  return new OncefleetError(
    'SCHEMA_FORBIDDEN',
    `The database role may not do this (${cause.message}). Have an owner run: create schema if not exists ${schema}; grant usage, create on schema ${schema} to <role>`,
    { cause, details: { schema } },
  );
}
