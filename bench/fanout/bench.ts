/** `npm run bench -- fanout`: streams to many readers over server-sent events. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { numberOption } from '../lib/arguments.ts';
import type { Bench, BenchContext, BenchOptions, BenchResult } from '../lib/bench.ts';
import { type Bed, withCase } from '../lib/case.ts';
import { now } from '../lib/clock.ts';
import { Places } from '../lib/databases.ts';
import { WEB_PROCESS, type WebCommands } from '../lib/fleet-processes.ts';
import { round as digits, percentile, spread } from '../lib/stats.ts';
import { formatNumber, rangeText } from '../lib/table.ts';
import { STREAM_PROCESS, type StreamCommands } from '../streams/start.ts';
import { subjects } from '../streams/subjects/index.ts';
import type { commands as clientCommands } from './client-process.ts';

const CLIENT_PROCESS = fileURLToPath(new URL('client-process.ts', import.meta.url));

/** One reader of so many comes before the others. */
const WARM_UP_SHARE = 20;

const WHOLE = { rounds: 3, clients: 1_000, perSecond: 10, seconds: 5, burst: 200 };
const QUICK = { rounds: 1, clients: 50, perSecond: 10, seconds: 1, burst: 20 };

interface Plan {
  rounds: number;
  clients: number;
  /** Events a second that each client gets in the steady part. */
  perSecond: number;
  seconds: number;
  /** Events that each client gets as fast as it goes. */
  burst: number;
  /** A folder for CPU profiles. */
  profile: string | undefined;
}

interface Finding {
  streams: number;
  clients: number;
  p50Ms: number;
  p99Ms: number;
  burstEventsPerSecond: number;
  webCpuMicrosPerEvent: number;
  rssKibPerClient: number;
  liveKibPerClient: number;
  rssAfterBurstKibPerClient: number;
  liveAfterBurstKibPerClient: number;
  /** Of the process, not of a client. */
  youngBeforeMib: number;
  youngAfterBurstMib: number;
}

export const fanoutBench: Bench = {
  name: 'fanout',
  summary: 'one stream to many SSE clients, and many streams to one each, through the web process',
  packages: ['fastify', 'ioredis', 'pg'],
  method: [
    'Three processes: one writes streams through the journal, one is the web process (the whole app, as `oncefleet web` makes it), one holds all clients, each on a socket of its own, and checks every seq it reads.',
    '',
    '- Steady: each client gets so many events a second; the latency is from `emit` to the parsed frame in the client, over all clients and events, with commit and publish between.',
    '- Burst: as many events as fast as the journal takes them, to every client; the rate is of frames delivered, all clients together.',
    "- Memory: of the web process after forced garbage collections, with all clients connected and idle, less the same before they came; it had served a few before. *Live* is heap and buffers, *RSS* what the system counts. After the burst, once more. RSS after a burst is no cost of a client: part of it is the young generation of the process's heap, which V8 makes as large as the rate of allocation asks for, up to a bound of its own; its size is in the column.",
  ].join('\n'),
  options: {
    clients: { about: 'SSE clients' },
    rate: { about: 'events a second for each client in the steady part' },
    seconds: { about: 'how long the steady part is' },
    rounds: { about: 'how often everything is repeated' },
    profile: { about: 'a folder for CPU profiles of the web process during bursts (figures suffer)' },
  },
  plan,
};

function plan({ quick, own }: BenchOptions): (context: BenchContext) => Promise<BenchResult> {
  const sizes = quick ? QUICK : WHOLE;
  const wanted: Plan = {
    ...sizes,
    rounds: numberOption(own, 'rounds', sizes.rounds),
    clients: numberOption(own, 'clients', sizes.clients),
    perSecond: numberOption(own, 'rate', sizes.perSecond),
    seconds: numberOption(own, 'seconds', sizes.seconds),
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
      for (const streams of [1, wanted.clients]) {
        const finding = await measure({ services, places, signal }, streams, wanted);
        findings.push(finding);
        say(
          `round ${round + 1} of ${wanted.rounds}: ${titleOf(finding)}: p99 ${formatNumber(finding.p99Ms)} ms, ` +
            `${formatNumber(finding.burstEventsPerSecond)} events/s, ${formatNumber(finding.rssKibPerClient)} KiB a client`,
        );
      }
    }
  } finally {
    await places.close();
  }
  return report(findings, wanted);
}

