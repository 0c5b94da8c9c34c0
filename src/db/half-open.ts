/**
 * Finds connections that went half-open: the other side is gone, or a firewall dropped them,
 * without a packet to say so. TCP takes a quarter of an hour to notice, and until then a statement
 * has no answer: a claim, an outcome or a handler's transaction would hang.
 *
 * A statement may as well be slow, or wait for a lock. So Postgres is asked, on a connection
 * of its own, whether the backend is still active; where it is not, the answer is lost.
 */
import pg from 'pg';

/** How often statements are checked. */
const CHECK_EVERY_MS = 1_000;

/** How long Postgres may take to say what a backend does. */
const ASK_LIMIT_MS = 3_000;

const APPLICATION_NAME = 'oncefleet-half-open';

interface HalfOpenOptions {
  url: string;
  /** A statement that has had no answer for this time is asked about. */
  afterMs: number;
  /** Called for each connection that is ended. */
  onLost(error: Error): void;
}

/**
 * Ends connections of the pool whose statement will never be answered. The statement fails
 * with what a lost connection fails with, and the pool makes another.
 *
 * What took one connection mostly took them all. So idle ones go with it, unless they have
 * answered since: or each of them would cost the next statement as long a wait.
 */
export function endHalfOpenConnections(pool: pg.Pool, options: HalfOpenOptions): { stop(): void } {
  const waiting = new Map<pg.PoolClient, number>();
  /** When each idle connection was released, by `performance.now()`. */
  const idle = new Map<pg.PoolClient, number>();
  pool.on('release', (_error, client) => idle.set(client, performance.now()));
  pool.on('acquire', (client) => idle.delete(client));
  pool.on('remove', (client) => idle.delete(client));
  /** Found lost by the last check. An answer may just have been on its way: only the next check ends them. */
  let suspects = new Map<pg.PoolClient, number>();
  let asking = false;
  pool.on('connect', (client) => {
    const query = client.query.bind(client) as (...args: unknown[]) => unknown;
    const watched = (...args: unknown[]): unknown => {
      const answer = query(...args);
      if (!(answer instanceof Promise)) return answer;
      waiting.set(client, performance.now());
      const done = () => waiting.delete(client);
      answer.then(done, done);
      return answer;
    };
    client.query = watched as typeof client.query;
  });
  const timer = setInterval(() => {
    const now = performance.now();
    const unanswered = new Map([...waiting].filter(([, since]) => now - since >= options.afterMs));
    if (unanswered.size === 0 || asking) return;
    asking = true;
    findLost(options.url, [...unanswered.keys()])
      .then((lost) => {
        // The answer may have come meanwhile, and the client wait for another one.
        const still = lost.filter((client) => waiting.get(client) === unanswered.get(client));
        for (const client of still.filter((candidate) => suspects.get(candidate) === unanswered.get(candidate))) {
          waiting.delete(client);
          options.onLost(
            new Error(`Postgres connection ended: no answer for ${options.afterMs} ms, and its backend waits for us`),
          );
          void client.end().catch(() => undefined);
          const since = unanswered.get(client) as number;
          for (const [other, at] of idle) if (at < since) destroyIdle(other);
        }
        suspects = new Map(still.map((client) => [client, unanswered.get(client) as number]));
      })
      // Postgres is unreachable, or does not answer this connection either: asked again.
      .catch(() => undefined)
      .finally(() => {
        asking = false;
      });
  }, CHECK_EVERY_MS);
  timer.unref();
  return { stop: () => clearInterval(timer) };
}

/** Of clients that wait for an answer, those whose backend is gone or idle. */
async function findLost(url: string, clients: readonly pg.PoolClient[]): Promise<pg.PoolClient[]> {
  const own = new pg.Client({
    connectionString: url,
    application_name: APPLICATION_NAME,
    connectionTimeoutMillis: ASK_LIMIT_MS,
    query_timeout: ASK_LIMIT_MS,
  });
  own.on('error', () => {});
  try {
    await own.connect();
    const { rows } = await own.query<{ own: number; active: number[] }>(
      `select pg_backend_pid() as own, array(select pid from pg_stat_activity where state = 'active') as active`,
    );
    const [row] = rows;
    // Behind a pooler backends change from statement to statement, and pids are the pooler's own.
    if (row === undefined || row.own !== pidOf(own)) return [];
    const active = new Set(row.active);
    // With `track_activities` off no backend is shown as active, not even that of this very statement.
    if (!active.has(row.own)) return [];
    return clients.filter((client) => !active.has(pidOf(client)));
  } finally {
    // Not awaited: this one may go half-open as well.
    own.end().catch(() => undefined);
  }
}

/** Its pool hears of it as of any connection that breaks. */
function destroyIdle(client: pg.PoolClient): void {
  client.connection.stream.destroy(new Error('Postgres connection ended: idle since before another went half-open'));
}

function pidOf(client: pg.Client): number {
  return (client as pg.Client & { processID: number }).processID;
}
