/**
 * A write that Postgres takes and that changes no row, while the run has its lease: a trigger, a rule or row-level
 * security of somebody's. Taken for a lost lease, each of them would have the job run again without end.
 */
import { sql } from 'kysely';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { finishAbandoned } from '../../src/db/jobs/finish.ts';
import { defineJob, type JobContext } from '../../src/index.ts';
import { claimFree, expireLease, insertJob, journalOf, rowOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';

const file = useDatabase();
const WAIT = { timeoutMs: 20_000 };
const QUIET = { leaseTtlMs: 60_000, heartbeatMs: 20_000 };

/** Has Postgres drop those updates of a job's row that meet a condition on `old` and `new`. */
async function dropUpdates(name: string, condition: string): Promise<void> {
  await sql
    .raw(`
      create or replace function public.drop_row() returns trigger language plpgsql as 'begin return null; end';
      create trigger "drop_${name}" before update on oncefleet.jobs
        for each row when (new.name = '${name}' and ${condition}) execute function public.drop_row();`)
    .execute(file.db);
}

/** A job whose runs are counted, worked by a fleet. */
async function stage(name: string, run: (ctx: JobContext, runs: number) => Promise<unknown>) {
  let runs = 0;
  const job = defineJob({
    name,
    input: z.object({}),
    attempts: 2,
    backoff: { type: 'fixed', delayMs: 0, jitter: 0 },
    run: async (_input, ctx) => run(ctx, ++runs),
  });
  const fleet = createTestFleet(file.url, [job], QUIET);
  await fleet.work();
  const handle = await fleet.enqueue(job, {});
  const ended = handle.result(WAIT).then(
    (result) => ({ result }),
    (error: unknown) => ({ error: error as { code?: string; message: string } }),
  );
  return { fleet, id: handle.id, ended, runs: () => runs };
}

/** Another client's hands in the head of a stream. */
async function spoilHead(id: string, change: 'next_seq = next_seq + 7' | "state = 'closed'"): Promise<void> {
  await sql`update oncefleet.stream_heads set ${sql.raw(change)} where stream_id = ${id}`.execute(file.db);
}

describe('a write of a run that Postgres drops', () => {
  it.each<[string, string, (ctx: JobContext) => Promise<unknown>]>([
    ['the completion', "new.status = 'completed'", async () => 'done'],
    [
      'the completion, after events',
      "new.status = 'completed'",
      async (ctx) => {
        await ctx.emit({ type: 'said' });
        await ctx.flush();
      },
    ],
    [
      'a checkpoint',
      'new.checkpoint is not null and old.checkpoint is null',
      async (ctx) => {
        await ctx.checkpoint({ at: 1 });
      },
    ],
  ])('fails the job with its cause, once: %s', async (what, condition, run) => {
    const name = `drops-${what.length}`;
    await dropUpdates(name, condition);
    const { id, ended, runs } = await stage(name, run);
    expect(await ended).toMatchObject({ error: { code: 'WRITE_DROPPED' } });
    expect(runs()).toBe(1);
    expect(await rowOf(file.db, id)).toMatchObject({ status: 'failed', error_count: 1, lease_owner: null });
  });

  it('spends an attempt where it is the handler that completes the job', async () => {
    await dropUpdates('drops-own', "new.status = 'completed'");
    const { ended, runs } = await stage('drops-own', (ctx) => ctx.transaction((trx) => ctx.complete(trx, 'done')));
    expect(await ended).toMatchObject({ error: { code: 'WRITE_DROPPED' } });
    expect(runs()).toBe(2);
  });

  it('is the same of a renewal', async () => {
    await dropUpdates(
      'drops-renewal',
      'old.lease_expires_at is not null and new.lease_expires_at > old.lease_expires_at',
    );
    const job = defineJob({
      name: 'drops-renewal',
      input: z.object({}),
      run: (_input, ctx) =>
        new Promise((_resolve, reject) => ctx.signal.addEventListener('abort', () => reject(ctx.signal.reason))),
    });
    const fleet = createTestFleet(file.url, [job], { leaseTtlMs: 30_000, heartbeatMs: 100 });
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    await expect(handle.result(WAIT)).rejects.toMatchObject({ code: 'WRITE_DROPPED' });
    expect(await rowOf(file.db, handle.id)).toMatchObject({ fence: 1, interruption_count: 0 });
  });
});

describe('a stream that takes nothing from the run that has the lease', () => {
  it.each(['next_seq = next_seq + 7', "state = 'closed'"] as const)(
    'fails a job that would complete, once; its reader is told: %s',
    async (change) => {
      const spoilt = Promise.withResolvers<void>();
      const s = await stage(`spoilt-${change.length}`, async (ctx) => {
        await ctx.emit({ type: 'said' });
        await ctx.flush();
        await spoilHead(ctx.jobId, change);
        spoilt.resolve();
        return 'done';
      });
      await spoilt.promise;
      expect(await s.ended).toMatchObject({ error: { code: 'WRITE_DROPPED' } });
      expect(s.runs()).toBe(1);
      expect(await rowOf(file.db, s.id)).toMatchObject({ status: 'failed', fence: 1 });
    },
  );

  it('fails a job that goes on to emit, once', async () => {
    const s = await stage('spoilt-emits', async (ctx) => {
      await ctx.emit({ type: 'said' });
      await ctx.flush();
      await spoilHead(ctx.jobId, 'next_seq = next_seq + 7');
      await ctx.emit({ type: 'said' });
      await ctx.flush();
    });
    expect(await s.ended).toMatchObject({ error: { code: 'WRITE_DROPPED' } });
    expect(s.runs()).toBe(1);
  });

  it('keeps the error of a handler that throws', async () => {
    const s = await stage('spoilt-throws', async (ctx, runs) => {
      if (runs === 1) {
        await ctx.emit({ type: 'said' });
        await ctx.flush();
        await spoilHead(ctx.jobId, "state = 'closed'");
      }
      throw new Error(`its own, ${runs}`);
    });
    expect(await s.ended).toMatchObject({
      error: { code: 'HANDLER_ERROR', message: expect.stringContaining('its own') },
    });
    expect(await rowOf(file.db, s.id)).toMatchObject({ status: 'failed' });
  });
});

it('an end from outside that is dropped adds nothing to the stream', async () => {
  await dropUpdates('drops-end', "new.status = 'failed'");
  const id = await insertJob(file.db, { name: 'drops-end' });
  await claimFree(file.db, id);
  await expireLease(file.db, id);
  for (let round = 0; round < 2; round++)
    await expect(finishAbandoned(file.db, id, { resultTtlMs: 0, maxCrashes: 0 })).rejects.toMatchObject({
      code: 'WRITE_DROPPED',
    });
  expect(await journalOf(file.db, id)).toEqual([]);
});
