/** A fleet at work while something is done to its servers, and what must hold of all its jobs afterwards. */
import { type Kysely, sql } from 'kysely';
import { expect, onTestFinished, vi } from 'vitest';
import { z } from 'zod';
import type { Database } from '../../src/db/schema.ts';
import { defineJob } from '../../src/index.ts';
import { createFleet, type FleetOptions } from '../../src/workers/fleet.ts';
import { journalOf } from './fixtures.ts';
import { uniquePrefix } from './services.ts';

/** Events of a run, each flushed by itself. */
const STEPS = 3;
/** Jobs that are in flight at a time. */
const LANES = 4;
/** A failover takes seconds, and the machine may be busy. */
const WAIT = { timeout: 90_000, interval: 50 };

/** A table of the user's, in which each job has one row in the end. */
export async function createLedger(db: Kysely<Database>): Promise<void> {
  await sql`create table public.ledger (job text not null)`.execute(db);
}

const ledgerJob = defineJob({
  name: 'ledger',
  input: z.object({ lane: z.number(), n: z.number() }),
  async run(_input, ctx) {
    for (let step = 0; step < STEPS; step++) {
      await ctx.emit({ type: 'step', step });
      await ctx.flush();
    }
    await ctx.transaction(async (trx) => {
      await sql`insert into public.ledger (job) values (${ctx.jobId})`.execute(trx);
      await ctx.complete(trx, null);
    });
  },
});

export interface Load {
  /** Waits until so many more jobs have been followed to their ends. */
  ends(more: number): Promise<void>;
  /** Stops the producer and waits for all that was accepted; then looks at rows, ledger, journal and followers. */
  settle(db: Kysely<Database>): Promise<void>;
}

/** Starts a worker, and a producer that follows each of its jobs to the end. */
export async function startLoad(
  servers: Pick<FleetOptions, 'databaseUrl' | 'redisUrl'> & Partial<FleetOptions>,
): Promise<Load> {
  const { prefix = uniquePrefix() } = servers;
  const fleet = createFleet({
    prefix,
    jobs: [ledgerJob],
    databasePoolSize: 5,
    leaseTtlMs: 5_000,
    heartbeatMs: 500,
    reconcileMs: 500,
    shutdownMs: 1_000,
    ...servers,
  });
  let stopped = false;
  onTestFinished(async () => {
    stopped = true;
    await fleet.close();
  });
  await fleet.work();
  const ended = new Map<string, string[]>();
  const produce = async (lane: number) => {
    for (let n = 0; !stopped; n++) {
      const input = { lane, n };
      // What had no answer is asked again: its key sees to one job.
      const handle = await vi.waitFor(() => fleet.enqueue(ledgerJob, input, { key: `${prefix}-${lane}-${n}` }), WAIT);
      const seen: string[] = [];
      for await (const { json } of handle.events()) seen.push(json);
      ended.set(handle.id, seen);
    }
  };
  const lanes = Promise.all(Array.from({ length: LANES }, (_, lane) => produce(lane)));
  // Told by `settle`.
  lanes.catch(() => undefined);
  return {
    async ends(more) {
      const wanted = ended.size + more;
      await Promise.race([expect.poll(() => ended.size, WAIT).toBeGreaterThanOrEqual(wanted), lanes]);
    },
    async settle(db) {
      stopped = true;
      await lanes;
      const { rows } = await sql<{ id: string; status: string; error_count: number }>`
        select id, status, error_count from oncefleet.jobs
        where starts_with(idempotency_key, ${prefix})`.execute(db);
      expect(rows.filter(({ status, error_count }) => status !== 'completed' || error_count > 0)).toEqual([]);
      expect(rows.map(({ id }) => id).sort()).toEqual([...ended.keys()].sort());
      const ledger = await sql<{ job: string }>`select job from public.ledger`.execute(db);
      expect(ledger.rows.map(({ job }) => job).sort()).toEqual([...ended.keys()].sort());
      for (const [id, seen] of ended) {
        const journal = (await journalOf(db, id)).map(({ event }) => JSON.stringify(event));
        expect(seen).toEqual(journal);
      }
    },
  };
}
