import { expect, it, vi } from 'vitest';
import { silentLogger } from '../../src/log.ts';
import { Cancels } from '../../src/runtime/cancels.ts';
import { connectionLost } from '../helpers/faulty-db.ts';
import { claimFree, insertJob, useDatabase } from '../helpers/fixtures.ts';

const file = useDatabase();

/** A process that runs jobs whose cancel was requested, and whose database fails `failures` times. */
async function stage(options: { failures: number; jobs?: number; error?: () => Error }) {
  const ids: string[] = [];
  for (let n = 0; n < (options.jobs ?? 1); n++) {
    const id = await insertJob(file.db);
    await claimFree(file.db, id);
    await file.db.updateTable('jobs').set({ cancel_requested_at: new Date() }).where('id', '=', id).execute();
    ids.push(id);
  }
  let { failures } = options;
  const { error = connectionLost } = options;
  const select = vi.fn((table: 'jobs') => {
    if (failures-- > 0) throw error();
    return file.db.selectFrom(table);
  });
  const held = new Set(ids);
  const cancel = vi.fn((id: string) => void held.delete(id));
  const leases = { holds: (id: string) => held.has(id), cancel };
  const db = { selectFrom: select } as unknown as typeof file.db;
  return { ids, held, select, cancel, cancels: new Cancels({ db, leases, log: silentLogger() }) };
}

it('are asked for until Postgres answers', async () => {
  const { ids, cancels, cancel, select } = await stage({ failures: 3 });
  cancels.look(ids[0] as string);
  await expect.poll(() => cancel.mock.calls, { timeout: 15_000 }).toEqual([[ids[0]]]);
  expect(select).toHaveBeenCalledTimes(4);
});

it('are asked for together, one statement at a time', async () => {
  const { ids, cancels, cancel, select } = await stage({ failures: 1, jobs: 20 });
  for (const id of ids) cancels.look(id);
  await expect.poll(() => cancel.mock.calls.length, { timeout: 15_000 }).toBe(20);
  expect(select.mock.calls.length).toBeLessThan(5);
});

it('are given up for a run that has ended meanwhile', async () => {
  const { ids, held, cancels, cancel, select } = await stage({ failures: 1, jobs: 2 });
  const [ended, running] = ids as [string, string];
  cancels.look(ended);
  expect(select).toHaveBeenCalledTimes(1);
  held.delete(ended);
  cancels.look(running);
  await expect.poll(() => cancel.mock.calls, { timeout: 15_000 }).toEqual([[running]]);
});

it('are left to the heartbeat where Postgres refuses the question', async () => {
  const { ids, cancels, cancel, select } = await stage({ failures: 1, error: () => new Error('no such table') });
  cancels.look(ids[0] as string);
  // A refusal would be the same at once: it is not asked again by itself.
  for (let turn = 0; turn < 10; turn++) await new Promise((resolve) => setImmediate(resolve));
  expect(select).toHaveBeenCalledTimes(1);
  cancels.look(ids[0] as string);
  await expect.poll(() => cancel.mock.calls, { timeout: 15_000 }).toEqual([[ids[0]]]);
});
