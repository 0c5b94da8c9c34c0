/** `npm run bench -- dialects`: what a reader of each dialect costs the web process, beside a native one. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { numberOption, rotate } from '../lib/arguments.ts';
import type { Bench, BenchContext, BenchOptions, BenchResult } from '../lib/bench.ts';
import { type Bed, withCase } from '../lib/case.ts';
import { Places } from '../lib/databases.ts';
import { WEB_PROCESS, type WebCommands, WORKER_PROCESS, type WorkerCommands } from '../lib/fleet-processes.ts';
import { prepareOncefleet } from '../lib/oncefleet.ts';
import { round as digits, spread } from '../lib/stats.ts';
import { formatNumber, rangeText, ratioText } from '../lib/table.ts';
import type { commands as clientCommands } from './client-process.ts';
import { DIALECTS, type DialectName } from './requests.ts';

const CLIENT_PROCESS = fileURLToPath(new URL('client-process.ts', import.meta.url));
/** Jobs at once in the worker process. */
const CONCURRENCY = 100;
/** Events that a job makes durable at a time. */
const PER_FLUSH = 16;

const WHOLE = { rounds: 3, readers: 100, events: 2_000 };
const QUICK = { rounds: 1, readers: 5, events: 40 };

interface Plan {
  rounds: number;
  readers: number;
  /** Of each stream. */
  events: number;
  /** A folder for CPU profiles. */
  profile: string | undefined;
}

interface Finding {
  dialect: DialectName;
  streams: number;
  cpuMicrosPerEvent: number;
  bytesPerEvent: number;
}

const NAMES: Readonly<Record<DialectName, string>> = {
  native: 'native',
  responses: 'OpenAI Responses',
  completions: 'OpenAI chat completions',
  'ui-messages': 'AI SDK UI messages',
};

export const dialectsBench: Bench = {
  name: 'dialects',
  summary: 'what a reader of each dialect costs the web process, beside a native one',
  packages: ['fastify', 'ioredis', 'pg'],
  method: [
    'A web process (the whole app), a worker process that runs `talk`, and one that holds all readers, each on a socket of its own. The readers ask first, each in the words of its dialect; then the worker starts, and the web process is measured from there until every body has ended. Each reader counts its events, and a missing one fails the bench.',
    '',
    `- An event is a \`delta\` of 60 bytes of JSON; jobs make ${PER_FLUSH} of them durable at a time. The endings are measured too: in the Responses dialect the whole text, four times.`,
    '- CPU is that of the web process, all threads, in microseconds for each event to each reader. Each dialect has a process of its own, with a few streams before that are not measured.',
    '- Ratios are of the medians; a dialect may cost 1.5 times what a native reader does.',
  ].join('\n'),
  options: {
    readers: { about: 'readers; also the streams of the second case' },
    events: { about: 'events of each stream' },
    rounds: { about: 'how often everything is repeated' },
    profile: { about: 'a folder for CPU profiles of the web process (figures suffer)' },
  },
  plan,
};

function plan({ quick, own }: BenchOptions): (context: BenchContext) => Promise<BenchResult> {
  const sizes = quick ? QUICK : WHOLE;
  const number = (name: keyof typeof sizes) => numberOption(own, name, sizes[name]);
  const wanted: Plan = {
    rounds: number('rounds'),
    readers: number('readers'),
    events: number('events'),
    profile: own.profile,
  };
  return (context) => run(context, wanted);
}

async function run({ services, signal, say }: BenchContext, wanted: Plan): Promise<BenchResult> {
  if (wanted.profile !== undefined) await mkdir(wanted.profile, { recursive: true });
  const places = new Places(services);
  const findings: Finding[] = [];
  try {
    for (let round = 0; round < wanted.rounds; round++) {
      for (const dialect of rotate(DIALECTS, round)) {
        for (const streams of casesOf(wanted)) {
          const finding = await measure({ services, places, signal }, dialect, streams, wanted);
          findings.push(finding);
          say(
            `round ${round + 1} of ${wanted.rounds}: ${dialect}, ${titleOf(streams, wanted)}: ` +
              `${formatNumber(finding.cpuMicrosPerEvent)} µs, ${formatNumber(finding.bytesPerEvent)} bytes an event`,
          );
        }
      }
    }
  } finally {
    await places.close();
  }
  return report(findings, wanted);
}

