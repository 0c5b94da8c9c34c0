/** The measurements of the jobs bench. Each case has processes, a database and a prefix of its own. */
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type Bed, withCase } from '../lib/case.ts';
import { BenchProcess } from '../lib/child.ts';
import { now } from '../lib/clock.ts';
import { ServerMeter } from '../lib/cpu.ts';
import { type Place, settle } from '../lib/databases.ts';
import type { AddWay, commands, Report } from './process.ts';
import type { Producer, Redelivery, Subject } from './subjects/subject.ts';

/** What a worker process did in one measured stretch. */
export interface Stretch {
  jobsPerSecond: number;
  workerCpuMicrosPerJob: number;
  workerMainThreadCpuMicrosPerJob: number;
  /** Busy share of the worker's event loop. */
  loopUtilization: number;
  workerRssMib: number;
  redisCpuMicrosPerJob: number;
  /** Absent for a Postgres that is not ours to look at. */
  postgresCpuMicrosPerJob: number | undefined;
  walBytesPerJob: number;
}

export interface ProcessingOptions {
  concurrency: number;
  jobs: number;
  /** Jobs run before, so that code is compiled and connections are open. */
  warmUp: number;
  /** Redeliveries to measure afterwards, where the subject has them. */
  redeliveries: readonly Redelivery[];
  /** Names a CPU profile of the worker's main thread. */
  profile?: ((stretch: string) => string) | undefined;
}

/** Longest a case may go without finishing a job. */
const STUCK_MS = 30_000;

/** Concurrency of a worker whose speed is not measured. */
const COMPLETING = 100;

const POLL_MIN_MS = 3;
const POLL_MAX_MS = 250;

const PROCESS = fileURLToPath(new URL('process.ts', import.meta.url));

/** Adds all jobs first, then measures one worker process that works them off. */
export async function measureProcessing(
  bed: Bed,
  subject: Subject,
  options: ProcessingOptions,
): Promise<Partial<Record<'processing' | Redelivery, Stretch>>> {
  return withSubject(bed, subject, async ({ place, worker, producer }) => {
    await worker.call('consume', { subject: subject.name, place, concurrency: options.concurrency });
    const { warmUp, jobs } = options;
    await producer.fill(0, warmUp);
    await worker.call('start', {});
    await untilDone(producer, bed.signal);
    await worker.call('pause', null);

    const stretch = async (name: string, handlersRun: number, prepare: () => Promise<void>) => {
      await prepare();
      await settle(place.databaseUrl);
      const measured = await measureStretch(bed, { place, worker, producer, jobs, profile: options.profile?.(name) });
      await worker.call('pause', null);
      if (measured.handled !== handlersRun) {
        throw new Error(`${subject.title}, ${name}: ${measured.handled} handlers ran where ${handlersRun} should have`);
      }
      return measured.stretch;
    };

    const results: Partial<Record<'processing' | Redelivery, Stretch>> = {};
    results.processing = await stretch('processing', jobs, () => producer.fill(warmUp, jobs));
    for (const how of options.redeliveries) {
      const { redeliver } = producer;
      if (redeliver === undefined) continue;
      results[how] = await stretch(how, 0, () => redeliver(how, warmUp, jobs));
    }
    return results;
  });
}

/**
 * How fast one process adds jobs that nobody runs, and jobs whose keys have completed.
 *
 * @returns jobs a second, for the ways that the subject has
 */
export async function measureAdding(
  bed: Bed,
  subject: Subject,
  ways: readonly { way: AddWay; count: number }[],
): Promise<Partial<Record<AddWay, number>>> {
  return withSubject(bed, subject, async ({ place, worker: adder, producer }) => {
    await adder.call('produce', { subject: subject.name, place });
    let next = 0;
    const add = async (way: AddWay, count: number, first = next) => {
      const ms = await adder.call('add', { way, first, count });
      next = Math.max(next, first + count);
      return (count * 1_000) / ms;
    };
    const rates: Partial<Record<AddWay, number>> = {};
    for (const { way, count } of ways) {
      const warmUp = Math.ceil(count / 10);
      if (way === 'replayed') {
        if (producer.redeliver === undefined) continue;
        if (next < warmUp + count) await add('bulk', warmUp + count - next);
        await completeAll(bed, subject, place, producer);
        await add(way, warmUp, 0);
        await settle(place.databaseUrl);
        rates[way] = await add(way, count, warmUp);
      } else {
        await add(way, warmUp);
        await settle(place.databaseUrl);
        rates[way] = await add(way, count);
      }
    }
    return rates;
  });
}

async function completeAll(bed: Bed, subject: Subject, place: Place, producer: Producer): Promise<void> {
  const worker = new BenchProcess<typeof commands>(PROCESS);
  try {
    await worker.call('consume', { subject: subject.name, place, concurrency: COMPLETING });
    await worker.call('start', {});
    await untilDone(producer, bed.signal);
    await worker.call('close', null);
  } finally {
    await worker.stop();
  }
}

