import { onTestFinished } from 'vitest';
import type { AnyJobDefinition } from '../../src/jobs/define-job.ts';
import { createFleet, type Fleet, type FleetOptions } from '../../src/workers/fleet.ts';
import { testRedisUrl, uniquePrefix } from './services.ts';

/** A fleet on a test's own prefix, with short times but for its leases; closed when the test ends. */
export function createTestFleet(
  databaseUrl: string,
  jobs: readonly AnyJobDefinition[],
  overrides: Partial<FleetOptions> = {},
): Fleet {
  const fleet = createFleet({
    databaseUrl,
    redisUrl: testRedisUrl(),
    prefix: uniquePrefix(),
    jobs,
    databasePoolSize: 5,
    // A test process that stalls for seconds must not lose a lease; tests of lost leases backdate them.
    leaseTtlMs: 30_000,
    heartbeatMs: 500,
    reconcileMs: 300,
    shutdownMs: 100,
    ...overrides,
  });
  onTestFinished(() => fleet.close());
  return fleet;
}
