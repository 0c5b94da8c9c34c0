/** `npm run bench -- jobs`: what idempotency costs, against BullMQ alone and against others. */

import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { choose, numberOption, rotate, wholeNumber } from '../lib/arguments.ts';
import type { Bench, BenchContext, BenchOptions, BenchResult } from '../lib/bench.ts';
import type { Bed } from '../lib/case.ts';
import { Places } from '../lib/databases.ts';
import { measureAdding, measureLatency, measureProcessing } from './measure.ts';
import type { AddWay } from './process.ts';
import { Findings, report } from './report.ts';
import { subjects } from './subjects/index.ts';
import type { Subject, SubjectName } from './subjects/subject.ts';

/** How much is run. */
interface Sizes {
  rounds: number;
  concurrencies: readonly number[];
  /** Jobs of one measured stretch, and of the warm-up before it. */
  jobs(concurrency: number): number;
  adding: readonly { way: AddWay; count: number }[];
  latency: { concurrency: number; perSecond: number; jobs: number; warmUp: number };
}

const WHOLE: Sizes = {
  rounds: 3,
  concurrencies: [1, 8, 32, 100],
  // One at a time, 10,000 take up to half a minute for each subject and round.
  jobs: (concurrency) => (concurrency === 1 ? 2_000 : 10_000),
  adding: [
    { way: 'single', count: 2_000 },
    { way: 'concurrent', count: 10_000 },
    { way: 'bulk', count: 10_000 },
    { way: 'replayed', count: 10_000 },
  ],
  latency: { concurrency: 8, perSecond: 100, jobs: 1_000, warmUp: 100 },
};

const QUICK: Sizes = {
  rounds: 1,
  concurrencies: [32],
  jobs: () => 500,
  adding: [
    { way: 'single', count: 50 },
    { way: 'concurrent', count: 200 },
    { way: 'bulk', count: 500 },
    { way: 'replayed', count: 200 },
  ],
  latency: { concurrency: 8, perSecond: 50, jobs: 50, warmUp: 10 },
};

interface Plan extends Sizes {
  subjects: readonly Subject[];
  parts: readonly string[];
  /** A folder for CPU profiles. */
  profile: string | undefined;
}

const PARTS = ['processing', 'adding', 'latency'] as const;

export const jobsBench: Bench = {
  name: 'jobs',
  summary:
    'no-op jobs: processing, replays, enqueueing and latency, against BullMQ alone, a naive wrapper, pg-boss and graphile-worker',
  packages: ['bullmq', 'ioredis', 'pg', 'pg-boss', 'graphile-worker'],
  method: [
    'Every subject runs the same no-op job in one worker process, on the same durable Postgres and the same Redis.',
    'The jobs are all added before the clock starts, after as many in the same process to warm up; the clock stops when none is left, and every handler run is counted.',
    'Each case has an empty database (analysed, after a checkpoint) and Redis keys of its own.',
    'Cases take turns within a round and the rounds are repeated; a figure is the median of the rounds, with the least and the most beside it, and a ratio is the median of the ratios within each round.',
    '',
    '- **BullMQ alone** has no key and no Postgres: the most that anything on BullMQ can reach.',
    '- **naive wrapper**: one statement claims the key, one stores the result, each on a pool of 10 connections; no lease, no fence, no heartbeat.',
    '- **Oncefleet**: `createFleet` with its defaults; each job enqueued with a key.',
    '- **pg-boss**: one worker that fetches and completes batches as large as the concurrency, without pause while batches are full; one at a time it would poll twice a second, so it has no such row.',
    '- **graphile-worker**: a local queue one larger than the concurrency, and completions that share statements.',
    '',
    'A *replayed delivery* is a BullMQ delivery of a job that has completed; a *replayed duplicate* is a job that another BullMQ client adds with a key that has completed. In both the stored result is returned and no handler runs. *Enqueueing a completed key* tells the caller so and gives nothing to BullMQ.',
    'Enqueue to start is from the call until the handler starts; start to result is from there until the caller, who waits in another process, has the result, which is durable by then.',
  ].join('\n'),
  options: {
    subjects: { about: `only these, commas between: ${Object.keys(subjects).join(', ')}` },
    concurrency: { about: 'only these, commas between' },
    parts: { about: `only these, commas between: ${PARTS.join(', ')}` },
    rounds: { about: 'how often everything is repeated' },
    jobs: { about: 'jobs of one case' },
    profile: { about: 'a folder for CPU profiles of the worker processes (figures suffer)' },
  },
  plan,
};

