/** Worker processes that are told to end while they run jobs: their leases would last a minute. */

import { sql } from 'kysely';
import { beforeAll, describe, expect, it } from 'vitest';
import { stepsJob } from '../helpers/crash-process.ts';
import { LONG_LEASE, proxied, startDoomed } from '../helpers/doomed.ts';
import { expireLease, journalOf, rowOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();

beforeAll(async () => {
  await sql`create table effects (job_id uuid not null)`.execute(file.db);
});

describe('a worker that is told to end', () => {
  it.each([
    ['wait', { how: 'wait', stoppedEarly: false }],
    ['wait-silent', { how: 'wait-silent', stoppedEarly: false }],
    ['deaf', { how: 'deaf' }],
  ] as const)(
    'lets go of its jobs (%s): another finishes them, and nothing counts as crash or error',
    async (how, result) => {
      const prefix = uniquePrefix();
      const fleet = createTestFleet(file.url, [stepsJob], { prefix, ...LONG_LEASE });
      const worker = await startDoomed({ databaseUrl: file.url, prefix, ...LONG_LEASE });
      const handle = await fleet.enqueue(stepsJob, { how });
      await worker.told('running');
      await worker.end();
      expect(await rowOf(file.db, handle.id)).toMatchObject({ status: 'pending', lease_owner: null });
      await fleet.work();
      expect(await handle.result({ timeoutMs: 60_000 })).toEqual(result);
      expect(await fleet.get(handle.id)).toMatchObject({
        fence: 2,
        crashCount: 0,
        errorCount: 0,
        interruptionCount: 1,
        attempts: [{ outcome: 'interruption' }, { outcome: 'completed' }],
      });
      const steps = how === 'wait' ? ['step', 'attempt', 'step', 'step', 'end'] : ['attempt', 'end'];
      expect((await journalOf(file.db, handle.id)).map(({ event }) => event.type)).toEqual(steps);
    },
  );

  it.each(['idle', 'full'] as const)('ends although Postgres is away, its journal %s', async (journal) => {
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, [stepsJob], { prefix });
    const { proxy, url } = await proxied(file.url);
    const worker = await startDoomed({ databaseUrl: url, prefix, ...LONG_LEASE });
    const handle = await fleet.enqueue(stepsJob, { how: 'wait' });
    await worker.told('running');
    proxy.set({ kind: 'cut' });
    if (journal === 'full') {
      worker.order({ type: 'go' });
      await worker.said('journal flush failed; retrying');
    }
    await worker.end();
    proxy.set({ kind: 'open' });
    await expireLease(file.db, handle.id);
    await fleet.work();
    expect(await handle.result({ timeoutMs: 60_000 })).toEqual({ how: 'wait', stoppedEarly: false });
  });
});
