/** `fleet.enqueueMany`: outcomes in order, whatever some items are. */
import { sql } from 'kysely';
import pg from 'pg';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { z } from 'zod';
import type { EnqueueManyResult } from '../../src/client/types.ts';
import { defineJob } from '../../src/index.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';

const file = useDatabase();

const job = defineJob({
  name: 'job',
  input: z.object({ n: z.number(), text: z.string().optional() }),
  run: async ({ n }) => n,
});
const other = defineJob({ name: 'other', input: z.string(), run: async (text) => text });

const outcomesOf = ({ outcomes }: EnqueueManyResult) => outcomes.map(({ outcome }) => outcome);
const jobsOf = async (tenant: string) =>
  (await sql<{ n: number }>`select count(*)::int as n from oncefleet.jobs where tenant = ${tenant}`.execute(file.db))
    .rows[0]?.n;

/** A client of the caller's in a transaction; `statements` are those that were sent over it. */
async function beginTransaction() {
  const client = new pg.Client({ connectionString: file.url });
  await client.connect();
  onTestFinished(() => client.end());
  await client.query('begin');
  return { tx: client, queries: vi.spyOn(client, 'query') };
}

const inserts = (calls: readonly (readonly unknown[])[]) =>
  calls.filter(([text]) => typeof text === 'string' && /insert into \S*jobs \(id/.test(text)).length;

describe('enqueueMany', () => {
  it('runs all jobs, and its handles are those of the items', async () => {
    const fleet = createTestFleet(file.url, [job], { tenant: 'runs' });
    await fleet.work();
    const items = Array.from({ length: 1_200 }, (_, n) => ({ input: { n } }));
    const { outcomes, counts } = await fleet.enqueueMany(job, items);
    expect(counts).toMatchObject({ created: 1_200 });
    expect(outcomes.map(({ index }) => index)).toEqual(items.map((_, n) => n));
    for (const n of [0, 499, 500, 1_199]) {
      const handle = outcomes[n];
      if (handle === undefined || 'error' in handle) throw new Error('refused');
      expect(await handle.result({ timeoutMs: 15_000 })).toBe(n);
    }
  });

  it('says of each item in its place what it is, and one that is wrong keeps no other from being accepted', async () => {
    const fleet = createTestFleet(file.url, [job, other], { tenant: 'mixed' });
    await fleet.work({ jobs: ['other'] });
    const ended = await fleet.enqueue(other, 'done', { key: 'ended' });
    await ended.result({ timeoutMs: 15_000 });
    await fleet.enqueue(job, { n: 1 }, { key: 'waits', delayMs: 60_000 });
    const list = [
      { job, input: { n: 1 }, key: 'new', delayMs: 60_000 },
      { job: 'job', input: { n: 1 }, key: 'waits' },
      { job, input: { n: 2 }, key: 'waits' },
      { job: 'other', input: 'done', key: 'ended' },
      { job, input: { n: 'x' } },
      { job, input: { n: 1 }, key: '' },
      { job: 'nobody', input: 1 },
      { job, input: { n: 1 }, delayMs: -1, prioritty: 1 },
      null,
      { job, input: { n: 1 }, key: 'new' },
      { job, input: { n: 3 }, key: 'new' },
      { job: 'other', input: 'x', key: 'new', delayMs: 60_000 },
    ];
    const result = await fleet.enqueueMany(list as never);
    expect(outcomesOf(result)).toEqual([
      'created',
      'attached',
      'conflict',
      'replayed',
      'invalid',
      'invalid',
      'invalid',
      'invalid',
      'invalid',
      'attached',
      'conflict',
      'created',
    ]);
    expect(result.counts).toEqual({ created: 2, attached: 2, replayed: 1, conflict: 2, invalid: 5, error: 0 });
    const errors = result.outcomes.map((one) => ('error' in one ? one.error : undefined));
    expect(errors.map((error) => error?.code).filter(Boolean)).toEqual([
      'KEY_MISMATCH',
      'INPUT_INVALID',
      'KEY_INVALID',
      'JOB_NAME_UNKNOWN',
      'INPUT_INVALID',
      'INPUT_INVALID',
      'KEY_MISMATCH',
    ]);
    expect(errors[4]?.message).toContain('n: ');
    expect(errors[7]?.message).toMatch(/delayMs: .*prioritty/);
    const ids = result.outcomes.map((one) => ('id' in one ? one.id : ''));
    expect(ids[9]).toBe(ids[0]);
    expect(ids[3]).toBe(ended.id);
  });

  it('gives a key to the first item of the list that names it, in whatever chunk', async () => {
    const fleet = createTestFleet(file.url, [job], { tenant: 'first' });
    const items = Array.from({ length: 1_500 }, (_, n) => ({ input: { n: n < 3 ? n : 0 }, key: `k${n % 3}` }));
    const result = await fleet.enqueueMany(job, items);
    expect(outcomesOf(result).slice(0, 3)).toEqual(['created', 'created', 'created']);
    expect(result.counts).toMatchObject({ created: 3, attached: 499, conflict: 998 });
    expect(await jobsOf('first')).toBe(3);
  });

  it('cuts the list by the bytes of its inputs', async () => {
    const fleet = createTestFleet(file.url, [job], { tenant: 'bytes' });
    const seen: number[] = [];
    const text = 'x'.repeat(1_500_000);
    const items = Array.from({ length: 5 }, (_, n) => ({ input: { n, text } }));
    await fleet.enqueueMany(job, items, { onProgress: ({ done }) => seen.push(done) });
    expect(seen).toEqual([2, 4, 5]);
  });

  it('of a signal that aborts, leaves what was accepted and does no more', async () => {
    const fleet = createTestFleet(file.url, [job], { tenant: 'aborts' });
    const stop = new AbortController();
    const items = Array.from({ length: 1_000 }, (_, n) => ({ input: { n } }));
    const onProgress = () => stop.abort(new Error('enough'));
    await expect(fleet.enqueueMany(job, items, { signal: stop.signal, onProgress })).rejects.toThrow('enough');
    expect(await jobsOf('aborts')).toBe(500);
  });

  it('is a part of the caller’s transaction: rolled back, no job ever was; committed, all run', async () => {
    const fleet = createTestFleet(file.url, [job], { tenant: 'tx' });
    await fleet.work();
    const items = Array.from({ length: 300 }, (_, n) => ({ input: { n }, key: `k${n}` }));
    const undone = await beginTransaction();
    expect((await fleet.enqueueMany(job, items, { tx: undone.tx })).counts).toMatchObject({ created: 300 });
    await undone.tx.query('rollback');
    expect(await jobsOf('tx')).toBe(0);

    const done = await beginTransaction();
    const list = [...items, { input: { n: 0 }, key: 'k0' }, { input: { n: 7 }, key: 'k0' }, { input: { n: 'x' } }];
    const result = await fleet.enqueueMany(job, list as typeof items, { tx: done.tx });
    expect(result.counts).toEqual({ created: 300, attached: 1, replayed: 0, conflict: 1, invalid: 1, error: 0 });
    expect(inserts(done.queries.mock.calls)).toBe(2);
    await done.tx.query('commit');
    for (const one of [result.outcomes[0], result.outcomes[299]])
      if (one !== undefined && 'result' in one) await one.result({ timeoutMs: 15_000 });
    expect(await jobsOf('tx')).toBe(300);
  });

  it('says of an item that Postgres refuses alone that it is an error, and accepts the others', async () => {
    const fleet = createTestFleet(file.url, [job], { tenant: 'refused' });
    await sql`create function refuse_13() returns trigger language plpgsql as
      $$ begin if new.input::text like '%13}' then raise 'unlucky'; end if; return new; end $$`.execute(file.db);
    await sql`create trigger refuse_13 before insert on oncefleet.jobs for each row execute function refuse_13()`.execute(
      file.db,
    );
    onTestFinished(async () => {
      await sql`drop trigger refuse_13 on oncefleet.jobs`.execute(file.db);
    });
    const result = await fleet.enqueueMany(
      job,
      [12, 13, 14].map((n) => ({ input: { n } })),
    );
    expect(outcomesOf(result)).toEqual(['created', 'error', 'created']);
    // In the caller's transaction, which is spoilt by it, it is thrown.
    const { tx } = await beginTransaction();
    await expect(fleet.enqueueMany(job, [{ input: { n: 13 } }], { tx })).rejects.toThrow('unlucky');
  });
});

describe('cancelMany', () => {
  const later = { delayMs: 3_600_000 };

  it('cancels what matches, in pages, and nothing else', async () => {
    const fleet = createTestFleet(file.url, [job, other], { tenant: 'cancels' });
    const items = Array.from({ length: 1_100 }, (_, n) => ({ input: { n }, key: `import/${n}`, ...later }));
    await fleet.enqueueMany(job, items);
    const left = await Promise.all([
      fleet.enqueue(job, { n: 1 }, { key: 'import', ...later }),
      fleet.enqueue(other, 'x', { key: 'import/1', ...later }),
      fleet.enqueue(job, { n: 1 }, { key: 'import/1', tenant: 'another', ...later }),
    ]);
    const seen: number[] = [];
    const filter = { name: 'job', queue: 'job', status: 'pending', keyPrefix: 'import/' } as const;
    expect(await fleet.cancelMany({ ...filter, olderThanMs: 3_600_000 })).toMatchObject({ matched: 0 });
    const result = await fleet.cancelMany({ ...filter, onProgress: ({ cancelled }) => seen.push(cancelled) });
    expect(result).toEqual({ matched: 1_100, cancelled: 1_100, requested: 0 });
    expect(seen.length).toBeGreaterThan(2);
    expect(await fleet.cancelMany(filter)).toMatchObject({ matched: 0 });
    const states = await Promise.all(
      left.map(({ id }, i) => fleet.get(id, { tenant: i === 2 ? 'another' : 'cancels' })),
    );
    expect(states.map((one) => one?.status)).toEqual(['pending', 'pending', 'pending']);
  });

  it('takes no more than its limit', async () => {
    const fleet = createTestFleet(file.url, [job], { tenant: 'limit' });
    await fleet.enqueueMany(
      job,
      [1, 2, 3].map((n) => ({ input: { n }, ...later })),
    );
    expect(await fleet.cancelMany({ limit: 2 })).toMatchObject({ matched: 2, cancelled: 2 });
    expect(await fleet.cancelMany()).toMatchObject({ matched: 1, cancelled: 1 });
  });

  it('leaves a job that is claimed between the look and the cancel', async () => {
    const fleet = createTestFleet(file.url, [job], { tenant: 'claimed' });
    const { id } = await fleet.enqueue(job, { n: 1 }, later);
    const claim = new pg.Client({ connectionString: file.url });
    await claim.connect();
    onTestFinished(() => claim.end());
    await claim.query('begin');
    await claim.query('select from oncefleet.jobs where id = $1 for update', [id]);
    expect(await fleet.cancelMany({ status: 'pending' })).toEqual({ matched: 1, cancelled: 0, requested: 0 });
    await claim.query('rollback');
    expect(await fleet.get(id)).toMatchObject({ status: 'pending', cancelRequestedAt: null });
  });

  it('tells those who run, unless waiting jobs alone are meant', async () => {
    const started = Promise.withResolvers<void>();
    const runs = defineJob({
      name: 'runs',
      input: z.object({}),
      async run(_, ctx) {
        started.resolve();
        await new Promise((_resolve, reject) =>
          ctx.signal.addEventListener('abort', () => reject(ctx.signal.reason), { once: true }),
        );
      },
    });
    const fleet = createTestFleet(file.url, [runs], { tenant: 'running' });
    await fleet.work();
    const handle = await fleet.enqueue(runs, {});
    await started.promise;
    expect(await fleet.cancelMany({ status: 'pending' })).toEqual({ matched: 0, cancelled: 0, requested: 0 });
    expect(await fleet.cancelMany({})).toEqual({ matched: 1, cancelled: 0, requested: 1 });
    await expect(handle.result({ timeoutMs: 15_000 })).rejects.toMatchObject({ code: 'CANCELLED' });
  });
});
