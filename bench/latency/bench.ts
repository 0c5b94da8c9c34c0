/** `npm run bench -- latency`: how long an event takes from `emit` to a follower in another process. */
import { choose, numberOption, rotate } from '../lib/arguments.ts';
import type { Bench, BenchContext, BenchOptions, BenchResult } from '../lib/bench.ts';
import { type Bed, withCase } from '../lib/case.ts';
import { Places, settle } from '../lib/databases.ts';
import { round as digits, grouped, percentile, type Spread, spread } from '../lib/stats.ts';
import { formatNumber, rangeText } from '../lib/table.ts';
import { STREAM_PROCESS, type StreamCommands } from '../streams/start.ts';
import { subjects } from '../streams/subjects/index.ts';
import type { Subject } from '../streams/subjects/subject.ts';

const SUBJECTS = ['oncefleet', 'resumable-stream'] as const;

const WHOLE = { rounds: 3, streams: 100, perSecond: 50, seconds: 10, warmUpSeconds: 3 };
const QUICK = { rounds: 1, streams: 10, perSecond: 20, seconds: 1, warmUpSeconds: 0.5 };

interface Plan {
  rounds: number;
  streams: number;
  /** Events a second of each stream. */
  perSecond: number;
  seconds: number;
  warmUpSeconds: number;
  subjects: readonly Subject[];
}

interface Finding {
  subject: Subject;
  p50Ms: number;
  p99Ms: number;
  maxMs: number;
  lateP99Ms: number;
  writerCpuMicrosPerEvent: number;
  followerCpuMicrosPerEvent: number;
}

export const latencyBench: Bench = {
  name: 'latency',
  summary: 'from emit to a follower in another process, against resumable-stream on the same Redis',
  packages: ['ioredis', 'pg', 'resumable-stream'],
  method: [
    'One process emits to all streams in turn at a fixed rate, whatever became of earlier events; each event carries the time of its `emit` on a clock that both processes share. Another process follows every stream live and checks every seq. The figures are percentiles of emit to arrival, over all events; the warm-up is left out.',
    '',
    '- **Oncefleet**: the journal writer and the follower with their defaults. What arrives is committed to a durable Postgres.',
    '- **resumable-stream**: Redis pub/sub, an event a line; what was said is kept in the memory of the producing process alone, and lost with it.',
    '',
    'How late the emitting process itself was (a timer of 1 ms, and whatever kept its event loop busy) is shown beside: it is not part of the latency.',
  ].join('\n'),
  options: {
    subjects: { about: `only these, commas between: ${SUBJECTS.join(', ')}` },
    streams: { about: 'streams at once' },
    rate: { about: 'events a second of each stream' },
    seconds: { about: 'how long it is measured' },
    rounds: { about: 'how often everything is repeated' },
  },
  plan,
};

function plan({ quick, own }: BenchOptions): (context: BenchContext) => Promise<BenchResult> {
  const sizes = quick ? QUICK : WHOLE;
  const wanted: Plan = {
    rounds: numberOption(own, 'rounds', sizes.rounds),
    streams: numberOption(own, 'streams', sizes.streams),
    perSecond: numberOption(own, 'rate', sizes.perSecond),
    seconds: numberOption(own, 'seconds', sizes.seconds),
    warmUpSeconds: sizes.warmUpSeconds,
    subjects: choose(own.subjects, SUBJECTS).map((name) => subjects[name]),
  };
  return (context) => run(context, wanted);
}

async function run({ services, signal, say }: BenchContext, wanted: Plan): Promise<BenchResult> {
  const places = new Places(services);
  const findings: Finding[] = [];
  try {
    for (let round = 0; round < wanted.rounds; round++) {
      for (const subject of rotate(wanted.subjects, round)) {
        const finding = await measure({ services, places, signal }, subject, wanted);
        findings.push(finding);
        say(
          `round ${round + 1} of ${wanted.rounds}: ${subject.title}: ` +
            `p50 ${formatNumber(finding.p50Ms)} ms, p99 ${formatNumber(finding.p99Ms)} ms`,
        );
      }
    }
  } finally {
    await places.close();
  }
  return report(findings, wanted);
}

