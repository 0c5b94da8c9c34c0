/** `npm run bench -- fairness`: how long a tenant waits beside one that has 50,000 jobs waiting. */
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { choose, numberOption, rotate } from '../lib/arguments.ts';
import type { Bench, BenchContext, BenchOptions, BenchResult } from '../lib/bench.ts';
import { type Bed, withCase } from '../lib/case.ts';
import { Places, settle } from '../lib/databases.ts';
import { prepareOncefleet } from '../lib/oncefleet.ts';
import { round as digits, percentile, spread } from '../lib/stats.ts';
import { formatNumber } from '../lib/table.ts';
import type { commands, SubjectName } from './process.ts';

const PROCESS = fileURLToPath(new URL('process.ts', import.meta.url));

const SUBJECTS = ['oncefleet', 'in-order', 'bullmq'] as const satisfies readonly SubjectName[];
const TITLES: Readonly<Record<SubjectName, string>> = {
  oncefleet: 'Oncefleet',
  'in-order': 'Oncefleet, `fairTenants: false`',
  bullmq: 'BullMQ alone',
};

const WHOLE = { rounds: 3, backlog: 50_000, perSecond: 20, seconds: 10, slots: 40, jobMs: 100 };
const QUICK = { rounds: 1, backlog: 3_000, perSecond: 20, seconds: 1, slots: 40, jobMs: 100 };

interface Plan {
  rounds: number;
  /** Jobs of A that wait. */
  backlog: number;
  /** Jobs of B. */
  perSecond: number;
  seconds: number;
  slots: number;
  jobMs: number;
  subjects: readonly SubjectName[];
}

interface Finding {
  subject: SubjectName;
  beside: boolean;
  p50Ms: number;
  p95Ms: number;
  maxMs: number;
  /** Probes that had not started when the stretch was over; they count as if they had then. */
  late: number;
  /** Jobs of A that ran meanwhile, a second. */
  othersPerSecond: number;
}

export const fairnessBench: Bench = {
  name: 'fairness',
  summary: 'how long a tenant waits beside one that has 50,000 jobs waiting, against BullMQ on the same Redis',
  packages: ['bullmq', 'ioredis', 'pg'],
  method: [
    'A worker process with a number of slots runs jobs that sleep, each for half to one and a half times the time below; a job cannot start before one of them ends. Tenant B adds jobs at a fixed rate, from another process; the figures are percentiles of the time from the call that adds a job to the start of its handler, on a clock that the processes share. First B is alone, then A has its jobs waiting before the first of B is added, and still has some when the last one has started.',
    '',
    '- **Oncefleet**: with its defaults; each enqueue is committed to a durable Postgres first.',
    '- **Oncefleet, `fairTenants: false`**: the order of enqueues.',
    '- **BullMQ alone**: one queue, which has one order. Its groups are a part of BullMQ Pro, which was not measured.',
    '',
    'A job that has not started by a second after the last one was added counts with the time until then: the figures of those that serve in order are the length of the stretch, not that of the wait.',
  ].join('\n'),
  options: {
    subjects: { about: `only these, commas between: ${SUBJECTS.join(', ')}` },
    backlog: { about: 'jobs of A that wait' },
    rate: { about: 'jobs of B a second' },
    seconds: { about: 'how long B adds jobs' },
    rounds: { about: 'how often everything is repeated' },
  },
  plan,
};

function plan({ quick, own }: BenchOptions): (context: BenchContext) => Promise<BenchResult> {
  const sizes = quick ? QUICK : WHOLE;
  const wanted: Plan = {
    ...sizes,
    rounds: numberOption(own, 'rounds', sizes.rounds),
    backlog: numberOption(own, 'backlog', sizes.backlog),
    perSecond: numberOption(own, 'rate', sizes.perSecond),
    seconds: numberOption(own, 'seconds', sizes.seconds),
    subjects: choose(own.subjects, SUBJECTS),
  };
  return (context) => run(context, wanted);
}

