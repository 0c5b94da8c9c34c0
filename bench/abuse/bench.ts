/** `npm run bench -- abuse`: hostile requests of every kind, and what another tenant notices of them. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { createFleet } from '../../src/workers/fleet.ts';
import { type Bench, type BenchContext, type BenchOptions, type BenchResult, UsageError } from '../lib/bench.ts';
import { type Bed, withCase } from '../lib/case.ts';
import { type Place, Places } from '../lib/databases.ts';
import { prepareOncefleet } from '../lib/oncefleet.ts';
import { round as digits, percentile } from '../lib/stats.ts';
import { formatNumber } from '../lib/table.ts';
import type { Answers, commands as attackerCommands } from './attacker-process.ts';
import { say as sayJob, textOf } from './jobs.ts';
import { KINDS, type Kind, type Stage } from './kinds.ts';
import type { commands as neighbourCommands, Served } from './neighbour-process.ts';
import type { commands as webCommands } from './web-process.ts';
import type { commands as workerCommands } from './worker-process.ts';

const file = (name: string) => fileURLToPath(new URL(name, import.meta.url));

const MIB = 1024 * 1024;
const HOSTILE_TOKEN = 'the-token-of-the-hostile-tenant';
const NEIGHBOUR_TOKEN = 'the-token-of-the-neighbour';
const SAMPLE_MS = 100;
const QUIET_MS = 5_000;
const QUICK_SHARE = 0.02;

/** What must hold. */
const MOST_RSS_BYTES = 512 * MIB;
const MOST_P99_MS = 250;

interface Wanted {
  kinds: readonly Kind[];
  /** Of the requests of each. */
  share: number;
  profile: string | undefined;
}

interface Finding {
  kind: string;
  requests: number;
  seconds: number;
  mostRssBytes: number;
  served: Served;
  answers: Answers;
}

export const abuseBench: Bench = {
  name: 'abuse',
  summary: '20,000 hostile requests to a web process: its memory, and what another tenant notices',
  packages: ['fastify', 'ioredis', 'pg'],
  method: [
    'A web process with the tokens of two tenants and the settings as they come, a worker process, a process of hostile clients (all of one tenant, or of nobody), and one of a neighbour: the other tenant, which asks for something ordinary every 25 ms (enqueue, one job, its events, a search, `/healthz`), on connections that it keeps. The kinds of hostile request come one after the other; clients that read nothing stay for 4 s and are followed by the next.',
    '',
    '- RSS: the most that the system has counted for the web process during the kind, sampled every 100 ms. No collection is forced, and what a kind leaves behind is there when the next begins.',
    '- p50, p99: of the neighbour’s requests, from the call to the last byte of the answer, `/healthz` in a column of its own. All processes, Postgres and Redis share the machine.',
    '- Answers: how the hostile requests were answered, by status; *none*: nobody had read an answer, or none was due, when the client left.',
    '',
    `The bench fails (exit code 1) where RSS reaches ${MOST_RSS_BYTES / MIB} MiB, where the p99 of all of the neighbour’s requests reaches ${MOST_P99_MS} ms, where one of them is refused or \`/healthz\` is not answered, or where a hostile request is answered with a 500.`,
  ].join('\n'),
  options: {
    only: { about: 'only kinds whose names have this text' },
    profile: { about: 'a folder for CPU profiles of the web process, one a kind (figures suffer)' },
  },
  plan,
};

function plan({ quick, own }: BenchOptions): (context: BenchContext) => Promise<BenchResult> {
  const kinds = KINDS.filter(({ name }) => name.includes(own.only ?? ''));
  if (kinds.length === 0) throw new UsageError(`--only: no kind has "${own.only}" in its name`);
  const wanted = { kinds, share: quick ? QUICK_SHARE : 1, profile: own.profile };
  return async ({ services, signal, say }) => {
    const places = new Places(services);
    try {
      const findings = await attack({ services, places, signal }, wanted, say);
      const broken = faultsOf(findings);
      const result = report(findings, broken);
      for (const fault of broken) say(`MISSED: ${fault}`);
      if (broken.length > 0) process.exitCode = 1;
      return result;
    } finally {
      await places.close();
    }
  };
}