async function measure(bed: Bed, streams: number, wanted: Plan): Promise<Finding> {
  const { clients, perSecond, seconds, burst } = wanted;
  const subject = subjects.oncefleet;
  return withCase(bed, subject.template, async ({ place, start }) => {
    const web = start<WebCommands>(WEB_PROCESS, { exposeGc: true });
    const writer = start<StreamCommands>(STREAM_PROCESS);
    const readers = start<typeof clientCommands>(CLIENT_PROCESS);
    const port = await web.call('open', place);
    await writer.call('openWriter', { subject: subject.name, place });
    const connect = async (count: number) => {
      const streamIds = await writer.call('openStreams', Math.min(streams, count));
      await readers.call('connect', { port, streamIds, count });
    };
    const steady = async (open: number, total: number) => {
      const [, latencies] = await Promise.all([
        writer.call('pace', { perSecond: perSecond * open, total: total * open }),
        readers.call('received', total),
      ]);
      return latencies;
    };

    // With a few first, so that code is compiled and connections to the servers are open.
    const few = Math.ceil(clients / WARM_UP_SHARE);
    await connect(few);
    await steady(Math.min(streams, few), burst);
    await Promise.all([writer.call('write', burst), readers.call('received', 2 * burst)]);
    await readers.call('disconnect', null);

    const before = await web.call('memory', null);
    await connect(clients);
    const idle = await web.call('memory', null);
    const total = perSecond * seconds;
    const latencies = await steady(streams, total);
    await web.call('meter', {
      profile: wanted.profile && join(wanted.profile, `fanout-${streams}-to-${clients}.cpuprofile`),
    });
    const begun = now();
    await Promise.all([writer.call('write', burst), readers.call('received', total + burst)]);
    const burstMs = now() - begun;
    const used = await web.call('used', null);
    const after = await web.call('memory', null);
    await readers.call('disconnect', null);
    await writer.call('close', null);
    const perClient = (bytes: number) => bytes / 1_024 / clients;
    return {
      streams,
      clients,
      p50Ms: percentile(latencies, 50),
      p99Ms: percentile(latencies, 99),
      burstEventsPerSecond: (burst * clients * 1_000) / burstMs,
      webCpuMicrosPerEvent: (used.cpuMs * 1_000) / (burst * clients),
      rssKibPerClient: perClient(idle.rssBytes - before.rssBytes),
      liveKibPerClient: perClient(idle.liveBytes - before.liveBytes),
      rssAfterBurstKibPerClient: perClient(after.rssBytes - before.rssBytes),
      liveAfterBurstKibPerClient: perClient(after.liveBytes - before.liveBytes),
      youngBeforeMib: before.youngBytes / 2 ** 20,
      youngAfterBurstMib: after.youngBytes / 2 ** 20,
    };
  });
}

function report(findings: readonly Finding[], wanted: Plan): BenchResult {
  const groups = [1, wanted.clients].map((streams) => {
    const group = findings.filter((finding) => finding.streams === streams);
    return {
      title: titleOf({ streams, clients: wanted.clients }),
      streams,
      of: (figure: keyof Finding) => spread(group.map((one) => one[figure])),
    };
  });
  return {
    rows: groups.map(({ streams, of }) => ({
      case: streams === 1 ? 'one stream to all' : 'a stream each',
      streams,
      clients: wanted.clients,
      eventsPerSecondPerClient: wanted.perSecond,
      seconds: wanted.seconds,
      burstEventsPerClient: wanted.burst,
      rounds: wanted.rounds,
      p50Ms: digits(of('p50Ms').median),
      p99Ms: digits(of('p99Ms').median),
      burstEventsPerSecondMin: digits(of('burstEventsPerSecond').min),
      burstEventsPerSecondMedian: digits(of('burstEventsPerSecond').median),
      burstEventsPerSecondMax: digits(of('burstEventsPerSecond').max),
      webCpuMicrosPerEvent: digits(of('webCpuMicrosPerEvent').median),
      rssKibPerClient: digits(of('rssKibPerClient').median),
      liveKibPerClient: digits(of('liveKibPerClient').median),
      rssAfterBurstKibPerClient: digits(of('rssAfterBurstKibPerClient').median),
      liveAfterBurstKibPerClient: digits(of('liveAfterBurstKibPerClient').median),
      youngBeforeMib: digits(of('youngBeforeMib').median),
      youngAfterBurstMib: digits(of('youngAfterBurstMib').median),
    })),
    tables: [
      {
        title: 'Delivery',
        about: `Steady at ${formatNumber(wanted.perSecond)} events/s for each client, latencies in ms; and a burst of ${formatNumber(wanted.burst)} events to each, in frames a second, all clients together.`,
        columns: ['', 'p50', 'p99', 'burst events/s', 'least to most', 'web µs an event'],
        rows: groups.map(({ title, of }) => [
          title,
          formatNumber(of('p50Ms').median),
          formatNumber(of('p99Ms').median),
          formatNumber(of('burstEventsPerSecond').median),
          rangeText(of('burstEventsPerSecond')),
          formatNumber(of('webCpuMicrosPerEvent').median),
        ]),
      },
      {
        title: 'Memory of the web process',
        about:
          'KiB a client, after garbage collection; and the young generation of the process, MiB, before any client and after the burst.',
        columns: [
          '',
          'live, idle',
          'RSS, idle',
          'live after the burst',
          'RSS after the burst',
          'young before',
          'young after',
        ],
        rows: groups.map(({ title, of }) => [
          title,
          formatNumber(of('liveKibPerClient').median),
          formatNumber(of('rssKibPerClient').median),
          formatNumber(of('liveAfterBurstKibPerClient').median),
          formatNumber(of('rssAfterBurstKibPerClient').median),
          formatNumber(of('youngBeforeMib').median),
          formatNumber(of('youngAfterBurstMib').median),
        ]),
      },
    ],
    charts: [
      {
        name: 'fanout',
        chart: {
          title: 'Frames a second through one web process',
          subtitle: `A burst of ${formatNumber(wanted.burst)} events to each of ${formatNumber(wanted.clients)} clients. Median of the rounds; the line on a bar goes from the least to the most.`,
          groups: groups.map(({ title }) => title),
          series: [
            {
              name: 'burst',
              values: groups.map(({ of }) => {
                const { median, min, max } = of('burstEventsPerSecond');
                return { value: median, min, max };
              }),
            },
          ],
          unit: 'events/s',
        },
      },
    ],
  };
}

function titleOf({ streams, clients }: { streams: number; clients: number }): string {
  return streams === 1
    ? `1 stream to ${formatNumber(clients)} clients`
    : `${formatNumber(streams)} streams to one client each`;
}
