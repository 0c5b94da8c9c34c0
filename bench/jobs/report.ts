/** From measurements of all rounds to rows, tables and charts. */
import type { BenchResult, Row } from '../lib/bench.ts';
import type { Chart } from '../lib/chart.ts';
import { round as digits, grouped, medianRatio, percentile, type Spread, spread } from '../lib/stats.ts';
import { formatNumber, rangeText, ratioText, type Table } from '../lib/table.ts';
import type { Latencies, Stretch } from './measure.ts';
import type { AddWay } from './process.ts';
import type { Redelivery, Subject, SubjectName } from './subjects/subject.ts';

type Kind = 'processing' | Redelivery;

/** Everything measured, by round. */
export class Findings {
  readonly processing: {
    round: number;
    kind: Kind;
    subject: Subject;
    concurrency: number;
    jobs: number;
    stretch: Stretch;
  }[] = [];
  readonly adding: { round: number; subject: Subject; way: AddWay; jobs: number; jobsPerSecond: number }[] = [];
  readonly latency: {
    round: number;
    subject: Subject;
    concurrency: number;
    perSecond: number;
    jobs: number;
    latencies: Latencies;
  }[] = [];
}

const KIND_CASE: Record<Kind, string> = {
  processing: 'processing',
  delivery: 'replayed delivery',
  duplicate: 'replayed duplicate',
};

const WAY_TITLE: Record<AddWay, string> = {
  single: 'one after the other',
  concurrent: '100 at a time',
  bulk: '1,000 at once',
  replayed: 'completed keys, 100 at a time',
};

export function report(findings: Findings, rounds: number): BenchResult {
  const processing = summariseProcessing(findings);
  const adding = summariseAdding(findings);
  const latency = summariseLatency(findings);
  const rows: Row[] = [
    ...processing.map((group) => ({
      case: KIND_CASE[group.kind],
      subject: group.subject.name,
      concurrency: group.concurrency,
      jobs: group.jobs,
      rounds,
      ...rateFigures(group.rate),
      ...(group.ofBullmq === undefined ? {} : { ofBullmqRatio: digits(group.ofBullmq) }),
      ...(group.ofNaive === undefined ? {} : { ofNaiveRatio: digits(group.ofNaive) }),
      workerCpuMicrosPerJob: digits(group.figures.workerCpuMicrosPerJob),
      workerMainThreadCpuMicrosPerJob: digits(group.figures.workerMainThreadCpuMicrosPerJob),
      workerLoopBusyRatio: digits(group.figures.loopUtilization),
      workerRssMib: digits(group.figures.workerRssMib),
      redisCpuMicrosPerJob: digits(group.figures.redisCpuMicrosPerJob),
      ...(group.figures.postgresCpuMicrosPerJob === undefined
        ? {}
        : { postgresCpuMicrosPerJob: digits(group.figures.postgresCpuMicrosPerJob) }),
      walBytesPerJob: digits(group.figures.walBytesPerJob),
    })),
    ...adding.map((group) => ({
      case: 'adding',
      subject: group.subject.name,
      way: group.way,
      jobs: group.jobs,
      rounds,
      ...rateFigures(group.rate),
      ...(group.ofBullmq === undefined ? {} : { ofBullmqRatio: digits(group.ofBullmq) }),
    })),
    ...latency.map((group) => ({
      case: 'latency',
      subject: group.subject.name,
      concurrency: group.concurrency,
      offeredJobsPerSecond: group.perSecond,
      jobs: group.jobs,
      rounds,
      enqueueToStartP50Ms: digits(group.addToStart.p50.median, 3),
      enqueueToStartP99Ms: digits(group.addToStart.p99.median, 3),
      startToResultP50Ms: digits(group.startToResult.p50.median, 3),
      startToResultP99Ms: digits(group.startToResult.p99.median, 3),
    })),
  ];
  const tables: Table[] = [];
  if (processing.length > 0) tables.push(processingTable(processing), costTable(processing));
  if (adding.length > 0) tables.push(addingTable(adding));
  if (latency.length > 0) tables.push(latencyTable(latency));
  const charts = processing.length === 0 ? [] : [{ name: 'jobs', chart: processingChart(processing) }];
  return { rows, tables, charts };
}

