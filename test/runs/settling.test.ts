/** A run that is writing its outcome, or has just written it, while the lease thread looks for its row. */
import { pino } from 'pino';
import { afterEach, expect, it, vi } from 'vitest';
import { z } from 'zod';
import { defineJob } from '../../src/index.ts';
import { Transitions } from '../../src/runtime/transitions.ts';
import { rowOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';

const file = useDatabase();
// Renewed often, and long: no lease is to run out here, however slow the machine is.
const FAST = { leaseTtlMs: 30_000, heartbeatMs: 100 };

afterEach(() => {
  vi.restoreAllMocks();
});

function capture() {
  const lines: { msg: string; level: number }[] = [];
  const log = pino({ level: 'debug' }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  return { log, warnings: () => lines.filter(({ level }) => level >= 40).map(({ msg }) => msg) };
}

/** A job that does nothing but have its lease renewed: when it is, the thread has looked at all leases. */
function pulseJob() {
  const started = Promise.withResolvers<string>();
  const over = Promise.withResolvers<void>();
  const job = defineJob({
    name: 'pulse',
    input: z.object({}),
    async run(_input, ctx) {
      started.resolve(ctx.jobId);
      await over.promise;
    },
  });
  return { job, started: started.promise, end: over.resolve };
}

async function heartbeats(id: string, times: number): Promise<void> {
  for (let i = 0; i < times; i++) {
    const before = (await rowOf(file.db, id)).lease_expires_at as Date;
    await expect
      .poll(async () => ((await rowOf(file.db, id)).lease_expires_at as Date) > before, { timeout: 10_000 })
      .toBe(true);
  }
}

it('an outcome that is committed and not yet answered is no lost lease', async () => {
  const pulse = pulseJob();
  const job = defineJob({ name: 'settling', input: z.object({}), run: async () => 'done' });
  const committed = Promise.withResolvers<string>();
  const held = Promise.withResolvers<void>();
  const settle = Transitions.prototype.settle;
  vi.spyOn(Transitions.prototype, 'settle').mockImplementation(async function (this: Transitions, settlement, claimed) {
    const accepted = await settle.call(this, settlement, claimed);
    if (settlement.result === '"done"') {
      committed.resolve(settlement.id);
      await held.promise;
    }
    return accepted;
  });
  const { log, warnings } = capture();
  const fleet = createTestFleet(file.url, [job, pulse.job], { ...FAST, log });
  await fleet.work();
  await fleet.enqueue(pulse.job, {});
  const pulseId = await pulse.started;
  const handle = await fleet.enqueue(job, {});
  expect(await committed.promise).toBe(handle.id);
  expect((await rowOf(file.db, handle.id)).status).toBe('completed');
  await heartbeats(pulseId, 3);
  held.resolve();
  expect(await handle.result({ timeoutMs: 10_000 })).toBe('done');
  pulse.end();
  await fleet.close();
  expect(warnings()).toEqual([]);
});

it('a run that has completed itself and goes on has lost no lease', async () => {
  const pulse = pulseJob();
  const completed = Promise.withResolvers<string>();
  const held = Promise.withResolvers<void>();
  const job = defineJob({
    name: 'settling-itself',
    input: z.object({}),
    async run(_input, ctx) {
      await ctx.transaction((trx) => ctx.complete(trx, 'done'));
      completed.resolve(ctx.jobId);
      await held.promise;
      return ctx.signal.aborted;
    },
  });
  const { log, warnings } = capture();
  const fleet = createTestFleet(file.url, [job, pulse.job], { ...FAST, log });
  await fleet.work();
  await fleet.enqueue(pulse.job, {});
  const pulseId = await pulse.started;
  const handle = await fleet.enqueue(job, {});
  expect(await completed.promise).toBe(handle.id);
  await heartbeats(pulseId, 3);
  held.resolve();
  expect(await handle.result({ timeoutMs: 10_000 })).toBe('done');
  pulse.end();
  await fleet.close();
  expect(warnings()).toEqual([]);
});