async function measure(bed: Bed, subject: Subject, wanted: Plan): Promise<Finding> {
  const { streams, perSecond, seconds, warmUpSeconds } = wanted;
  return withCase(bed, subject.template, async ({ place, start }) => {
    const [writer, follower] = [start<StreamCommands>(STREAM_PROCESS), start<StreamCommands>(STREAM_PROCESS)];
    await writer.call('openWriter', { subject: subject.name, place });
    await follower.call('openReader', { subject: subject.name, place });
    const stretch = async (forSeconds: number) => {
      const perStream = Math.ceil(perSecond * forSeconds);
      const streamIds = await writer.call('openStreams', streams);
      await follower.call('follow', streamIds);
      await settle(place.databaseUrl);
      await writer.call('meter', {});
      await follower.call('meter', {});
      const [late, latencies] = await Promise.all([
        writer.call('pace', { perSecond: perSecond * streams, total: perStream * streams }),
        follower.call('received', perStream),
      ]);
      const micros = (ms: number) => (ms * 1_000) / latencies.length;
      return {
        subject,
        p50Ms: percentile(latencies, 50),
        p99Ms: percentile(latencies, 99),
        maxMs: percentile(latencies, 100),
        lateP99Ms: percentile(late, 99),
        writerCpuMicrosPerEvent: micros((await writer.call('used', null)).cpuMs),
        followerCpuMicrosPerEvent: micros((await follower.call('used', null)).cpuMs),
      };
    };
    await stretch(warmUpSeconds);
    const finding = await stretch(seconds);
    await writer.call('close', null);
    await follower.call('close', null);
    return finding;
  });
}

function report(findings: readonly Finding[], wanted: Plan): BenchResult {
  const { rounds, streams, perSecond, seconds } = wanted;
  const groups = [...grouped(findings, ({ subject }) => subject.name)].map((group) => {
    const spreadOf = (figure: Exclude<keyof Finding, 'subject'>): Spread => spread(group.map((one) => one[figure]));
    return { subject: group[0].subject, spreadOf };
  });
  return {
    rows: groups.map(({ subject, spreadOf }) => ({
      case: 'emit to follower',
      subject: subject.name,
      streams,
      eventsPerSecondPerStream: perSecond,
      seconds,
      rounds,
      p50Ms: digits(spreadOf('p50Ms').median),
      p99Ms: digits(spreadOf('p99Ms').median),
      p99MaxMs: digits(spreadOf('p99Ms').max),
      maxMs: digits(spreadOf('maxMs').max),
      emitLateP99Ms: digits(spreadOf('lateP99Ms').median),
      writerCpuMicrosPerEvent: digits(spreadOf('writerCpuMicrosPerEvent').median),
      followerCpuMicrosPerEvent: digits(spreadOf('followerCpuMicrosPerEvent').median),
    })),
    tables: [
      {
        title: 'Emit to follower',
        about: `${formatNumber(streams)} streams of ${formatNumber(perSecond)} events/s each for ${formatNumber(seconds)} s, in ms: medians of the rounds' percentiles. CPU in microseconds an event.`,
        columns: ['', 'p50', 'p99', 'p99 least to most', 'most', 'emits late p99', 'writer µs', 'follower µs'],
        rows: groups.map(({ subject, spreadOf }) => [
          subject.title,
          formatNumber(spreadOf('p50Ms').median),
          formatNumber(spreadOf('p99Ms').median),
          rangeText(spreadOf('p99Ms')),
          formatNumber(spreadOf('maxMs').max),
          formatNumber(spreadOf('lateP99Ms').median),
          formatNumber(spreadOf('writerCpuMicrosPerEvent').median),
          formatNumber(spreadOf('followerCpuMicrosPerEvent').median),
        ]),
      },
    ],
    charts: [
      {
        name: 'latency',
        chart: {
          title: 'Emit to a follower in another process',
          subtitle: `${formatNumber(streams * perSecond)} events/s over ${formatNumber(streams)} streams. Median of the rounds; the line on a bar goes from the least to the most.`,
          groups: ['p50', 'p99'],
          series: groups.map(({ subject, spreadOf }) => ({
            name: subject.title,
            values: (['p50Ms', 'p99Ms'] as const).map((figure) => {
              const { median, min, max } = spreadOf(figure);
              return { value: median, min, max };
            }),
          })),
          unit: 'ms',
        },
      },
    ],
  };
}
