/**
 * The pool, which tells a connection that could not be opened from a statement that Postgres refused.
 *
 * A server that restarts, fails over or is being set up refuses logins with whatever code fits: wrong
 * password, no such user or database, internal error. Nothing was sent then, and the next try may succeed.
 *
 * It also notes which errors of statements say that their connection is lost: what a handler meets then is no
 * failure of the handler.
 */
import pg from 'pg';
import { endsIdleSession, noteLost, noteUnopened } from './transient.ts';
import { writeRefusalOf } from './write-probe.ts';

type Callback = (
  error: Error | undefined,
  client: pg.PoolClient | undefined,
  done: (release?: unknown) => void,
) => void;

export class Pool extends pg.Pool {
  /** A pool that has had a connection has the right URL: what it meets later passes. */
  #hasConnected = false;
  #diskFullAt: number | undefined;

  constructor(config: pg.PoolConfig) {
    super(config);
    this.once('connect', () => {
      this.#hasConnected = true;
    });
    this.on('connect', (client) =>
      noteErrors(client, (error) => {
        if (writeRefusalOf(error) === 'disk-full') this.#diskFullAt = performance.now();
      }),
    );
  }

  /** When a statement was last refused for want of disk, by `performance.now()`. */
  get diskFullAt(): number | undefined {
    return this.#diskFullAt;
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

/** Notes which errors of a connection's statements say that it is lost. @param failed is told of each */
function noteErrors(client: pg.PoolClient, failed: (error: unknown) => void): void {
  let endedIdle = false;
  client.on('error', (error) => {
    endedIdle ||= endsIdleSession(error);
  });
  const query = client.query.bind(client) as (...args: unknown[]) => unknown;
  const noting = (...args: unknown[]): unknown => {
    const answer = query(...args);
    if (answer instanceof Promise) {
      answer.catch((error: unknown) => {
        failed(error);
        if (!endedIdle) noteLost(error);
      });
    }
    return answer;
  };
  client.query = noting as typeof client.query;
}
