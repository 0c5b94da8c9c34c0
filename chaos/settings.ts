/** Times of the fleet under test: short, so that a minute holds many lives of a lease. */
export const LEASE_TTL_MS = 3_000;
/** An event loop that is blocked longer loses its leases one TTL later. */
export const MAX_BLOCK_MS = 4_000;
export const WORKERS = 4;
export const PRODUCERS = 2;
/** Crashes a poison job is allowed. */
export const POISON_CRASHES = 2;
export const DATABASE_POOL_SIZE = 6;

export const FLEET_ENV = {
  ONCEFLEET_LEASE_TTL_MS: String(LEASE_TTL_MS),
  ONCEFLEET_HEARTBEAT_MS: '700',
  ONCEFLEET_RECONCILE_MS: '500',
  ONCEFLEET_SHUTDOWN_MS: '1500',
  ONCEFLEET_MAX_BLOCK_MS: String(MAX_BLOCK_MS),
  ONCEFLEET_CONCURRENCY: '12',
  DATABASE_POOL_SIZE: String(DATABASE_POOL_SIZE),
  LOG_LEVEL: 'debug',
} as const;