function rateFigures(rate: Spread) {
  return {
    jobsPerSecondMin: digits(rate.min),
    jobsPerSecondMedian: digits(rate.median),
    jobsPerSecondMax: digits(rate.max),
  };
}

interface ProcessingGroup {
  kind: Kind;
  subject: Subject;
  concurrency: number;
  jobs: number;
  rate: Spread;
  /** Medians of the rounds. */
  figures: Stretch;
  ofBullmq: number | undefined;
  ofNaive: number | undefined;
}

function summariseProcessing({ processing }: Findings): ProcessingGroup[] {
  const of = (subject: SubjectName, concurrency: number) =>
    new Map(
      processing
        .filter(
          (found) => found.subject.name === subject && found.concurrency === concurrency && found.kind === 'processing',
        )
        .map((found) => [found.round, found.stretch.jobsPerSecond]),
    );
  return [...grouped(processing, (found) => `${found.kind} ${found.concurrency} ${found.subject.name}`)].map(
    (group) => {
      const [{ kind, subject, concurrency, jobs }] = group;
      const ratio = (to: SubjectName) =>
        to === subject.name && kind === 'processing'
          ? undefined
          : medianRatio(
              group.map(({ round, stretch }) => [round, stretch.jobsPerSecond]),
              of(to, concurrency),
            );
      return {
        kind,
        subject,
        concurrency,
        jobs,
        rate: spread(group.map(({ stretch }) => stretch.jobsPerSecond)),
        figures: medianStretch(group.map(({ stretch }) => stretch)),
        ofBullmq: ratio('bullmq'),
        ofNaive: ratio('naive'),
      };
    },
  );
}

function medianStretch(stretches: readonly Stretch[]): Stretch {
  const median = (figure: keyof Stretch) => spread(stretches.map((stretch) => stretch[figure] ?? Number.NaN)).median;
  const postgres = median('postgresCpuMicrosPerJob');
  return {
    jobsPerSecond: median('jobsPerSecond'),
    workerCpuMicrosPerJob: median('workerCpuMicrosPerJob'),
    workerMainThreadCpuMicrosPerJob: median('workerMainThreadCpuMicrosPerJob'),
    loopUtilization: median('loopUtilization'),
    workerRssMib: median('workerRssMib'),
    redisCpuMicrosPerJob: median('redisCpuMicrosPerJob'),
    postgresCpuMicrosPerJob: Number.isNaN(postgres) ? undefined : postgres,
    walBytesPerJob: median('walBytesPerJob'),
  };
}

interface AddingGroup {
  subject: Subject;
  way: AddWay;
  jobs: number;
  rate: Spread;
  ofBullmq: number | undefined;
}

function summariseAdding({ adding }: Findings): AddingGroup[] {
  return [...grouped(adding, (found) => `${found.way} ${found.subject.name}`)].map((group) => {
    const [{ subject, way, jobs }] = group;
    const bullmq = new Map(
      adding
        .filter((found) => found.subject.name === 'bullmq' && found.way === way)
        .map((found) => [found.round, found.jobsPerSecond]),
    );
    return {
      subject,
      way,
      jobs,
      rate: spread(group.map(({ jobsPerSecond }) => jobsPerSecond)),
      ofBullmq:
        subject.name === 'bullmq'
          ? undefined
          : medianRatio(
              group.map(({ round, jobsPerSecond }) => [round, jobsPerSecond]),
              bullmq,
            ),
    };
  });
}

interface LatencyGroup {
  subject: Subject;
  concurrency: number;
  perSecond: number;
  jobs: number;
  addToStart: { p50: Spread; p99: Spread };
  startToResult: { p50: Spread; p99: Spread };
}

function summariseLatency({ latency }: Findings): LatencyGroup[] {
  return [...grouped(latency, (found) => found.subject.name)].map((group) => {
    const [{ subject, concurrency, perSecond, jobs }] = group;
    const percentiles = (figure: keyof Latencies) => ({
      p50: spread(group.map(({ latencies }) => percentile(latencies[figure], 50))),
      p99: spread(group.map(({ latencies }) => percentile(latencies[figure], 99))),
    });
    return {
      subject,
      concurrency,
      perSecond,
      jobs,
      addToStart: percentiles('addToStartMs'),
      startToResult: percentiles('startToResultMs'),
    };
  });
}

