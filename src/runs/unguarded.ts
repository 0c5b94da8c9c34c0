/**
 * Runs of deliveries while Postgres is unreachable, as `onStoreOutage: 'run'` asks: no lease, so
 * another worker may run the job too; no journal, so no reader sees its events; no checkpoints. The
 * outcome is stored if Postgres comes back soon enough.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { ClaimAnswer } from '../db/jobs/claim.ts';
import { isTransient } from '../db/transient.ts';
import { readJobData } from '../enqueue/job-data.ts';
import { createUnguardedContext } from './context.ts';
import type { Delivery } from './delivery.ts';
import type { DeliveredRow } from './rows.ts';
import type { RunHost } from './run.ts';
import { Stop } from './stop.ts';
import { encodeResult } from './verdict.ts';

/** How long the outcome of an unguarded run is offered to Postgres. */
const SAVE_MS = 30_000;

type ClaimRow = (row: DeliveredRow, owner: string, delivery: Delivery) => Promise<{ answer: ClaimAnswer }>;

export async function runUnguarded(
  host: RunHost,
  claim: ClaimRow,
  input: unknown,
  delivery: Delivery,
): Promise<unknown> {
  const { job, slot } = delivery;
  const { runtime, registry } = host;
  const stop = new Stop();
  const jobId = readJobData(job)?.jobId ?? delivery.bullJob;
  const run = { stop, jobId, stream: undefined, place: 0 };
  registry.add(run);
  try {
    const value = await handle(host, input, stop, delivery);
    slot?.letGo();
    return await save(host, claim, encodeResult(value), delivery);
  } catch (err) {
    if (stop.reason === undefined) throw err;
    runtime.log.debug({ err, bullJobId: job.id }, 'unguarded run interrupted');
    return delivery.requeue();
  } finally {
    registry.remove(run);
  }
}

function handle({ runtime }: RunHost, input: unknown, stop: Stop, delivery: Delivery): Promise<unknown> {
  const { job, signal: bullSignal, spec } = delivery;
  runtime.log.error(
    { bullJobId: job.id, jobName: job.name },
    'Postgres is unreachable: running without lease and journal, as onStoreOutage says',
  );
  const { timeoutMs } = spec.policy;
  const signals = [bullSignal, timeoutMs === undefined ? undefined : AbortSignal.timeout(timeoutMs), stop.signal];
  const signal = AbortSignal.any(signals.filter((candidate) => candidate !== undefined));
  return spec.handle(input, createUnguardedContext(runtime, job, signal), job);
}

async function save(
  { runtime, registry, rows, outcomes }: RunHost,
  claim: ClaimRow,
  result: string | null,
  delivery: Delivery,
): Promise<unknown> {
  const { job } = delivery;
  const signal = registry.stoppedWaiting;
  const saveUntil = performance.now() + SAVE_MS;
  for (let waitMs = 100; performance.now() < saveUntil && !signal.aborted; waitMs = Math.min(waitMs * 2, 2_000)) {
    try {
      const row = await rows.find(delivery);
      const { answer } = await claim(row, runtime.newOwner(), delivery);
      if (answer.decision !== 'claimed') break;
      const { fence, nextSeq } = answer.job;
      const stream = runtime.writer.open({ streamId: row.jobId, fence, nextSeq, onRefused: () => undefined });
      const settlement = await outcomes.plan({ kind: 'completed', result }, answer.job, stream, delivery);
      await runtime.transitions.settle(settlement, answer.job);
      return result === null ? undefined : JSON.parse(result);
    } catch (err) {
      if (!isTransient(err)) throw err;
      await delay(waitMs, undefined, { signal }).catch(() => undefined);
    }
  }
  runtime.log.error(
    { bullJobId: job.id, jobName: job.name },
    'outcome of an unguarded run was not stored: the job may run again',
  );
  return result === null ? undefined : JSON.parse(result);
}
