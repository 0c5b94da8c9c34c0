/** Recognises what a caller gave as its transaction, and runs statements in it. */
import { CompiledQuery, type Transaction } from 'kysely';
import { type RunInTransaction, whyNotInTransaction } from '../db/outbox.ts';
import { qualify } from '../db/own-schema.ts';
import { OncefleetError } from '../errors.ts';

/** A `pg` client (not a pool): `pool.connect()` or `new Client()`, between BEGIN and COMMIT. */
export interface PgTransaction {
  // biome-ignore lint/suspicious/noExplicitAny: rows of any statement; pg types them so.
  query(text: string, values?: any[]): Promise<{ rows: any[] }>;
  /** A pool has it, and gives every statement to another connection. */
  totalCount?: undefined;
}

/** A transaction of the caller's own, on the fleet's database. */
// biome-ignore lint/suspicious/noExplicitAny: whatever tables the caller knows of.
export type CallerTransaction = Transaction<any> | PgTransaction;

/**
 * @param fleet its home, as `findHome` says it, and the schema of its tables
 * @throws OncefleetError TRANSACTION_INVALID it is nothing of the kind, no transaction is open on
 *   it, or it is on another database
 */
export async function openCallerTransaction(
  tx: unknown,
  { home, schema }: { home: string | null; schema: string },
): Promise<RunInTransaction> {
  const send = toRun(tx);
  const run: RunInTransaction = (text, parameters) => send(qualify(text, schema), parameters);
  const why = await whyNotInTransaction(run, home);
  if (why !== undefined) throw invalid(why);
  return run;
}

function toRun(tx: unknown): RunInTransaction {
  if (typeof tx !== 'object' || tx === null) throw invalid(`got ${tx === null ? 'null' : typeof tx}`);
  // By shape, not by class: the caller may have another copy of kysely or pg.
  if (isKysely(tx)) {
    if (!tx.isTransaction)
      throw invalid('this is a Kysely instance: pass the `trx` that `transaction().execute` hands out');
    // A plugin (CamelCasePlugin, …) would rename our columns.
    const plain = tx.withoutPlugins();
    return async (text, parameters) => {
      const { rows } = await plain.executeQuery<Record<string, unknown>>(CompiledQuery.raw(text, [...parameters]));
      return rows;
    };
  }
  if (typeof (tx as { query?: unknown }).query === 'function') {
    if (typeof (tx as { totalCount?: unknown }).totalCount === 'number')
      throw invalid('this is a pool: pass the client of `pool.connect()` that the transaction runs on');
    // A client keeps statements until it is connected: this one would for ever.
    if ((tx as { _connected?: unknown })._connected === false) throw invalid('this client is not connected');
    return async (text, parameters) => {
      const answer: unknown = await (tx as PgTransaction).query(text, [...parameters]);
      const rows = (answer as { rows?: unknown } | undefined)?.rows;
      if (!Array.isArray(rows)) throw invalid('its query() does not answer as a client of `pg` does');
      return rows;
    };
  }
  throw invalid('it has neither executeQuery() nor query()');
}

// biome-ignore lint/suspicious/noExplicitAny: as above.
function isKysely(tx: object): tx is Transaction<any> {
  const { executeQuery, withoutPlugins, isTransaction } = tx as Record<string, unknown>;
  return (
    typeof executeQuery === 'function' && typeof withoutPlugins === 'function' && typeof isTransaction === 'boolean'
  );
}

function invalid(why: string): OncefleetError {
  return new OncefleetError(
    'TRANSACTION_INVALID',
    `tx: expected a Kysely transaction or a pg client in a transaction; ${why}`,
  );
}
