/** `npm run bench -- soak`: mixed load for a while, and what becomes of memory. */
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { execute } from '../../src/testing/services/databases.ts';
import { numberOption } from '../lib/arguments.ts';
import type { Bench, BenchContext, BenchOptions, BenchResult } from '../lib/bench.ts';
import { type Bed, withCase } from '../lib/case.ts';
import { now } from '../lib/clock.ts';
import { connectRedis, Places } from '../lib/databases.ts';
import { WEB_PROCESS, type WebCommands, WORKER_PROCESS, type WorkerCommands } from '../lib/fleet-processes.ts';
import type { Memory } from '../lib/memory.ts';
import { prepareOncefleet } from '../lib/oncefleet.ts';
import { round as digits, spread } from '../lib/stats.ts';
import { formatNumber, type Table } from '../lib/table.ts';
import type { commands as driverCommands, Tally } from './driver-process.ts';

const DRIVER_PROCESS = fileURLToPath(new URL('driver-process.ts', import.meta.url));

const WHOLE = { seconds: 600, clients: 50, concurrency: 50 };
const QUICK = { seconds: 5, clients: 10, concurrency: 10 };

/** A minute apart, or as many in a shorter run. */
const SAMPLES = 10;

/** The part of the run in which caches fill and code is compiled. */
const WARM_UP_SHARE = 0.2;

/**
 * Growth of what is alive, from after the warm-up to the end, that is called steady: within
 * it are caches, compiled code, and what happens to be in flight at a sample.
 */
const STEADY_SHARE = 0.15;
const STEADY_BYTES = 4 * 2 ** 20;

interface Plan {
  seconds: number;
  clients: number;
  concurrency: number;
}

const OURS = ['worker', 'web'] as const;
type Watched = (typeof OURS)[number] | 'driver';

interface Sample {
  second: number;
  memory: Record<Watched, Memory>;
  redisBytes: number;
  tally: Tally;
}

interface Verdict {
  process: Watched;
  before: number;
  after: number;
  steady: boolean;
}

export const soakBench: Bench = {
  name: 'soak',
  summary: 'mixed load for ten minutes: what becomes of the memory of each process',
  packages: ['bullmq', 'fastify', 'ioredis', 'pg'],
  method: [
    'A worker process, a web process and a process of clients. Each client enqueues over HTTP with an idempotency key, three times in ten one that was used before; the job emits 1 to 40 events with pauses; six times in ten the client follows it to its end over server-sent events, and half of those connections are cut by the client somewhere and taken up again with `Last-Event-ID`. Clients check that a new key makes a job, that a used one gives the same job, and that every stream is whole and ends.',
    'At the end every job has completed, one for each key, or the bench fails.',
    '',
    `Memory is measured after forced garbage collections. *Live* is heap and buffers. Verdict: steady, if what is alive at the end is no more than ${STEADY_SHARE * 100} % and ${STEADY_BYTES / 2 ** 20} MiB above what it was after the first ${WARM_UP_SHARE * 100} % of the run (means of the samples on either side, three each where there are so many). Redis holds BullMQ's queues; completed jobs are Postgres's.`,
  ].join('\n'),
  options: {
    seconds: { about: 'how long; default 600' },
    clients: { about: 'clients at once' },
    concurrency: { about: 'jobs the worker runs at once' },
  },
  plan,
};

function plan({ quick, own }: BenchOptions): (context: BenchContext) => Promise<BenchResult> {
  const sizes = quick ? QUICK : WHOLE;
  const number = (name: keyof Plan) => numberOption(own, name, sizes[name]);
  const wanted: Plan = { seconds: number('seconds'), clients: number('clients'), concurrency: number('concurrency') };
  return async ({ services, signal, say }: BenchContext) => {
    const places = new Places(services);
    try {
      const samples = await soak({ services, places, signal }, wanted, say);
      return report(samples, wanted);
    } finally {
      await places.close();
    }
  };
}

async function soak(bed: Bed, wanted: Plan, say: BenchContext['say']): Promise<Sample[]> {
  const { seconds, clients, concurrency } = wanted;
  return withCase(bed, { name: 'oncefleet', prepare: prepareOncefleet }, async ({ place, start }) => {
    const web = start<WebCommands>(WEB_PROCESS, { exposeGc: true });
    const worker = start<WorkerCommands>(WORKER_PROCESS, { exposeGc: true });
    const driver = start<typeof driverCommands>(DRIVER_PROCESS, { exposeGc: true });
    const redis = connectRedis(place.redisUrl);
    try {
      const port = await web.call('open', place);
      await worker.call('open', { place, concurrency });
      await driver.call('start', { port, clients });
      const begun = now();
      const samples: Sample[] = [];
      for (let i = 1; i <= SAMPLES; i++) {
        const second = (seconds * i) / SAMPLES;
        await sleep(Math.max(0, begun + second * 1_000 - now()), undefined, { signal: bed.signal });
        const [inWorker, inWeb, inDriver] = await Promise.all([
          worker.call('memory', null),
          web.call('memory', null),
          driver.call('memory', null),
        ]);
        const info = await redis.info('memory');
        const sample: Sample = {
          second,
          memory: { worker: inWorker, web: inWeb, driver: inDriver },
          redisBytes: Number(/^used_memory:(\d+)/m.exec(info)?.[1]),
          tally: await driver.call('tally', null),
        };
        samples.push(sample);
        say(
          `${formatNumber(second)} s: ${formatNumber(sample.tally.created)} jobs; live: ` +
            OURS.map((name) => `${name} ${mib(sample.memory[name].liveBytes)} MiB`).join(', '),
        );
      }
      const tally = await driver.call('stop', null);
      (samples.at(-1) as Sample).tally = tally;
      await requireAllCompleted(place.databaseUrl, tally.created, bed.signal);
      return samples;
    } finally {
      redis.disconnect();
    }
  });
}