function processingTable(groups: readonly ProcessingGroup[]): Table {
  return {
    title: 'Processing',
    about: 'No-op jobs a second in one worker process: median (least to most).',
    columns: ['', 'concurrency', 'jobs', 'jobs/s', 'least to most', 'of BullMQ alone', 'of the naive wrapper'],
    rows: groups.map((group) => [
      titleOf(group),
      String(group.concurrency),
      formatNumber(group.jobs),
      formatNumber(group.rate.median),
      rangeText(group.rate),
      ratioText(group.ofBullmq),
      ratioText(group.ofNaive),
    ]),
  };
}

function costTable(groups: readonly ProcessingGroup[]): Table {
  return {
    title: 'What a job costs',
    about:
      "CPU time of each process in microseconds a job, how busy the worker's event loop was, and write-ahead log in bytes a job.",
    columns: ['', 'concurrency', 'worker µs', 'of it main thread', 'Redis µs', 'Postgres µs', 'loop busy', 'WAL bytes'],
    rows: groups.map((group) => [
      titleOf(group),
      String(group.concurrency),
      formatNumber(group.figures.workerCpuMicrosPerJob),
      formatNumber(group.figures.workerMainThreadCpuMicrosPerJob),
      formatNumber(group.figures.redisCpuMicrosPerJob),
      group.figures.postgresCpuMicrosPerJob === undefined ? '' : formatNumber(group.figures.postgresCpuMicrosPerJob),
      `${Math.round(group.figures.loopUtilization * 100)} %`,
      formatNumber(group.figures.walBytesPerJob),
    ]),
  };
}

function addingTable(groups: readonly AddingGroup[]): Table {
  return {
    title: 'Enqueueing',
    about:
      'Jobs a second from one process, each accepted when its call returns; ours is durable by then. BullMQ has `addBulk` for 1,000 at once; ours shares statements between enqueues that happen at once.',
    columns: ['', 'how', 'jobs', 'jobs/s', 'least to most', 'of BullMQ alone'],
    rows: groups.map((group) => [
      group.subject.title,
      WAY_TITLE[group.way],
      formatNumber(group.jobs),
      formatNumber(group.rate.median),
      rangeText(group.rate),
      ratioText(group.ofBullmq),
    ]),
  };
}

function latencyTable(groups: readonly LatencyGroup[]): Table {
  const [first] = groups;
  return {
    title: 'Latency',
    about: `At ${first?.perSecond} jobs/s and concurrency ${first?.concurrency}, in ms: medians of the rounds' percentiles.`,
    columns: ['', 'enqueue to start p50', 'p99', 'start to result p50', 'p99 '],
    rows: groups.map((group) => [
      group.subject.title,
      ...[group.addToStart.p50, group.addToStart.p99, group.startToResult.p50, group.startToResult.p99].map(
        ({ median }) => formatNumber(median),
      ),
    ]),
  };
}

function processingChart(groups: readonly ProcessingGroup[]): Chart {
  const concurrencies = [...new Set(groups.map(({ concurrency }) => concurrency))].sort((a, b) => a - b);
  const titles = [...new Set(groups.map(titleOf))];
  return {
    title: 'No-op jobs a second, one worker process',
    subtitle: 'Median of the rounds; the line on a bar goes from the least to the most.',
    groups: concurrencies.map((concurrency) => `concurrency ${concurrency}`),
    series: titles.map((name) => ({
      name,
      values: concurrencies.map((concurrency) => {
        const group = groups.find((candidate) => titleOf(candidate) === name && candidate.concurrency === concurrency);
        return group === undefined ? undefined : { value: group.rate.median, min: group.rate.min, max: group.rate.max };
      }),
    })),
    unit: 'jobs/s',
  };
}

function titleOf({ kind, subject }: Pick<ProcessingGroup, 'kind' | 'subject'>): string {
  return kind === 'processing' ? subject.title : `${subject.title}, ${KIND_CASE[kind]}`;
}