async function attack(bed: Bed, { kinds, share, profile }: Wanted, say: BenchContext['say']): Promise<Finding[]> {
  return withCase(bed, { name: 'oncefleet', prepare: prepareOncefleet }, async ({ place, start }) => {
    const web = start<typeof webCommands>(file('web-process.ts'));
    const worker = start<typeof workerCommands>(file('worker-process.ts'));
    const attacker = start<typeof attackerCommands>(file('attacker-process.ts'));
    const neighbour = start<typeof neighbourCommands>(file('neighbour-process.ts'));
    await worker.call('open', place);
    const stage = await furnish(place);
    const tokens = `hostile:${HOSTILE_TOKEN},neighbour:${NEIGHBOUR_TOKEN}`;
    const port = await web.call('open', { place, tokens });
    await neighbour.call('start', { port, token: NEIGHBOUR_TOKEN });
    const findings: Finding[] = [];
    const watch = async (kind: string, requests: number, task: () => Promise<Answers>) => {
      bed.signal.throwIfAborted();
      const begun = performance.now();
      const before = await web.call('rss', null);
      let mostRssBytes = before.bytes;
      const look = async () => {
        const { bytes, mostBytes } = await web.call('rss', null);
        // What was between two samples, the system has seen.
        mostRssBytes = Math.max(mostRssBytes, bytes, mostBytes > before.mostBytes ? mostBytes : 0);
      };
      let over = false;
      const watching = (async () => {
        while (!over) {
          await look();
          await sleep(SAMPLE_MS);
        }
      })();
      watching.catch(() => {});
      const answers = await task().finally(() => {
        over = true;
      });
      await watching;
      await look();
      const served = await neighbour.call('take', null);
      const seconds = (performance.now() - begun) / 1_000;
      findings.push({ kind, requests, seconds, mostRssBytes, served, answers });
      say(
        `${kind}: ${formatNumber(seconds)} s, RSS ${mib(mostRssBytes)} MiB, ${figures(served)}; ${textOfAnswers(answers)}`,
      );
    };
    await watch('nobody else', 0, () => sleep(QUIET_MS, {}, { signal: bed.signal }));
    for (const [n, kind] of kinds.entries()) {
      const requests = Math.round(kind.requests * share);
      if (profile !== undefined) await web.call('meter', { profile: join(profile, `abuse-${n}.cpuprofile`) });
      await watch(kind.name, requests, () => attacker.call('attack', { kind: kind.name, port, stage, share }));
      if (profile !== undefined) await web.call('used', null);
    }
    await watch('nobody else, after them', 0, () => sleep(QUIET_MS, {}, { signal: bed.signal }));
    await neighbour.call('stop', null);
    return findings;
  });
}

/** What the hostile tenant has in the database before it begins. */
async function furnish(place: Place): Promise<Stage> {
  const fleet = createFleet({ ...place, jobs: [sayJob], tenant: 'hostile' });
  try {
    const run = async (input: { events: number; length: number; text?: string }) => {
      const job = await fleet.enqueue(sayJob, input);
      await job.result({ timeoutMs: 120_000 });
      return job.id;
    };
    const many: string[] = [];
    for (let n = 0; n < 50; n++) many.push(await run({ events: 1, length: Math.floor(3.7 * MIB) }));
    const largeInput = await run({ events: 0, length: 0, text: textOf(MIB) });
    // A page of jobs is full of them.
    for (let n = 0; n < 50; n++) await run({ events: 0, length: 0, text: textOf(MIB) });
    return {
      token: HOSTILE_TOKEN,
      largeInput,
      largeEvents: await run({ events: 20, length: Math.floor(3.7 * MIB) }),
      many,
    };
  } finally {
    await fleet.close();
  }
}

