/**
 * Which database errors go away by themselves. Everything else is an answer.
 *
 * A connection that could not be opened says so by where it failed (pool.ts), whatever its code. The lists
 * below are for statements.
 *
 * @see https://www.postgresql.org/docs/current/errcodes-appendix.html
 */
const TRANSIENT_CLASSES: ReadonlySet<string> = new Set([
  '08', // connection exception
  '53', // insufficient resources
  '57', // operator intervention: shutdown, crash recovery, cancelled statement
  '58', // system error
]);
const TRANSIENT_CODES: ReadonlySet<string> = new Set([
  '40001', // serialization failure
  '40P01', // deadlock
  '55P03', // lock not available
  '25006', // read-only: a failover has left us on the old primary
  '25P03', // idle in transaction timeout
]);
const NETWORK_CODES: ReadonlySet<string> = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOENT', // unix socket of a stopped server
]);
/** pg reports lost connections and pool timeouts without a code. */
const NETWORK_MESSAGES =
  /connection is closed|connection terminated|connection ended|timeout exceeded when trying to connect|client has encountered a connection error|not queryable|query read timeout|server closed the connection/i;

/** Ends the connection, and with it the session: nothing that a statement could have caused. */
const ENDS_SESSION: ReadonlySet<unknown> = new Set(['FATAL', 'PANIC']);

/** Errors of connections that could not be opened. */
const unopened = new WeakMap<Error, 'passes' | 'stays'>();

/** @param how `stays`: of a pool that never had a connection, whose URL may be wrong; its code decides */
export function noteUnopened(error: Error, how: 'passes' | 'stays'): void {
  unopened.set(error, how);
}

export function isTransient(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const opening = unopened.get(error);
  if (opening === 'passes') return true;
  const { code, severity } = error as { code?: unknown; severity?: unknown };
  // Behind a pooler it is the first statement that is told of a refused login.
  if (opening === undefined && ENDS_SESSION.has(severity)) return true;
  if (typeof code === 'string') {
    if (NETWORK_CODES.has(code) || TRANSIENT_CODES.has(code)) return true;
    if (code.length === 5 && TRANSIENT_CLASSES.has(code.slice(0, 2))) return true;
  }
  if (error instanceof AggregateError && error.errors.some(isTransient)) return true;
  return NETWORK_MESSAGES.test(error.message);
}

/** Errors of statements whose connection was lost under them. */
const lost = new WeakSet<Error>();

/** How Postgres ends a session that its owner left idle, or kept in one transaction for too long: the same would end the next. */
const ENDS_IDLE: ReadonlySet<unknown> = new Set(['25P03', '25P04']);

export function endsIdleSession(error: unknown): boolean {
  return ENDS_IDLE.has((error as { code?: unknown } | undefined)?.code);
}

/** Notes the error of a statement where it says that the connection is lost, or of no use any more. */
export function noteLost(error: unknown): void {
  if (!(error instanceof Error) || endsIdleSession(error)) return;
  const { code, severity } = error as { code?: unknown; severity?: unknown };
  // Of what the server says: only that it ends the session, or has become a replica.
  const isLost =
    typeof severity === 'string'
      ? ENDS_SESSION.has(severity) || (typeof code === 'string' && /^(?:08|57P0|25006)/.test(code))
      : isTransient(error);
  if (isLost) lost.add(error);
}

/**
 * Whether an error, or one that it names as its cause, comes from a pool of ours whose connection was lost or could not
 * be opened. An error of a handler's own server, with the same code, does not.
 */
export function isConnectionLost(error: unknown): boolean {
  for (let at = error, depth = 0; at instanceof Error && depth < 5; at = at.cause, depth++) {
    if (lost.has(at) || (unopened.has(at) && isTransient(at))) return true;
  }
  return false;
}

/** Whether an error says that no connection of the pool came free in time, looking through its causes. */
export function isPoolTaken(error: unknown): boolean {
  for (let at = error, depth = 0; at instanceof Error && depth < 5; at = at.cause, depth++)
    if (at.message === 'timeout exceeded when trying to connect') return true;
  return false;
}
