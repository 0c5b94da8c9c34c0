/** `npm run chaos -- recovery`: one fault at a time on a system that is otherwise well, and how long it takes to recover. */

import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { createFleet, type Fleet } from 'oncefleet';
import { percentile } from '../bench/lib/stats.ts';
import type { Services } from '../scripts/services.ts';
import { createDatabase, execute, uniqueName } from '../src/testing/services/databases.ts';
import { readHistory } from './history.ts';
import { effectJob, ledgerJob, streamJob } from './jobs.ts';
import { flush } from './nemesis.ts';
import { type Member, Processes } from './processes.ts';
import { prepare } from './run.ts';

/** As the default of 60 s, in ratio: a heartbeat every third of it, the reconciler every twelfth. */
const TTL_MS = 6_000;
const HEARTBEAT_MS = 2_000;
const RECONCILE_MS = 500;
const WORKERS = 3;
const ROUNDS = 5;
const FLUSHED_JOBS = 2_000;
const LIMIT_MS = 60_000;
const OUTAGE_MS = 1_000;

export interface RecoveryOptions {
  services: Services;
  folder: string;
  signal: AbortSignal;
  say(line: string): void;
}

export interface RecoveryFigures {
  rows: { what: string; text: string; p50Ms: number; maxMs: number }[];
  /** What is not as promised. */
  problems: string[];
}

interface Stage {
  fleet: Fleet;
  processes: Processes;
  handlers: string;
  services: Services;
  signal: AbortSignal;
  databaseUrl: string;
  prefix: string;
}

export async function measureRecovery({ services, folder, signal, say }: RecoveryOptions): Promise<RecoveryFigures> {
  const prefix = uniqueName('chaos');
  const databaseUrl = await createDatabase(services.databaseUrl, prefix);
  await prepare(databaseUrl);
  const handlers = join(folder, 'handlers.jsonl');
  const processes = await Processes.start({
    databaseUrl,
    redisUrl: services.redisUrl,
    prefix,
    folder,
    handlers,
    workers: WORKERS,
    env: {
      ONCEFLEET_LEASE_TTL_MS: String(TTL_MS),
      ONCEFLEET_HEARTBEAT_MS: String(HEARTBEAT_MS),
      ONCEFLEET_RECONCILE_MS: String(RECONCILE_MS),
      // A deploy that does not wait: what runs is interrupted at once.
      ONCEFLEET_SHUTDOWN_MS: '0',
      LOG_LEVEL: 'info',
    },
    onExit: () => undefined,
  });
  const fleet = createFleet({
    databaseUrl,
    redisUrl: services.redisUrl,
    prefix,
    jobs: [effectJob, ledgerJob, streamJob],
    leaseTtlMs: TTL_MS,
  });
  const stage: Stage = { fleet, processes, handlers, services, signal, databaseUrl, prefix };
  const rows: RecoveryFigures['rows'] = [];
  const problems: string[] = [];
  const measure = async (what: string, limitMs: number, once: (round: number) => Promise<number>) => {
    const values: number[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      signal.throwIfAborted();
      values.push(await once(round));
      say(`${what}: ${Math.round(values.at(-1) as number)} ms`);
    }
    const p50Ms = Math.round(percentile(values, 50));
    const maxMs = Math.round(percentile(values, 100));
    rows.push({ what, p50Ms, maxMs, text: `p50 ${p50Ms} ms, max ${maxMs} ms` });
    if (maxMs > limitMs) problems.push(`${what} took ${maxMs} ms; promised is ${limitMs} ms`);
  };
  try {
    await measure(`worker killed, to the next attempt's first event (TTL ${TTL_MS} ms)`, TTL_MS + 1_000, (round) =>
      interruptWorker(stage, `kill-${round}`, (member) => processes.kill(member)),
    );
    await measure(`worker told to end, to the next attempt's first event`, 1_000, (round) =>
      interruptWorker(stage, `term-${round}`, (member) => processes.terminate(member)),
    );
    await measure(`Postgres ready again after an immediate stop, to the stream's next event`, 5_000, (round) =>
      restartPostgres(stage, `restart-${round}`),
    );
    await measure(`FLUSHALL, to all of ${FLUSHED_JOBS} waiting jobs dispatched again`, RECONCILE_MS + 5_000, (round) =>
      flushRedis(stage, `flush-${round}`),
    );
    return { rows, problems };
  } finally {
    await fleet.close();
    await processes.stop();
    await processes.closeProxies();
  }
}