export interface Latencies {
  /** From the call that adds a job to the start of its handler. */
  addToStartMs: number[];
  /** From the start of a handler to the moment its caller, who waits, has the result; it is durable by then. */
  startToResultMs: number[];
}

/** Adds jobs at a fixed rate, whatever happens to earlier ones, and waits for each result in the adding process. */
export async function measureLatency(
  bed: Bed,
  subject: Subject,
  options: { concurrency: number; perSecond: number; jobs: number; warmUp: number },
): Promise<Latencies> {
  return withSubject(bed, subject, async ({ place, worker, producer }) => {
    const { addAndWait } = producer;
    if (addAndWait === undefined) throw new Error(`${subject.title} cannot be waited for`);
    await worker.call('consume', { subject: subject.name, place, concurrency: options.concurrency, withTimes: true });
    await worker.call('start', {});
    const added = new Map<number, number>();
    const done = new Map<number, number>();
    const begun = now() + 100;
    const total = options.warmUp + options.jobs;
    const waiting: Promise<void>[] = [];
    for (let n = 0; n < total; n++) {
      const wait = begun + (n * 1_000) / options.perSecond - now();
      if (wait > 0) await sleep(wait, undefined, { signal: bed.signal });
      added.set(n, now());
      waiting.push(addAndWait(n).then(() => void done.set(n, now())));
    }
    await Promise.all(waiting);
    const started = await worker.call('times', null);
    const measured = Array.from({ length: options.jobs }, (_, i) => options.warmUp + i);
    return {
      addToStartMs: measured.map((n) => at(started, n) - at(added, n)),
      startToResultMs: measured.map((n) => at(done, n) - at(started, n)),
    };
  });
}

interface Case {
  place: Place;
  worker: BenchProcess<typeof commands>;
  producer: Producer;
}

async function withSubject<T>(bed: Bed, subject: Subject, run: (parts: Case) => Promise<T>): Promise<T> {
  return withCase(bed, subject, async ({ place, start }) => {
    const worker = start<typeof commands>(PROCESS);
    const producer = await subject.produce(place);
    try {
      const result = await run({ place, worker, producer });
      await worker.call('close', null);
      return result;
    } finally {
      await worker.stop();
      await producer.close();
    }
  });
}

async function measureStretch(
  bed: Bed,
  parts: Case & { jobs: number; profile: string | undefined },
): Promise<{ handled: number; stretch: Stretch }> {
  const { place, worker, producer, jobs, profile } = parts;
  const servers = await ServerMeter.start(bed.services, place);
  try {
    const begun = now();
    await worker.call('start', { profile });
    await untilDone(producer, bed.signal);
    const elapsedMs = now() - begun;
    const report: Report = await worker.call('report', null);
    const used = await servers.read();
    const microsPerJob = (ms: number) => (ms * 1_000) / jobs;
    return {
      handled: report.handled,
      stretch: {
        jobsPerSecond: (jobs * 1_000) / elapsedMs,
        workerCpuMicrosPerJob: microsPerJob(report.cpuMs),
        workerMainThreadCpuMicrosPerJob: microsPerJob(report.mainThreadCpuMs),
        loopUtilization: report.loopUtilization,
        workerRssMib: report.rssBytes / 2 ** 20,
        redisCpuMicrosPerJob: microsPerJob(used.redisCpuMs),
        postgresCpuMicrosPerJob: used.postgresCpuMs === undefined ? undefined : microsPerJob(used.postgresCpuMs),
        walBytesPerJob: used.walBytes / jobs,
      },
    };
  } finally {
    servers.close();
  }
}

/** Looks seldom while much is left and often near the end, so that looking costs next to nothing. */
async function untilDone(producer: Producer, signal: AbortSignal): Promise<void> {
  let last = await producer.countRemaining();
  let lastAt = now();
  let progressAt = lastAt;
  let waitMs = POLL_MIN_MS;
  while (last > 0) {
    await sleep(waitMs, undefined, { signal });
    const remaining = await producer.countRemaining();
    const at = now();
    if (remaining < last) progressAt = at;
    else if (at - progressAt > STUCK_MS)
      throw new Error(`No job finished for ${STUCK_MS / 1_000} s; ${remaining} are left`);
    const perMs = (last - remaining) / (at - lastAt);
    waitMs = perMs > 0 ? Math.min(Math.max(remaining / perMs / 2, POLL_MIN_MS), POLL_MAX_MS) : POLL_MIN_MS * 3;
    [last, lastAt] = [remaining, at];
  }
}

function at(times: ReadonlyMap<number, number>, n: number): number {
  const time = times.get(n);
  if (time === undefined) throw new Error(`job ${n} has no time`);
  return time;
}
