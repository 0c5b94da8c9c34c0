/**
 * The hot statements: named, so that Postgres plans each once per connection. Planning costs
 * several times what running one of them for one job does.
 *
 * Behind a PgBouncer in transaction mode (before 1.21) names do not survive; the first
 * statement that finds out runs again without one, and so do all later ones.
 *
 * Such a plan is made once, often while the tables are empty, and must be right when they
 * are not: by primary key, row by row. The planner takes an array parameter for 10 rows and
 * would read an empty table whole, so each statement bounds its input (`ONE_ROW`): it then expects
 * one row. Measured: 4.6 ms without, 1.3 ms with such a bound for a claim of 50 among 10,000.
 */
import { CompiledQuery } from 'kysely';
import type pg from 'pg';
import { qualify } from './own-schema.ts';

/** What a statement without its name fails with, before it has done anything. */
const NAME_LOST: ReadonlySet<string> = new Set([
  '26000', // prepared statement does not exist
  '42P05', // prepared statement already exists
]);

const NAME = /^\/\* (oncefleet_\w+) \*\//;

/** What our statements start with, named or not; other texts stay as they are. */
const OURS = '/* oncefleet';

/**
 * SQL: always true of `unnest(…) with ordinality as … (…, place)`, which the planner does not know. A bound on
 * what was given would do for the planner too, and would drop what does not fit, without an error.
 */
export const ONE_ROW = 'place >= 1 and place < 2147483648';

/** A statement with a name that goes with its text for good. */
export function named<R>(name: string, sql: string, parameters: readonly unknown[]): CompiledQuery<R> {
  return CompiledQuery.raw(`/* oncefleet_${name} */ ${sql}`, [...parameters]) as CompiledQuery<R>;
}

/** A statement for a caller's transaction: without a name, whose loss would spoil the transaction. */
export function unnamed<R>(name: string, sql: string, parameters: readonly unknown[]): CompiledQuery<R> {
  return CompiledQuery.raw(`/* oncefleet: ${name} */ ${sql}`, [...parameters]) as CompiledQuery<R>;
}

/** Makes a pool's connections prepare named statements, with our tables in `schema`. */
export function prepareNamedStatements(pool: pg.Pool, schema: string, onUnsupported: () => void): void {
  let supported = true;
  pool.on('connect', (client) => {
    const query = client.query.bind(client) as (...args: unknown[]) => Promise<unknown>;
    const prepared = (...args: unknown[]): unknown => {
      const [given, values, callback] = args;
      const ours = typeof given === 'string' && given.startsWith(OURS);
      const text = ours ? qualify(given, schema) : given;
      const name =
        supported && ours && typeof text === 'string' && callback === undefined ? NAME.exec(text)?.[1] : undefined;
      if (name === undefined) return ours ? query(text, ...args.slice(1)) : query(...args);
      return query({ name, text }, values).catch((error: unknown) => {
        if (!NAME_LOST.has((error as { code?: string }).code ?? '')) throw error;
        if (supported) onUnsupported();
        supported = false;
        return query(text, values);
      });
    };
    client.query = prepared as typeof client.query;
  });
}

const TEXT_OID = 25;

/**
 * A `text[]` parameter in Postgres's binary form. As text, every quote and backslash of a
 * JSON document would be escaped here and unescaped there.
 *
 * @see https://github.com/postgres/postgres/blob/master/src/backend/utils/adt/arrayfuncs.c (array_recv)
 */
export function textArray(values: readonly (string | null)[]): Buffer {
  let size = values.length === 0 ? 12 : 20;
  for (const value of values) size += 4 + (value === null ? 0 : Buffer.byteLength(value));
  const buffer = Buffer.allocUnsafe(size);
  let at = buffer.writeInt32BE(values.length === 0 ? 0 : 1, 0);
  at = buffer.writeInt32BE(values.includes(null) ? 1 : 0, at);
  at = buffer.writeInt32BE(TEXT_OID, at);
  if (values.length > 0) {
    at = buffer.writeInt32BE(values.length, at);
    at = buffer.writeInt32BE(1, at);
  }
  for (const value of values) {
    if (value === null) {
      at = buffer.writeInt32BE(-1, at);
      continue;
    }
    const length = buffer.write(value, at + 4);
    buffer.writeInt32BE(length, at);
    at += 4 + length;
  }
  return buffer;
}
