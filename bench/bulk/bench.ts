/** `npm run bench -- bulk`: adding many jobs, by one call and one by one. */
import { Queue } from 'bullmq';
import { z } from 'zod';
import { createFleet, defineJob } from '../../src/index.ts';
import { numberOption, rotate } from '../lib/arguments.ts';
import type { Bench, BenchContext, BenchOptions, BenchResult } from '../lib/bench.ts';
import { connectRedis, Places, settle } from '../lib/databases.ts';
import { prepareOncefleet } from '../lib/oncefleet.ts';
import { round as digits, grouped, spread } from '../lib/stats.ts';
import { formatNumber, rangeText } from '../lib/table.ts';

const WHOLE = { rounds: 5, jobs: 10_000 };
const QUICK = { rounds: 1, jobs: 600 };

const noop = defineJob({ name: 'noop', input: z.object({ n: z.number() }), run: async () => null });

type Add = (count: number, round: number) => Promise<unknown>;

const CASES = [
  'enqueueMany',
  'enqueue, all at once',
  'enqueue, one after another',
  'BullMQ addBulk',
  'BullMQ add, one after another',
] as const;
type Case = (typeof CASES)[number];

interface Finding {
  subject: Case;
  jobsPerS: number;
}

export const bulkBench: Bench = {
  name: 'bulk',
  summary: 'adding many jobs with enqueueMany, in a loop of enqueue, and with addBulk of BullMQ',
  packages: ['bullmq', 'ioredis', 'kysely', 'pg'],
  method: [
    'One process adds jobs with keys, and nobody runs them: time is from the call until it has answered, by when every row is committed and BullMQ has every job. The cases take turns on one database and one Redis, in another order each round; a first round is left out.',
    '',
    'BullMQ alone commits nothing to disk: its rows are what a crash of Redis may lose.',
  ].join('\n'),
  options: { rounds: { about: 'how often each case is measured' }, jobs: { about: 'jobs of each measurement' } },
  plan,
};

function plan({ quick, own }: BenchOptions): (context: BenchContext) => Promise<BenchResult> {
  const sizes = quick ? QUICK : WHOLE;
  const rounds = numberOption(own, 'rounds', sizes.rounds);
  const jobs = numberOption(own, 'jobs', sizes.jobs);
  return (context) => measureAll(context, { rounds, jobs });
}

async function measureAll(
  { services, signal, say }: BenchContext,
  { rounds, jobs }: typeof WHOLE,
): Promise<BenchResult> {
  const places = new Places(services);
  const place = await places.create('bulk', prepareOncefleet);
  const fleet = createFleet({
    databaseUrl: place.databaseUrl,
    redisUrl: place.redisUrl,
    prefix: place.prefix,
    jobs: [noop],
  });
  const connection = connectRedis(place.redisUrl);
  const queue = new Queue('plain', { connection, prefix: place.prefix });
  const adds = addsOf(fleet, queue);
  const findings: Finding[] = [];
  try {
    await fleet.health();
    for (let round = 0; round <= rounds; round++) {
      for (const subject of rotate(CASES, round)) {
        signal.throwIfAborted();
        await settle(place.databaseUrl);
        const begun = performance.now();
        await adds[subject](jobs, round);
        const jobsPerS = (jobs / (performance.now() - begun)) * 1_000;
        if (round > 0) findings.push({ subject, jobsPerS });
      }
      say(`Round ${round} of ${rounds}${round === 0 ? ', which is left out' : ''}`);
    }
  } finally {
    await queue.close();
    connection.disconnect();
    await fleet.close();
    await places.close();
  }
  return report(findings, { rounds, jobs });
}

function addsOf(fleet: ReturnType<typeof createFleet>, queue: Queue): Record<Case, Add> {
  const items = (count: number, round: number, kind: string) =>
    Array.from({ length: count }, (_, n) => ({ input: { n }, key: `${kind}-${round}-${n}` }));
  return {
    enqueueMany: async (count, round) => {
      const { counts } = await fleet.enqueueMany(noop, items(count, round, 'many'));
      if (counts.created !== count) throw new Error(`enqueueMany has made ${counts.created} of ${count} jobs`);
    },
    'enqueue, all at once': (count, round) =>
      Promise.all(items(count, round, 'at-once').map(({ input, key }) => fleet.enqueue(noop, input, { key }))),
    'enqueue, one after another': async (count, round) => {
      for (const { input, key } of items(count, round, 'one')) await fleet.enqueue(noop, input, { key });
    },
    'BullMQ addBulk': async (count) => {
      for (let from = 0; from < count; from += 1_000)
        await queue.addBulk(
          Array.from({ length: Math.min(1_000, count - from) }, (_, n) => ({ name: 'plain', data: { n: from + n } })),
        );
    },
    'BullMQ add, one after another': async (count) => {
      for (let n = 0; n < count; n++) await queue.add('plain', { n });
    },
  };
}

function report(findings: readonly Finding[], { rounds, jobs }: typeof WHOLE): BenchResult {
  const summaries = [...grouped(findings, ({ subject }) => subject)].map((group) => ({
    subject: group[0].subject,
    rate: spread(group.map(({ jobsPerS }) => jobsPerS)),
  }));
  summaries.sort((a, b) => CASES.indexOf(a.subject) - CASES.indexOf(b.subject));
  return {
    rows: summaries.map(({ subject, rate }) => ({
      case: subject,
      rounds,
      jobs,
      jobsPerSMin: digits(rate.min),
      jobsPerSMedian: digits(rate.median),
      jobsPerSMax: digits(rate.max),
    })),
    tables: [
      {
        title: 'Adding jobs',
        about: `${jobs} jobs a call or loop; the median of ${rounds} rounds, with the least and the most.`,
        columns: ['', 'jobs/s', 'from, to'],
        rows: summaries.map(({ subject, rate }) => [subject, formatNumber(rate.median), rangeText(rate)]),
      },
    ],
    charts: [
      {
        name: 'bulk',
        chart: {
          title: 'Adding jobs',
          subtitle: 'Medians, with the least and the most.',
          groups: summaries.map(({ subject }) => subject),
          series: [
            {
              name: 'jobs/s',
              values: summaries.map(({ rate }) => ({ value: rate.median, min: rate.min, max: rate.max })),
            },
          ],
          unit: 'jobs/s',
        },
      },
    ],
  };
}