function plan({ quick, own: options }: BenchOptions): (context: BenchContext) => Promise<BenchResult> {
  const sizes = quick ? QUICK : WHOLE;
  const jobs = numberOption(options, 'jobs', undefined);
  const wanted: Plan = {
    ...sizes,
    subjects: choose(options.subjects, Object.keys(subjects) as SubjectName[]).map((name) => subjects[name]),
    parts: choose(options.parts, PARTS),
    concurrencies:
      options.concurrency?.split(',').map((text) => wholeNumber('concurrency', text)) ?? sizes.concurrencies,
    rounds: numberOption(options, 'rounds', sizes.rounds),
    jobs: jobs === undefined ? sizes.jobs : () => jobs,
    profile: options.profile,
  };
  return (context) => run(context, wanted);
}

async function run({ services, signal, say }: BenchContext, wanted: Plan): Promise<BenchResult> {
  if (wanted.profile !== undefined) await mkdir(wanted.profile, { recursive: true });
  const places = new Places(services);
  const bed: Bed = { services, places, signal };
  const findings = new Findings();
  try {
    for (let round = 0; round < wanted.rounds; round++) {
      const order = rotate(wanted.subjects, round);
      const note = (text: string) => say(`round ${round + 1} of ${wanted.rounds}: ${text}`);
      if (wanted.parts.includes('processing')) await runProcessing({ bed, findings, wanted, round, order, note });
      if (wanted.parts.includes('adding')) await runAdding({ bed, findings, wanted, round, order, note });
      if (wanted.parts.includes('latency')) await runLatency({ bed, findings, wanted, round, order, note });
    }
  } finally {
    await places.close();
  }
  return report(findings, wanted.rounds);
}

interface Round {
  bed: Bed;
  findings: Findings;
  wanted: Plan;
  /** From 0. */
  round: number;
  order: readonly Subject[];
  note(text: string): void;
}

async function runProcessing({ bed, findings, wanted, round, order, note }: Round): Promise<void> {
  for (const concurrency of wanted.concurrencies) {
    for (const subject of order) {
      if (!subject.supports(concurrency)) continue;
      const jobs = wanted.jobs(concurrency);
      const stretches = await measureProcessing(bed, subject, {
        concurrency,
        jobs,
        // As many again: a worker runs for days, and its first thousands of jobs while code is compiled.
        warmUp: jobs,
        redeliveries: ['delivery', 'duplicate'],
        profile: profileName(wanted.profile, `${subject.name}-${concurrency}-${round + 1}`),
      });
      for (const [kind, stretch] of Object.entries(stretches)) {
        findings.processing.push({ round, kind: kind as keyof typeof stretches, subject, concurrency, jobs, stretch });
        note(`${subject.title}, ${kind}, concurrency ${concurrency}: ${Math.round(stretch.jobsPerSecond)} jobs/s`);
      }
    }
  }
}

async function runAdding({ bed, findings, wanted, round, order, note }: Round): Promise<void> {
  for (const subject of order.filter(({ measures }) => measures.includes('adding'))) {
    const rates = await measureAdding(bed, subject, wanted.adding);
    for (const { way, count } of wanted.adding) {
      const jobsPerSecond = rates[way];
      if (jobsPerSecond === undefined) continue;
      findings.adding.push({ round, subject, way, jobs: count, jobsPerSecond });
      note(`${subject.title}, adding, ${way}: ${Math.round(jobsPerSecond)} jobs/s`);
    }
  }
}

async function runLatency({ bed, findings, wanted, round, order, note }: Round): Promise<void> {
  for (const subject of order.filter(({ measures }) => measures.includes('latency'))) {
    const latencies = await measureLatency(bed, subject, wanted.latency);
    findings.latency.push({ round, subject, ...wanted.latency, latencies });
    note(`${subject.title}, latency at ${wanted.latency.perSecond} jobs/s: measured`);
  }
}

function profileName(folder: string | undefined, name: string): ((stretch: string) => string) | undefined {
  return folder === undefined ? undefined : (stretch) => join(folder, `${name}-${stretch}.cpuprofile`);
}
