import fc from 'fast-check';
import { expect, it } from 'vitest';
import { requestCancel } from '../../src/db/jobs/cancel.ts';
import { saveCheckpoint } from '../../src/db/jobs/fence.ts';
import { finishAbandoned } from '../../src/db/jobs/finish.ts';
import { redriveJob } from '../../src/db/jobs/redrive.ts';
import { type Settlement, settleJobs } from '../../src/db/jobs/settle.ts';
import { RENEW_LEASES } from '../../src/db/leases.ts';
import { appendBatches, findHeads } from '../../src/db/streams/segments.ts';
import { claimOne, expireLease, insertJob, journalOf, rowOf, useDatabase } from '../helpers/fixtures.ts';
import * as model from './model.ts';

const file = useDatabase();

/** What an owner remembers of its claim; it acts on it long after it was replaced. */
interface Owner {
  fence: number;
  /** Where its writer believes the stream goes on. */
  nextSeq: number;
  /** It settled, and so writes no more (a writer is sealed then). */
  done: boolean;
}

interface Real {
  id: string;
  owners: Owner[];
}

type Command = fc.AsyncCommand<model.Model, Real>;

const ERROR = '{"code":"HANDLER_ERROR","message":"x"}';

function command(name: string, run: (m: model.Model, r: Real) => Promise<void>): Command {
  return {
    check: () => true,
    async run(m, r) {
      await run(m, r);
      await compare(m, r);
    },
    toString: () => name,
  };
}

async function compare(m: model.Model, r: Real): Promise<void> {
  const row = await rowOf(file.db, r.id);
  expect({
    status: row.status,
    fence: row.fence,
    crashes: row.crash_count,
    errors: row.error_count,
    interruptions: row.interruption_count,
    result: row.result,
    checkpoint: row.checkpoint,
    failedAt: row.ended_at_delivery,
    cancelRequested: row.cancel_requested_at !== null,
    leased: row.lease_owner !== null,
  }).toEqual({
    status: m.status,
    fence: m.fence,
    crashes: m.crashes,
    errors: m.errors,
    interruptions: m.interruptions,
    result: m.result,
    checkpoint: m.checkpoint,
    failedAt: m.failedAt,
    cancelRequested: m.cancelRequested,
    leased: m.status === 'running',
  });
  // On the list of the unfinished for as long as it is that, at the time from which it may run.
  const listed = await file.db.selectFrom('unfinished_jobs').selectAll().where('job_id', '=', r.id).execute();
  const isUnfinished = m.status === 'pending' || m.status === 'running';
  expect(listed).toMatchObject(isUnfinished ? [m.status === 'pending' ? { run_at: row.run_at } : {}] : []);
  if (m.cancelRequested && isUnfinished) expect(listed[0]?.end_by).not.toBeNull();
  // journalOf fails on any gap or duplicate.
  expect((await journalOf(file.db, r.id)).map(({ event }) => event.type)).toEqual(m.stream);
  const head = (await findHeads(file.db, [r.id])).get(r.id);
  expect(head !== undefined).toBe(m.hasHead);
  if (head !== undefined) {
    expect(head).toMatchObject({
      nextSeq: m.stream.length,
      state: m.status === 'pending' || m.status === 'running' ? 'open' : 'closed',
    });
  }
}

/** Some owner, past or present; none before the first claim. */
const pick = (r: Real, n: number): Owner | undefined => r.owners[n % Math.max(r.owners.length, 1)];