async function measure(bed: Bed, dialect: DialectName, streams: number, wanted: Plan): Promise<Finding> {
  const { readers, events, profile } = wanted;
  return withCase(bed, { name: 'oncefleet', prepare: prepareOncefleet }, async ({ place, start }) => {
    const web = start<WebCommands>(WEB_PROCESS, { exposeGc: true });
    const clients = start<typeof clientCommands>(CLIENT_PROCESS);
    const port = await web.call('open', place);
    const input = { events, perFlush: PER_FLUSH, pauseMs: 0 };
    const once = async (name: string, file?: string) => {
      await clients.call('connect', { port, dialect, run: name, streams, count: readers, input });
      // What was allocated before is not collected at the cost of what is measured.
      await web.call('memory', null);
      await web.call('meter', { profile: file });
      const worker = start<WorkerCommands>(WORKER_PROCESS);
      await worker.call('open', { place, concurrency: CONCURRENCY });
      const { bytes } = await clients.call('ended', events);
      const { cpuMs } = await web.call('used', null);
      await worker.stop();
      return { cpuMicrosPerEvent: (cpuMs * 1_000) / (readers * events), bytesPerEvent: bytes / (readers * events) };
    };
    // Its code is compiled then, and its connections are open.
    await once('before');
    const file = profile && join(profile, `dialects-${dialect}-${streams}.cpuprofile`);
    return { dialect, streams, ...(await once('measured', file)) };
  });
}

function report(findings: readonly Finding[], wanted: Plan): BenchResult {
  const of = (dialect: DialectName, streams: number, figure: 'cpuMicrosPerEvent' | 'bytesPerEvent') =>
    spread(findings.filter((one) => one.dialect === dialect && one.streams === streams).map((one) => one[figure]));
  const cases = casesOf(wanted).map((streams) => ({
    streams,
    rows: DIALECTS.map((dialect) => {
      const cpu = of(dialect, streams, 'cpuMicrosPerEvent');
      return {
        dialect,
        cpu,
        ratio: cpu.median / of('native', streams, 'cpuMicrosPerEvent').median,
        bytes: of(dialect, streams, 'bytesPerEvent').median,
      };
    }),
  }));
  return {
    rows: cases.flatMap(({ streams, rows }) =>
      rows.map(({ dialect, cpu, ratio, bytes }) => ({
        case: dialect,
        streams,
        readers: wanted.readers,
        events: wanted.events,
        rounds: wanted.rounds,
        cpuMicrosPerEventMin: digits(cpu.min),
        cpuMicrosPerEventMedian: digits(cpu.median),
        cpuMicrosPerEventMax: digits(cpu.max),
        ofNativeRatio: digits(ratio),
        bytesPerEvent: digits(bytes),
      })),
    ),
    tables: cases.map(({ streams, rows }) => ({
      title: titleOf(streams, wanted),
      about: `${formatNumber(wanted.events)} events a stream.`,
      columns: ['', 'µs an event', 'least to most', 'of native', 'bytes an event'],
      rows: rows.map(({ dialect, cpu, ratio, bytes }) => [
        NAMES[dialect],
        formatNumber(cpu.median),
        rangeText(cpu),
        ratioText(ratio),
        formatNumber(bytes),
      ]),
    })),
    charts: [],
  };
}

function casesOf({ readers }: Plan): number[] {
  return [1, readers];
}

function titleOf(streams: number, { readers }: Plan): string {
  return streams === 1
    ? `1 stream to ${formatNumber(readers)} readers`
    : `${formatNumber(streams)} streams to one reader each`;
}
