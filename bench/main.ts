/**
 * Runs a bench on private, durable servers, or on those that DATABASE_URL and REDIS_URL name.
 *
 *   npm run bench                              lists the benches
 *   npm run bench -- jobs                      runs one and prints its tables
 *   npm run bench -- jobs --json figures.json  writes its figures as well
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { exitCodeOf, listenForStop } from '../scripts/entry.ts';
import { startServices } from '../scripts/services.ts';
import { abuseBench } from './abuse/bench.ts';
import { bulkBench } from './bulk/bench.ts';
import { dialectsBench } from './dialects/bench.ts';
import { fairnessBench } from './fairness/bench.ts';
import { fanoutBench } from './fanout/bench.ts';
import { importBench } from './import/bench.ts';
import { ingestBench } from './ingest/bench.ts';
import { jobSearchBench } from './job-search/bench.ts';
import { jobsBench } from './jobs/bench.ts';
import { journalBench } from './journal/bench.ts';
import { latencyBench } from './latency/bench.ts';
import { type Bench, type OptionsConfig, UsageError } from './lib/bench.ts';
import { toSvg } from './lib/chart.ts';
import { describeMachine, load, type Machine, machineLine } from './lib/machine.ts';
import { type BenchReport, toPage } from './lib/page.ts';
import { toMarkdown } from './lib/table.ts';
import { replayBench } from './replay/bench.ts';
import { retrievalBench } from './retrieval/bench.ts';
import { soakBench } from './soak/bench.ts';

const BENCHES: readonly Bench[] = [
  jobsBench,
  journalBench,
  latencyBench,
  fanoutBench,
  replayBench,
  soakBench,
  importBench,
  bulkBench,
  retrievalBench,
  ingestBench,
  abuseBench,
  fairnessBench,
  dialectsBench,
  jobSearchBench,
];

const DOCS = fileURLToPath(new URL('../docs/benchmarks/', import.meta.url));

const COMMON = {
  json: { type: 'string' },
  quick: { type: 'boolean', default: false },
  write: { type: 'boolean', default: false },
} as const satisfies OptionsConfig;

const COMMON_HELP = [
  ['--json FILE', 'also write the figures as JSON'],
  ['--quick', 'a short run that only shows that everything works'],
  ['--write', 'also write docs/benchmarks/<name>.md and its chart'],
] as const;

const stop = listenForStop();
try {
  await main(process.argv.slice(2));
} catch (error) {
  if (stop.by === undefined)
    process.stderr.write(`${error instanceof UsageError ? error.message : ((error as Error).stack ?? error)}\n`);
  process.exitCode = stop.by === undefined ? (error instanceof UsageError ? 2 : 1) : exitCodeOf(stop.by);
}

async function main(args: readonly string[]): Promise<void> {
  const [name] = args;
  if (name === undefined || name === '--help') {
    process.stdout.write(usage());
    return;
  }
  const bench = BENCHES.find((candidate) => candidate.name === name);
  if (bench === undefined) throw new UsageError(`No bench is called ${name}.\n\n${usage()}`);
  const { common, own } = parse(bench, args);
  if (common.quick && common.write) throw new UsageError('--quick figures are not worth keeping: leave out --write');

  const run = bench.plan({ quick: common.quick, own });
  const say = (line: string) => process.stderr.write(`${line}\n`);
  const startedAt = performance.now();
  const services = await startServices({
    kind: 'bench',
    databaseUrl: process.env.DATABASE_URL,
    redisUrl: process.env.REDIS_URL,
    durable: true,
    say,
  });
  try {
    const before = await describeMachine(services, bench.packages);
    const { rows, tables, charts } = await run({ services, signal: stop.signal, say });
    const machine: Machine = { ...before, loadAverageAfter: load() };
    const command = ['npm run bench --', ...args].join(' ');
    const report: BenchReport = {
      bench,
      command,
      quick: common.quick,
      machine,
      tables,
      charts: charts.map(({ name, chart }) => ({ name, title: chart.title })),
    };
    for (const table of tables) process.stdout.write(`\n${table.title}\n\n${toMarkdown(table)}\n`);
    process.stdout.write(`\n${machineLine(machine)}\n`);
    say(`Took ${Math.round((performance.now() - startedAt) / 1_000)} s`);
    if (common.json !== undefined) {
      await mkdir(dirname(common.json), { recursive: true });
      await writeFile(
        common.json,
        `${JSON.stringify({ bench: bench.name, quick: common.quick, machine, rows }, null, 2)}\n`,
      );
    }
    if (common.write) {
      await mkdir(DOCS, { recursive: true });
      for (const { name, chart } of charts) await writeFile(join(DOCS, `${name}.svg`), toSvg(chart));
      await writeFile(join(DOCS, `${bench.name}.md`), toPage(report));
      say(`Wrote docs/benchmarks/${bench.name}.md`);
    }
  } finally {
    await services.stop();
  }
}

function parse(bench: Bench, args: readonly string[]) {
  const own: OptionsConfig = Object.fromEntries(
    Object.keys(bench.options).map((option) => [option, { type: 'string' }]),
  );
  try {
    const { values } = parseArgs({ args: [...args], options: { ...own, ...COMMON }, allowPositionals: true });
    const texts = Object.fromEntries(
      Object.keys(bench.options).map((option) => [option, values[option as keyof typeof values] as string | undefined]),
    );
    return {
      common: { json: values.json as string | undefined, quick: values.quick === true, write: values.write === true },
      own: texts,
    };
  } catch (error) {
    throw new UsageError(`${(error as Error).message}\n\n${usage()}`);
  }
}

function usage(): string {
  const option = (name: string, about: string) => `      ${name.padEnd(22)}${about}\n`;
  const benches = BENCHES.map(
    (bench) =>
      `  ${bench.name.padEnd(10)}${bench.summary}\n${Object.entries(bench.options)
        .map(([name, { about }]) => option(`--${name} …`, about))
        .join('')}`,
  );
  return `npm run bench -- <name> [options]\n\n${benches.join('\n')}\nOf every bench:\n${COMMON_HELP.map(([name, about]) => option(name, about)).join('')}`;
}