/** @throws Error a job is missing, or there twice, or did not complete */
async function requireAllCompleted(databaseUrl: string, created: number, signal: AbortSignal): Promise<void> {
  for (let waited = 0; ; waited++) {
    const result = await execute(
      databaseUrl,
      `select count(*)::int as jobs, count(distinct idempotency_key)::int as keys,
         (count(*) filter (where status = 'completed'))::int as completed,
         (count(*) filter (where status in ('pending', 'running')))::int as unfinished
       from oncefleet.jobs`,
    );
    const { jobs, keys, completed, unfinished } = result.rows[0] as Record<string, number>;
    if (jobs === created && keys === created && completed === created) return;
    if (unfinished === 0 || waited === COMPLETION_WAIT_SECONDS)
      throw new Error(
        `of ${created} jobs there are ${jobs}, with ${keys} keys; ${completed} completed, ${unfinished} have not ended`,
      );
    await sleep(1_000, undefined, { signal });
  }
}

/** Nobody follows some of them. */
const COMPLETION_WAIT_SECONDS = 30;

function judge(samples: readonly Sample[], process: Watched): Verdict {
  const settled = samples.slice(Math.floor(samples.length * WARM_UP_SHARE));
  const size = Math.min(3, Math.floor(settled.length / 2));
  const mean = (some: readonly Sample[]) =>
    some.reduce((sum, { memory }) => sum + memory[process].liveBytes, 0) / some.length;
  const before = mean(settled.slice(0, size));
  const after = mean(settled.slice(-size));
  return { process, before, after, steady: after - before <= Math.max(STEADY_BYTES, before * STEADY_SHARE) };
}

function report(samples: readonly Sample[], wanted: Plan): BenchResult {
  const watched: readonly Watched[] = [...OURS, 'driver'];
  const verdicts = watched.map((process) => judge(samples, process));
  const last = samples.at(-1) as Sample;
  const perSecond = (count: number) => count / wanted.seconds;
  const memoryTable: Table = {
    title: 'Memory',
    about: 'MiB, after garbage collection.',
    columns: ['', ...watched.flatMap((name) => [`${name} live`, `${name} RSS`]), 'Redis', 'jobs so far'],
    rows: samples.map(({ second, memory, redisBytes, tally }) => [
      `${formatNumber(second)} s`,
      ...watched.flatMap((name) => [mib(memory[name].liveBytes), mib(memory[name].rssBytes)]),
      mib(redisBytes),
      formatNumber(tally.created),
    ]),
  };
  return {
    rows: [
      ...verdicts.map(({ process, before, after, steady }) => ({
        case: 'memory',
        process,
        seconds: wanted.seconds,
        liveMibAfterWarmUp: digits(before / 2 ** 20),
        liveMibAtEnd: digits(after / 2 ** 20),
        rssMibMost: digits(spread(samples.map(({ memory }) => memory[process].rssBytes)).max / 2 ** 20),
        verdict: verdictText(steady),
      })),
      ...samples.flatMap(({ second, memory, redisBytes }) => [
        ...watched.map((process) => ({
          case: 'sample',
          process,
          second,
          liveMib: digits(memory[process].liveBytes / 2 ** 20),
          rssMib: digits(memory[process].rssBytes / 2 ** 20),
        })),
        { case: 'sample', process: 'redis', second, usedMib: digits(redisBytes / 2 ** 20) },
      ]),
      {
        case: 'load',
        seconds: wanted.seconds,
        clients: wanted.clients,
        concurrency: wanted.concurrency,
        ...last.tally,
      },
    ],
    tables: [
      {
        title: 'Verdict',
        columns: ['', 'live after warm-up, MiB', 'live at the end, MiB', 'verdict'],
        rows: verdicts.map(({ process, before, after, steady }) => [
          process,
          mib(before),
          mib(after),
          verdictText(steady),
        ]),
      },
      {
        title: 'Load',
        about: `${formatNumber(wanted.clients)} clients for ${formatNumber(wanted.seconds)} s; everything that was created completed once, and every followed stream was whole.`,
        columns: ['', 'in all', 'a second'],
        rows: (
          [
            ['jobs created', last.tally.created],
            ['duplicates attached', last.tally.attached],
            ['duplicates replayed', last.tally.replayed],
            ['streams followed to their end', last.tally.followed],
            ['connections cut and taken up', last.tally.cut],
            ['events received', last.tally.events],
          ] as const
        ).map(([name, count]) => [name, formatNumber(count), formatNumber(perSecond(count))]),
      },
      memoryTable,
    ],
    charts: [
      {
        name: 'soak',
        chart: {
          title: 'What is alive in each process',
          subtitle: 'MiB of heap and buffers after garbage collection.',
          groups: samples.map(({ second }) => `${formatNumber(second)} s`),
          series: OURS.map((name) => ({
            name,
            values: samples.map(({ memory }) => {
              const value = memory[name].liveBytes / 2 ** 20;
              return { value, min: value, max: value };
            }),
          })),
          unit: 'MiB',
        },
      },
    ],
  };
}

function verdictText(steady: boolean): string {
  return steady ? 'steady' : 'grows';
}

function mib(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(1);
}
