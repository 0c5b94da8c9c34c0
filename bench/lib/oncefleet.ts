/** Oncefleet's own parts, as benches need them. */

import { createDb } from '../../src/db/client.ts';
import { claimJobs } from '../../src/db/jobs/claim.ts';
import { insertJobs } from '../../src/db/jobs/insert.ts';
import { fingerprint } from '../../src/enqueue/fingerprint.ts';
import { migrate } from '../../src/index.ts';
import type { Runtime } from '../../src/runtime/runtime.ts';
import { uuidV7 } from '../../src/util/uuid.ts';

export const TENANT = 'default';

/** Longer than any case. */
const LEASE_TTL_MS = 3_600_000;

/** Makes the tables; leaves no connection open. */
export async function prepareOncefleet(databaseUrl: string): Promise<void> {
  const db = createDb({ url: databaseUrl, maxConnections: 1, applicationName: 'oncefleet bench', onError: () => {} });
  try {
    await migrate(db.kysely);
  } finally {
    await db.close();
  }
}

/** So many running jobs of this process, whose streams are still empty. @returns their ids; their fence is 1 */
export async function startJobs({ db, workerId }: Runtime, count: number): Promise<string[]> {
  const ids = Array.from({ length: count }, () => uuidV7());
  const options = { priority: 0, attempts: 1, backoff: { type: 'fixed', delayMs: 0 } } as const;
  await insertJobs(
    db.kysely,
    ids.map((id) => ({
      id,
      tenant: TENANT,
      name: 'bench',
      queue: 'bench',
      key: null,
      fingerprint: fingerprint({}),
      input: '{}',
      options,
      delayMs: 0,
      deadlineMs: null,
    })),
  );
  const answers = await claimJobs(
    db.kysely,
    ids.map((id) => ({ id, owner: uuidV7(), ttlMs: LEASE_TTL_MS, maxCrashes: 0, delivery: 0, own: true })),
    workerId,
  );
  if (answers.some(({ decision }) => decision !== 'claimed')) throw new Error('a job of the bench was not claimed');
  return ids;
}
