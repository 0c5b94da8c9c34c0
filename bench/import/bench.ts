/** `npm run bench -- import`: what a process pays for `import 'oncefleet'`, and for its first wrapped worker. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { ROOT } from '../../scripts/root.ts';
import { createDb } from '../../src/db/client.ts';
import { migrate } from '../../src/db/migrate.ts';
import { numberOption } from '../lib/arguments.ts';
import type { Bench, BenchContext, BenchOptions, BenchResult } from '../lib/bench.ts';
import { round as digits, grouped, medianRatio, type Spread, spread } from '../lib/stats.ts';
import { formatNumber } from '../lib/table.ts';

const ROUNDS = { whole: 15, quick: 1 };

/** In the clone, whose packages it finds. */
const BUILD = join(ROOT, '.oncefleet', 'bench-import');
const ONCEFLEET = JSON.stringify(pathToFileURL(join(BUILD, 'src', 'index.js')).href);

const run = promisify(execFile);

/** A connection is part of a first use; nothing runs. */
const WORKER = (processor: string) => `
  const worker = new bullmq.Worker('bench-import', ${processor}, { connection: { url: process.env.REDIS_URL } });
  await worker.waitUntilReady();`;
const WRAPPED = `oncefleet.withIdempotency(async () => 1, {
  databaseUrl: process.env.DATABASE_URL, redisUrl: process.env.REDIS_URL, prefix: 'bench-import' })`;

/** Each row's program, and what its time and memory are compared with. */
const SUBJECTS = {
  'nothing, Node alone': { code: '', of: undefined },
  "import 'bullmq'": { code: "await import('bullmq');", of: undefined },
  "import 'oncefleet'": { code: `await import(${ONCEFLEET});`, of: "import 'bullmq'" },
  'a Worker of BullMQ, connected': {
    code: `const bullmq = await import('bullmq');${WORKER('async () => 1')}`,
    of: undefined,
  },
  'the same, its processor wrapped': {
    code: `const bullmq = await import('bullmq'); const oncefleet = await import(${ONCEFLEET});${WORKER(WRAPPED)}`,
    of: 'a Worker of BullMQ, connected',
  },
} as const;
type Subject = keyof typeof SUBJECTS;

interface Finding {
  subject: Subject;
  round: number;
  ms: number;
  rssMb: number;
}

export const importBench: Bench = {
  name: 'import',
  summary: "time and memory of import 'oncefleet' and of a first wrapped worker, beside BullMQ's",
  packages: ['bullmq', 'ioredis', 'kysely', 'pg', 'pino', 'zod'],
  method: [
    'The package is built, as it is published. Every figure is of a Node process of its own; the cases take turns, one after another, and a first round is left out, so that all files are in memory.',
    '',
    '- Time: from before the first import until it has resolved; of a worker, until it is connected to Redis. Starting Node is not in it.',
    '- Memory: resident, after a forced collection.',
    "- Ratio: the median of the ratios within each round. Of memory, of the whole process: `import 'oncefleet'` loads its parts with the first call, so that the last row is what a process has paid once it works.",
  ].join('\n'),
  options: { rounds: { about: 'how often each case is measured' } },
  plan,
};

function plan({ quick, own }: BenchOptions): (context: BenchContext) => Promise<BenchResult> {
  const rounds = numberOption(own, 'rounds', quick ? ROUNDS.quick : ROUNDS.whole);
  return (context) => measureAll(context, rounds);
}

async function measureAll({ services, signal, say }: BenchContext, rounds: number): Promise<BenchResult> {
  // Not into dist, which another process may be packing.
  const compiler = join(ROOT, 'node_modules/typescript/bin/tsc');
  await run(process.execPath, [compiler, '-p', 'tsconfig.build.json', '--outDir', BUILD], { cwd: ROOT, signal });
  const db = createDb({
    url: services.databaseUrl,
    maxConnections: 1,
    applicationName: 'oncefleet bench',
    onError: () => {},
  });
  await migrate(db.kysely).finally(() => db.close());
  const env = { ...process.env, DATABASE_URL: services.databaseUrl, REDIS_URL: services.redisUrl };
  const findings: Finding[] = [];
  for (let round = 0; round <= rounds; round++) {
    for (const subject of Object.keys(SUBJECTS) as Subject[]) {
      const found = await measure(subject, { env, signal });
      if (round > 0) findings.push({ subject, round, ...found });
    }
    say(`Round ${round} of ${rounds}${round === 0 ? ', which is left out' : ''}`);
  }
  return report(findings, rounds);
}

async function measure(
  subject: Subject,
  options: { env: NodeJS.ProcessEnv; signal: AbortSignal },
): Promise<{ ms: number; rssMb: number }> {
  const code = `
    const begun = performance.now();
    ${SUBJECTS[subject].code}
    const ms = performance.now() - begun;
    gc();
    process.stdout.write(JSON.stringify({ ms, rssMb: process.memoryUsage.rss() / 1e6 }), () => process.exit());`;
  const args = ['--expose-gc', '--input-type=module', '-e', code];
  const { stdout } = await run(process.execPath, args, { cwd: ROOT, ...options });
  return JSON.parse(stdout) as { ms: number; rssMb: number };
}

interface Summary {
  subject: Subject;
  ms: Spread;
  rssMb: Spread;
  msRatio: number | undefined;
  rssRatio: number | undefined;
}

function report(findings: readonly Finding[], rounds: number): BenchResult {
  const summaries = [...grouped(findings, ({ subject }) => subject)].map((group): Summary => {
    const { subject } = group[0];
    const base = findings.filter((finding) => finding.subject === SUBJECTS[subject].of);
    const ratioOf = (figure: 'ms' | 'rssMb') =>
      medianRatio(
        group.map((finding) => [finding.round, finding[figure]] as const),
        new Map(base.map((finding) => [finding.round, finding[figure]])),
      );
    return {
      subject,
      ms: spread(group.map(({ ms }) => ms)),
      rssMb: spread(group.map(({ rssMb }) => rssMb)),
      msRatio: ratioOf('ms'),
      rssRatio: ratioOf('rssMb'),
    };
  });
  const shown = (ratio: number | undefined) => (ratio === undefined ? '' : `${digits(ratio, 2)} x`);
  return {
    rows: summaries.map(({ subject, ms, rssMb, msRatio, rssRatio }) => ({
      case: subject,
      rounds,
      msMin: digits(ms.min),
      msMedian: digits(ms.median),
      msMax: digits(ms.max),
      rssMbMin: digits(rssMb.min),
      rssMbMedian: digits(rssMb.median),
      rssMbMax: digits(rssMb.max),
      ...(msRatio === undefined || rssRatio === undefined
        ? {}
        : { msRatio: digits(msRatio), rssRatio: digits(rssRatio) }),
    })),
    tables: [
      {
        title: 'Import',
        about: `Medians of ${rounds} processes each; ratios to the row of BullMQ above.`,
        columns: ['', 'ms', 'ratio', 'MB', 'ratio'],
        rows: summaries.map(({ subject, ms, rssMb, msRatio, rssRatio }) => [
          subject,
          formatNumber(ms.median),
          shown(msRatio),
          formatNumber(rssMb.median),
          shown(rssRatio),
        ]),
      },
    ],
    charts: [
      {
        name: 'import',
        chart: {
          title: 'From a fresh process',
          subtitle: 'Medians, with the least and the most.',
          groups: summaries.map(({ subject }) => subject),
          series: [
            { name: 'time', values: summaries.map(({ ms }) => ({ value: ms.median, min: ms.min, max: ms.max })) },
          ],
          unit: 'ms',
        },
      },
    ],
  };
}