async function run({ services, signal, say }: BenchContext, wanted: Plan): Promise<BenchResult> {
  const places = new Places(services);
  const findings: Finding[] = [];
  try {
    for (let round = 0; round < wanted.rounds; round++) {
      for (const subject of rotate(wanted.subjects, round)) {
        for (const beside of [false, true]) {
          const finding = await measure({ services, places, signal }, subject, beside, wanted);
          findings.push(finding);
          say(
            `round ${round + 1} of ${wanted.rounds}: ${TITLES[subject]}, B ${beside ? 'beside A' : 'alone'}: ` +
              `p50 ${formatNumber(finding.p50Ms)} ms, p95 ${formatNumber(finding.p95Ms)} ms, ${finding.late} late`,
          );
        }
      }
    }
  } finally {
    await places.close();
  }
  return report(findings, wanted);
}

async function measure(bed: Bed, subject: SubjectName, beside: boolean, wanted: Plan): Promise<Finding> {
  const { backlog, perSecond, seconds, slots, jobMs } = wanted;
  return withCase(bed, { name: 'fairness', prepare: prepareOncefleet }, async ({ place, start }) => {
    const [client, worker] = [start<typeof commands>(PROCESS), start<typeof commands>(PROCESS)];
    const order = { subject, place, jobMs };
    await client.call('openClient', order);
    if (beside) await client.call('fill', { count: backlog, jobMs });
    await settle(place.databaseUrl);
    await worker.call('work', { ...order, slots });
    await sleep(1_000);
    const before = await worker.call('report', null);
    const begunAt = performance.now();
    const addedAt = await client.call('probe', { perSecond, total: Math.ceil(perSecond * seconds), jobMs });
    await sleep(1_000);
    const after = await worker.call('report', null);
    const passedS = (performance.now() - begunAt) / 1_000;
    if (beside && after.others + slots >= backlog) throw new Error('A had no jobs waiting any more: give it more');
    const endedAt = Math.max(...addedAt) + 1_000;
    const waits = addedAt.map((at, n) => (after.startedAt.get(n) ?? endedAt) - at);
    return {
      subject,
      beside,
      p50Ms: percentile(waits, 50),
      p95Ms: percentile(waits, 95),
      maxMs: percentile(waits, 100),
      late: addedAt.filter((_, n) => !after.startedAt.has(n)).length,
      othersPerSecond: (after.others - before.others) / passedS,
    };
  });
}

function report(findings: readonly Finding[], wanted: Plan): BenchResult {
  const { backlog, perSecond, seconds, slots, jobMs, rounds } = wanted;
  const cases = wanted.subjects.flatMap((subject) =>
    [false, true].map((beside) => {
      const own = findings.filter((finding) => finding.subject === subject && finding.beside === beside);
      const median = (figure: Exclude<keyof Finding, 'subject' | 'beside'>) =>
        digits(spread(own.map((finding) => finding[figure])).median);
      return {
        case: beside ? 'beside A' : 'alone',
        subject,
        backlog: beside ? backlog : 0,
        perSecond,
        seconds,
        slots,
        jobMs,
        rounds,
        p50Ms: median('p50Ms'),
        p95Ms: median('p95Ms'),
        maxMs: median('maxMs'),
        late: median('late'),
        othersPerSecond: median('othersPerSecond'),
      };
    }),
  );
  return {
    rows: cases,
    tables: [
      {
        title: 'From the enqueue to the start of a job of B',
        about: `${formatNumber(perSecond)} jobs/s of B for ${formatNumber(seconds)} s, ${formatNumber(slots)} slots, jobs of ${formatNumber(jobMs)} ms; A has ${formatNumber(backlog)} jobs waiting. In ms: medians of the rounds' percentiles.`,
        columns: ['', 'B alone p50', 'p95', 'beside A p50', 'p95', 'p95 to alone', 'not started', 'A jobs/s'],
        rows: wanted.subjects.map((subject) => {
          const [alone, beside] = cases.filter((one) => one.subject === subject);
          if (alone === undefined || beside === undefined) throw new Error(`no figures of ${subject}`);
          return [
            TITLES[subject],
            ...[alone.p50Ms, alone.p95Ms, beside.p50Ms, beside.p95Ms].map((ms) => formatNumber(ms)),
            formatNumber(digits(beside.p95Ms / alone.p95Ms, 3)),
            formatNumber(beside.late),
            formatNumber(beside.othersPerSecond),
          ];
        }),
      },
    ],
    charts: [],
  };
}
