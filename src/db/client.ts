import { Kysely, PostgresDialect } from 'kysely';
import pg from 'pg';
import { DEFAULT_SCHEMA } from '../options.ts';
import { endHalfOpenConnections } from './half-open.ts';
import { asPlain, type QualifiedDatabase, schemaPlugins } from './own-schema.ts';
import { Pool } from './pool.ts';
import type { Database } from './schema.ts';
import { Client } from './session.ts';
import { prepareNamedStatements } from './statement.ts';

/** Type OIDs of pg_type.dat. */
const INT8 = 20;
const JSON_TYPE = 114;

/**
 * `json` columns stay the text they are: journalled events go from table to wire unparsed,
 * and a stored `null` differs from no value. Bigints (seqs, fences) are numbers: 2^53
 * events are out of reach.
 */
const types = {
  getTypeParser(oid: number, format?: 'text' | 'binary') {
    if (oid === JSON_TYPE) return (value: string) => value;
    if (oid === INT8) return (value: string) => Number(value);
    return pg.types.getTypeParser(oid, format as 'text');
  },
};

interface CreateDbOptions {
  url: string;
  maxConnections: number;
  /** The schema of our tables. Default `oncefleet`. */
  schema?: string;
  /** Shown in pg_stat_activity. */
  applicationName: string;
  /** Gets errors of connections that run no statement; without a listener pg would end the process. */
  onError(error: Error): void;
  /** Gets what is worth knowing about these connections, once. */
  onNotice?(message: string): void;
  /** After this time without an answer to a statement its connection is checked; see half-open.ts. Default 10,000. */
  unansweredMs?: number;
}

export interface Db {
  /** For our statements: `jobs` is the table in our schema. */
  readonly kysely: Kysely<Database>;
  /** For those of others, on the same connections: `jobs` may be a table of theirs. */
  readonly plain: Kysely<QualifiedDatabase>;
  readonly schema: string;
  readonly pool: pg.Pool;
  /** When a statement was last refused for want of disk, by `performance.now()`. */
  readonly diskFullAt: number | undefined;
  close(): Promise<void>;
}

/** The connection pool and Kysely on it. Connects on first use. */
export function createDb(options: CreateDbOptions): Db {
  const { schema = DEFAULT_SCHEMA } = options;
  const pool = new Pool({
    Client,
    connectionString: options.url,
    max: options.maxConnections,
    application_name: options.applicationName,
    connectionTimeoutMillis: 5_000,
    idleTimeoutMillis: 30_000,
    keepAlive: true,
    types,
  });
  pool.on('error', options.onError);
  // A client that is checked out and between two statements (in a transaction) emits an event of its
  // own for a lost connection, which would end the process; its next statement fails.
  pool.on('connect', (client) => client.on('error', options.onError));
  prepareNamedStatements(pool, schema, () =>
    options.onNotice?.(
      'Prepared statements do not last on these connections (PgBouncer in transaction mode?); continuing without them',
    ),
  );
  const watch = endHalfOpenConnections(pool, {
    url: options.url,
    afterMs: options.unansweredMs ?? 10_000,
    onLost: options.onError,
  });
  const kysely = new Kysely<Database>({
    dialect: new PostgresDialect({ pool }),
    plugins: schemaPlugins(schema),
  });
  let closing: Promise<void> | undefined;
  return {
    kysely,
    plain: asPlain(kysely),
    schema,
    pool,
    get diskFullAt() {
      return pool.diskFullAt;
    },
    close() {
      // Kysely ends the pool, but only one it has used.
      closing ??= kysely.destroy().then(async () => {
        if (!pool.ending) await pool.end();
        watch.stop();
      });
      return closing;
    },
  };
}
