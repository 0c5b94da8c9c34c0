import { readdir } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { type Kysely, sql } from 'kysely';
import { type Migration, Migrator } from 'kysely/migration';
import { OncefleetError } from '../errors.ts';

// The same distance in a checkout (src/db) and in a build (dist/src/db).
const MIGRATIONS = new URL('../../migrations/', import.meta.url);

/**
 * Applies every migration that is missing, one process at a time (Kysely takes a lock).
 *
 * @returns the names applied now
 * @throws OncefleetError SCHEMA_NEWER the database has migrations this build does not know
 */
// biome-ignore lint/suspicious/noExplicitAny: any schema before its migrations.
export async function migrate(db: Kysely<any>): Promise<string[]> {
  const known = await loadMigrations();
  await refuseNewer(db, known);
  const migrator = new Migrator({ db, provider: { getMigrations: async () => known } });
  const { error, results } = await migrator.migrateToLatest();
  if (error !== undefined) throw error;
  return (results ?? []).filter((result) => result.status === 'Success').map((result) => result.migrationName);
}

/**
 * Refuses to start against a schema that this build does not fit.
 *
 * @throws OncefleetError SCHEMA_OUTDATED, SCHEMA_NEWER
 */
// biome-ignore lint/suspicious/noExplicitAny: any schema.
export async function checkSchema(db: Kysely<any>): Promise<void> {
  const known = await loadMigrations();
  const applied = await refuseNewer(db, known);
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

// biome-ignore lint/suspicious/noExplicitAny: any schema.
async function refuseNewer(db: Kysely<any>, known: Record<string, Migration>): Promise<Set<string>> {
  const table = await sql<{ found: string | null }>`select to_regclass('kysely_migration')::text as found`.execute(db);
  if (table.rows[0]?.found === null) return new Set();
  const rows = await sql<{ name: string }>`select name from kysely_migration`.execute(db);
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
