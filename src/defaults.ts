/** What a setting is unless told: of a process (config.ts) and of the library (`createFleet`, `withIdempotency`). */

const DAY_MS = 86_400_000;

export const DEFAULTS = Object.freeze({
  prefix: 'oncefleet',
  tenant: 'default',
  databasePoolSize: 10,
  /** Jobs at once, per queue. */
  concurrency: 10,
  /** A heartbeat is a third of it. */
  leaseTtlMs: 60_000,
  maxBlockMs: 600_000,
  maxCrashes: 5,
  resultTtlMs: DAY_MS,
  reconcileMs: 5_000,
  streamRetentionMs: 7 * DAY_MS,
  jobRetentionMs: 30 * DAY_MS,
  sweepMs: 60_000,
  shutdownMs: 25_000,
  lingerMs: 5,
  answerPaceMs: 15,
});