function faultsOf(findings: readonly Finding[]): string[] {
  const faults: string[] = [];
  for (const { kind, mostRssBytes, served, answers } of findings) {
    if (mostRssBytes >= MOST_RSS_BYTES) faults.push(`${kind}: RSS of ${mib(mostRssBytes)} MiB`);
    if (Object.keys(served.refused).length > 0)
      faults.push(`${kind}: the neighbour has ${textOfAnswers(served.refused)}`);
    if (served.healthMs.length === 0 || served.latencies.length === 0)
      faults.push(`${kind}: the neighbour was not answered`);
    if (answers[500] !== undefined) faults.push(`${kind}: ${answers[500]} answers with a 500`);
  }
  const p99 = percentile(
    findings.flatMap(({ served }) => served.latencies),
    99,
  );
  if (p99 >= MOST_P99_MS) faults.push(`the neighbour's p99 is ${formatNumber(p99)} ms`);
  return faults;
}

function report(findings: readonly Finding[], faults: readonly string[]): BenchResult {
  const all = findings.flatMap(({ served }) => served.latencies);
  const requests = findings.reduce((sum, finding) => sum + finding.requests, 0);
  const most = Math.max(...findings.map(({ mostRssBytes }) => mostRssBytes));
  const health = findings.flatMap(({ served }) => served.healthMs);
  return {
    rows: findings.map(({ kind, requests, seconds, mostRssBytes, served, answers }) => ({
      case: kind,
      requests,
      seconds: digits(seconds),
      mostRssMib: digits(mostRssBytes / MIB),
      p50Ms: digits(of(served.latencies, 50)),
      p99Ms: digits(of(served.latencies, 99)),
      mostHealthMs: digits(of(served.healthMs, 100)),
      answers: textOfAnswers(answers),
    })),
    tables: [
      {
        title: 'Verdict',
        columns: ['', 'measured', 'must be'],
        rows: [
          ['hostile requests', formatNumber(requests), ''],
          ['most RSS of the web process, MiB', mib(most), `below ${MOST_RSS_BYTES / MIB}`],
          ['p99 of the neighbour, ms', formatNumber(percentile(all, 99)), `below ${MOST_P99_MS}`],
          ['slowest `/healthz`, ms', formatNumber(of(health, 100)), 'answered'],
          ['verdict', faults.length === 0 ? 'held' : faults.join('; '), ''],
        ],
      },
      {
        title: 'By kind',
        about: 'RSS in MiB, the neighbour’s latencies in ms.',
        columns: ['', 'requests', 's', 'RSS', 'p50', 'p99', '`/healthz`, slowest', 'answers'],
        rows: findings.map(({ kind, requests, seconds, mostRssBytes, served, answers }) => [
          kind,
          formatNumber(requests),
          formatNumber(seconds),
          mib(mostRssBytes),
          formatNumber(of(served.latencies, 50)),
          formatNumber(of(served.latencies, 99)),
          formatNumber(of(served.healthMs, 100)),
          textOfAnswers(answers),
        ]),
      },
    ],
    charts: [],
  };
}

/** NaN: there was none, which is a fault. */
function of(values: readonly number[], percent: number): number {
  return values.length === 0 ? Number.NaN : percentile(values, percent);
}

function figures({ latencies, healthMs }: Served): string {
  const [p50, p99] = [of(latencies, 50), of(latencies, 99)];
  return `neighbour p50 ${formatNumber(p50)} ms, p99 ${formatNumber(p99)} ms, /healthz ${formatNumber(of(healthMs, 100))} ms`;
}

function textOfAnswers(answers: Answers): string {
  return Object.entries(answers)
    .sort(([a], [b]) => Number(a === '0') - Number(b === '0') || Number(a) - Number(b))
    .map(([status, count]) => `${status === '0' ? 'none' : status} ${formatNumber(count)}`)
    .join(', ');
}

function mib(bytes: number): string {
  return formatNumber(bytes / MIB);
}
