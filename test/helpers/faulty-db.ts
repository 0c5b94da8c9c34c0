import type { CompiledQuery, Kysely, QueryResult } from 'kysely';
import type { Database } from '../../src/db/schema.ts';

export interface Faults {
  /** Called before each statement; throws to stand for a Postgres that did not get it. */
  before(sql: string): void | Promise<void>;
  /** Called after each statement; throws to stand for an answer that was lost. */
  after(sql: string): void | Promise<void>;
}

/** The real database with one method broken on demand: `executeQuery`, which the hot statements use. */
export function withFaults(db: Kysely<Database>, faults: Partial<Faults>): Kysely<Database> {
  return new Proxy(db, {
    get(target, property) {
      if (property === 'executeQuery') {
        return async <R>(query: CompiledQuery<R>): Promise<QueryResult<R>> => {
          await faults.before?.(query.sql);
          const result = await target.executeQuery<R>(query);
          await faults.after?.(query.sql);
          return result;
        };
      }
      const value = Reflect.get(target, property, target) as unknown;
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

/** What pg throws when the server goes away. */
export function connectionLost(): Error {
  return Object.assign(new Error('Connection terminated unexpectedly'), {});
}