/** Starts a job, takes its worker away, and waits for the first event of the attempt after. */
async function interruptWorker(
  { fleet, processes, handlers, signal }: Stage,
  key: string,
  take: (member: Member) => Promise<unknown>,
): Promise<number> {
  const handle = await fleet.enqueue(ledgerJob, { key, steps: 1_000_000, pauseMs: 100 }, { key });
  const pid = await waitFor(
    signal,
    () => readHistory(handlers).find((entry) => entry.type === 'start' && entry.jobId === handle.id)?.pid,
  );
  const member = processes.workers.find(({ child }) => child.pid === pid);
  if (member === undefined) throw new Error(`no worker has the pid ${pid}`);
  // Anywhere between two heartbeats.
  await sleep(Math.random() * HEARTBEAT_MS, undefined, { signal });
  const limit = AbortSignal.any([signal, AbortSignal.timeout(LIMIT_MS)]);
  const again = (async () => {
    for await (const { event } of fleet.follow(handle.id, { signal: limit }))
      if (event.type === 'attempt') return performance.now();
    throw new Error(`${key} ended without a second attempt`);
  })();
  again.catch(() => undefined);
  const takenAt = performance.now();
  await Promise.all([take(member), again]);
  const tookMs = (await again) - takenAt;
  await handle.cancel();
  // The one that took its place has to be at work before the next round.
  await sleep(2_000, undefined, { signal });
  return tookMs;
}

async function restartPostgres({ fleet, services, signal }: Stage, key: string): Promise<number> {
  const handle = await fleet.enqueue(streamJob, { key, events: 1_000_000, pauseMs: 50 }, { key });
  let seen = 0;
  let lastAt = 0;
  const limit = new AbortController();
  const following = (async () => {
    for (let after = -1; ; ) {
      try {
        for await (const { seq } of fleet.follow(handle.id, { after, signal: limit.signal })) {
          after = seq;
          seen++;
          lastAt = performance.now();
        }
      } catch {
        // Postgres is unreachable.
      }
      if (limit.signal.aborted) return;
      await sleep(20);
    }
  })();
  await waitFor(signal, () => (seen > 500 ? true : undefined));
  await services.postgres?.stop('SIGQUIT');
  await sleep(OUTAGE_MS, undefined, { signal });
  await services.postgres?.start();
  const readyAt = performance.now();
  const at = await waitFor(signal, () => (lastAt > readyAt ? lastAt : undefined));
  limit.abort();
  await following;
  await handle.cancel();
  return at - readyAt;
}

async function flushRedis({ fleet, services, signal, databaseUrl, prefix }: Stage, key: string): Promise<number> {
  // Long enough that most of them still wait when all is dispatched again.
  await Promise.all(
    Array.from({ length: FLUSHED_JOBS }, (_, i) =>
      fleet.enqueue(effectJob, { key: `${key}-${i}`, pauseMs: 3_000 }, { key: `${key}-${i}` }),
    ),
  );
  const client = new Redis(services.redisUrl, { maxRetriesPerRequest: null });
  client.on('error', () => {});
  const flushedAt = performance.now();
  await flush(services.redisUrl);
  const at = await waitFor(signal, async () => {
    const { rows } = await execute(databaseUrl, `select id from oncefleet.jobs where status = 'pending'`);
    const pipeline = client.pipeline();
    for (const { id } of rows) pipeline.exists(`${prefix}:${effectJob.queue}:${id}`);
    const answers = ((await pipeline.exec()) ?? []) as [Error | null, number][];
    return answers.every(([, there]) => there === 1) ? performance.now() : undefined;
  });
  await execute(
    databaseUrl,
    `update oncefleet.jobs set cancel_requested_at = clock_timestamp() where status in ('pending', 'running')`,
  );
  await waitFor(signal, async () => {
    const { rows } = await execute(
      databaseUrl,
      `select 1 from oncefleet.jobs where status in ('pending', 'running') limit 1`,
    );
    return rows.length === 0 ? true : undefined;
  });
  client.disconnect();
  return at - flushedAt;
}

async function waitFor<T>(signal: AbortSignal, look: () => Promise<T | undefined> | T | undefined): Promise<T> {
  const until = performance.now() + LIMIT_MS;
  for (;;) {
    const found = await look();
    if (found !== undefined) return found;
    if (performance.now() > until) throw new Error(`not recovered within ${LIMIT_MS} ms`);
    await sleep(20, undefined, { signal });
  }
}
