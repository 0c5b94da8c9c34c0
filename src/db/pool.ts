/**
 * The pool, which tells a connection that could not be opened from a statement that Postgres refused.
 *
 * A server that restarts, fails over or is being set up refuses logins with whatever code fits: wrong
 * password, no such user or database, internal error. Nothing was sent then, and the next try may succeed.
 */
import pg from 'pg';
import { noteUnopened } from './transient.ts';

type Callback = (
  error: Error | undefined,
  client: pg.PoolClient | undefined,
  done: (release?: unknown) => void,
) => void;

export class Pool extends pg.Pool {
  /** A pool that has had a connection has the right URL: what it meets later passes. */
  #hasConnected = false;

  constructor(config: pg.PoolConfig) {
    super(config);
    this.once('connect', () => {
      this.#hasConnected = true;
    });
  }

  override connect(): Promise<pg.PoolClient>;
  override connect(callback: Callback): void;
  override connect(callback?: Callback): Promise<pg.PoolClient> | undefined {
    if (callback === undefined) {
      return super.connect().catch((error: unknown) => {
        this.#note(error);
        throw error;
      });
    }
    super.connect((error, client, done) => {
      if (error !== undefined && error !== null) this.#note(error);
      callback(error, client, done);
    });
    return undefined;
  }

  #note(error: unknown): void {
    // After `end()` no connection will ever be opened.
    if (error instanceof Error && !this.ending) noteUnopened(error, this.#hasConnected ? 'passes' : 'stays');
  }
}
