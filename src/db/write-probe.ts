/** Whether Postgres takes writes: one that answers may be read-only, or have no disk left. */
import { type Kysely, sql } from 'kysely';
import type { Database } from './schema.ts';

/** Why Postgres refuses writes while it answers. */
export type WriteRefusal = 'read-only' | 'disk-full' | 'out-of-memory';

/** @see https://www.postgresql.org/docs/current/errcodes-appendix.html */
const REFUSALS: ReadonlyMap<unknown, WriteRefusal> = new Map([
  ['25006', 'read-only'],
  ['53100', 'disk-full'],
  ['53200', 'out-of-memory'],
]);

/** Of a role that got its rights before the table was there: nothing can be told, and nothing is wrong. */
const NO_TABLE: ReadonlySet<unknown> = new Set(['42501', '42P01']);

/** Writes one row. @throws what Postgres refuses it with */
export async function probeWrite(db: Kysely<Database>): Promise<void> {
  try {
    await sql`
      insert into oncefleet.write_probe (singleton) values (true)
      on conflict (singleton) do update set written_at = clock_timestamp()`.execute(db);
  } catch (error) {
    if (!NO_TABLE.has((error as { code?: unknown }).code)) throw error;
  }
}

/** @returns undefined: it says something else, or nothing */
export function writeRefusalOf(error: unknown): WriteRefusal | undefined {
  return error instanceof Error ? REFUSALS.get((error as { code?: unknown }).code) : undefined;
}