const commands: fc.Arbitrary<Command>[] = [
  fc.nat(3).map((delivery) =>
    command(`claim at delivery ${delivery}`, async (m, r) => {
      const expected = model.claim(m, delivery);
      const answer = await claimOne(file.db, r.id, { maxCrashes: model.MAX_CRASHES, delivery });
      expect(answer.decision === 'end' ? answer.why : answer.decision).toBe(expected);
      if (answer.decision !== 'claimed') return;
      expect(answer.job).toMatchObject({ fence: m.fence, nextSeq: m.stream.length });
      r.owners.push({ fence: answer.job.fence, nextSeq: answer.job.nextSeq, done: false });
    }),
  ),
  fc.nat(9).map((n) =>
    command(`owner ${n} renews`, async (m, r) => {
      const owner = pick(r, n);
      if (owner === undefined) return;
      const expected = model.renew(m, owner.fence);
      const result = await file.pool.query(RENEW_LEASES, [[r.id], [owner.fence], [60_000]]);
      expect(result.rowCount === 1).toBe(expected);
    }),
  ),
  fc.tuple(fc.nat(9), fc.integer({ min: 1, max: 3 })).map(([n, count]) =>
    command(`owner ${n} appends ${count}`, async (m, r) => {
      const owner = pick(r, n);
      if (owner === undefined || owner.done) return;
      const events = Array.from({ length: count }, () => 'said');
      const expected = model.append(m, owner.fence, events);
      const batch = {
        streamId: r.id,
        fence: owner.fence,
        firstSeq: owner.nextSeq,
        events: events.map((type) => JSON.stringify({ type })),
      };
      expect((await appendBatches(file.db, [batch])).has(batch)).toBe(expected);
      if (expected) owner.nextSeq += count;
    }),
  ),
  fc.tuple(fc.nat(9), fc.nat()).map(([n, value]) =>
    command(`owner ${n} checkpoints`, async (m, r) => {
      const owner = pick(r, n);
      if (owner === undefined) return;
      const expected = model.checkpoint(m, owner.fence, String(value));
      expect(
        await saveCheckpoint(file.db, { id: r.id, fence: owner.fence, value: String(value), seq: owner.nextSeq }),
      ).toBe(expected);
    }),
  ),
  fc
    .tuple(
      fc.nat(9),
      fc.oneof(
        fc.record({ to: fc.constant('completed' as const), result: fc.constantFrom('null', '1', '""', 'false') }),
        fc.record({ to: fc.constant('failed' as const), delivery: fc.nat(3) }),
        fc.constantFrom({ to: 'cancelled' as const }, { to: 'retry' as const }, { to: 'interrupted' as const }),
      ),
    )
    .map(([n, how]) =>
      command(`owner ${n} settles as ${how.to}`, async (m, r) => {
        const owner = pick(r, n);
        if (owner === undefined) return;
        const silent = owner.fence === 1 && owner.nextSeq === 0;
        const expected = model.settle(m, owner.fence, how);
        const pending = how.to === 'retry' || how.to === 'interrupted';
        const type = {
          completed: 'end',
          failed: 'error',
          cancelled: 'cancelled',
          retry: 'retry',
          interrupted: undefined,
        }[how.to];
        const says = type !== undefined && (!silent || how.to === 'retry');
        const settlement: Settlement = {
          id: r.id,
          fence: owner.fence,
          status: pending ? 'pending' : (how.to as 'completed' | 'failed' | 'cancelled'),
          outcome: (
            {
              completed: 'completed',
              failed: 'error',
              cancelled: 'cancelled',
              retry: 'error',
              interrupted: 'interruption',
            } as const
          )[how.to],
          result: how.to === 'completed' ? how.result : null,
          error: how.to === 'failed' || how.to === 'retry' ? ERROR : null,
          resultTtlMs: 60_000,
          delayMs: 0,
          delivery: how.to === 'failed' ? how.delivery : 0,
          batch: says
            ? { streamId: r.id, fence: owner.fence, firstSeq: owner.nextSeq, events: [JSON.stringify({ type })] }
            : undefined,
        };
        expect((await settleJobs(file.db, [settlement])).has(settlement)).toBe(expected);
        if (expected) owner.done = true;
      }),
    ),
  fc.constant(
    command('the lease expires', async (m, r) => {
      if (m.status === 'running') await expireLease(file.db, r.id);
      model.expire(m);
    }),
  ),
  fc.constant(
    command('cancel', async (m, r) => {
      model.cancel(m);
      await requestCancel(file.db, 'default', r.id);
    }),
  ),
  fc.constant(
    command('end what must end', async (m, r) => {
      const expected = model.end(m);
      const ended = await finishAbandoned(file.db, r.id, { resultTtlMs: 60_000, maxCrashes: model.MAX_CRASHES });
      expect(ended !== undefined).toBe(expected);
    }),
  ),
  fc.constant(
    command('redrive', async (m, r) => {
      const expected = model.redrive(m);
      const redriven = await redriveJob(file.db, r.id);
      expect(redriven !== undefined).toBe(expected);
    }),
  ),
];

it('Postgres and the model agree after every step of any interleaving', { timeout: 120_000 }, async () => {
  await fc.assert(
    fc.asyncProperty(fc.commands(commands, { maxCommands: 40, size: 'max' }), async (steps) => {
      const id = await insertJob(file.db);
      await fc.asyncModelRun(() => ({ model: model.initial(), real: { id, owners: [] } }), steps);
    }),
    { numRuns: 150 },
  );
});
