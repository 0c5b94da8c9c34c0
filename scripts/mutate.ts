/**
 * `npm run mutate`: takes each mechanism of test/mutations out of a copy of the source
 * and runs the test that must notice; with `--faults` those of test/mutations/faults.ts, and the
 * tests that kill, freeze and cut off real processes. The working tree is not touched.
 */
import { spawn } from 'node:child_process';
import { cp, mkdir, mkdtemp, readFile, symlink, writeFile } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import { watchdog } from '../src/testing/services/child.ts';
import { faults } from '../test/mutations/faults.ts';
import { mutations } from '../test/mutations/list.ts';
import {
  type Mutation,
  mutate,
  type Trial,
  titlePattern,
  trialOfFault,
  trialOfMutation,
} from '../test/mutations/mutation.ts';
import { Screen } from './demo/screen.ts';
import { exitCodeOf, listenForStop } from './entry.ts';
import { ROOT } from './root.ts';
import { startServices } from './services.ts';

const USAGE = `Usage: npm run mutate [-- <part of a name, file or mechanism>…] [--faults] [--list]

  --faults  those that hold a promise while machines die, each with its test of real faults
  --list    what there is and the test that goes red, without running it`;

/** Neither needed by a test run nor small. */
const LEFT_OUT = new Set(['node_modules', '.git', '.oncefleet', 'dist', 'coverage']);

/** Each runs one test at a time, which mostly waits. */
const LANES = Math.min(2, availableParallelism());

/** A test that hangs without its mechanism fails after this long. */
const TEST_LIMIT_MS = 25_000;
const HOOK_LIMIT_MS = 10_000;
const POLL_LIMIT_MS = 10_000;

/** A vitest process that does not end is ended. */
const RUN_LIMIT_MS = 300_000;
const GRACE_MS = 5_000;

type Verdict = 'red' | 'green' | 'broken';

interface Outcome {
  verdict: Verdict;
  /** Why it is red or broken, on one line. */
  why: string;
}

interface Report {
  numPassedTests: number;
  numFailedTests: number;
  testResults: { message: string; assertionResults: { status: string; title: string; failureMessages: string[] }[] }[];
}

const screen = new Screen(process.stdout, process.env);
const stop = listenForStop();
process.stdout.on('error', () => {});

const code = await main(process.argv.slice(2));
process.stdout.write('', () => process.exit(code));

async function main(args: readonly string[]): Promise<number> {
  const flags = new Set(args.filter((arg) => arg.startsWith('-')));
  const filters = args.filter((arg) => !arg.startsWith('-'));
  const unknown = flags.difference(new Set(['--faults', '--list']));
  if (unknown.size > 0) {
    screen.line(USAGE);
    return flags.has('--help') ? 0 : 2;
  }
  const trials = flags.has('--faults')
    ? faults.map((fault) => trialOfFault(fault, mutations))
    : mutations.map(trialOfMutation);
  const wanted = trials.filter((trial) => filters.length === 0 || filters.some((filter) => fits(trial, filter)));
  if (wanted.length === 0) {
    screen.line(`No mutation fits ${filters.join(', ')}`);
    return 2;
  }
  if (flags.has('--list')) {
    for (const trial of wanted) {
      screen.line(`${trial.name.padEnd(28)} ${trial.mechanism} (${filesOf(trial)})`);
      screen.line(`${' '.repeat(28)} ${trial.test}: ${trial.title}`);
    }
    return 0;
  }
  try {
    return await run(wanted);
  } catch (error) {
    if (stop.signal.aborted) {
      screen.line('Stopped.');
      return exitCodeOf(stop.by ?? 'SIGTERM');
    }
    screen.block(error instanceof Error ? error.message : String(error));
    return 1;
  }
}

function fits(trial: Trial, filter: string): boolean {
  return [trial.name, filesOf(trial), trial.mechanism].some((text) =>
    text.toLowerCase().includes(filter.toLowerCase()),
  );
}

function filesOf({ mutations }: Trial): string {
  return [...new Set(mutations.map(({ file }) => file))].join(', ');
}

async function run(wanted: readonly Trial[]): Promise<number> {
  const services = await startServices({
    kind: 'mutate',
    databaseUrl: process.env.DATABASE_URL,
    redisUrl: process.env.REDIS_URL,
    durable: false,
    say: (line) => screen.line(line),
  });
  const folder = await mkdtemp(join(tmpdir(), 'oncefleet-mutate-'));
  watchdog.remove(folder);
  try {
    const env = { DATABASE_URL: services.databaseUrl, REDIS_URL: services.redisUrl };
    const lanes = await Promise.all(Array.from({ length: LANES }, (_, i) => copyOfClone(join(folder, String(i)))));
    stop.signal.throwIfAborted();
    const broken = await checkUnmutated(wanted, lanes[0] as string, env);
    const survivors = await mutateAll(wanted, broken, lanes, env);
    return survivors === 0 ? 0 : 1;
  } finally {
    await services.stop();
    await watchdog.removeNow(folder);
  }
}

async function copyOfClone(folder: string): Promise<string> {
  await mkdir(folder, { recursive: true });
  await cp(ROOT, folder, {
    recursive: true,
    filter: (path) => !LEFT_OUT.has(path.slice(ROOT.length).replace(/[/\\]$/, '')),
  });
  await symlink(join(ROOT, 'node_modules'), join(folder, 'node_modules'), 'junction');
  return folder;
}

/** A red test proves something only if it is green without the mutation. @returns mutations whose test is not */
async function checkUnmutated(
  wanted: readonly Trial[],
  folder: string,
  env: NodeJS.ProcessEnv,
): Promise<Map<Trial, string>> {
  const broken = new Map<Trial, string>();
  const byFile = Map.groupBy(wanted, ({ test }) => test);
  for (const [test, itsMutations] of byFile) {
    screen.line(`Without mutations: ${test}`);
    const { report, output } = await vitest(folder, test, new Set(itsMutations.map(({ title }) => title)), env, false);
    const results = report?.testResults.flatMap(({ assertionResults }) => assertionResults) ?? [];
    for (const mutation of itsMutations) {
      const title = new RegExp(titlePattern([mutation.title]));
      const its = results.filter((result) => title.test(result.title) && result.status !== 'skipped');
      const failed = its.find((result) => result.status !== 'passed');
      if (its.length === 0) broken.set(mutation, `no such test ran: ${lastLine(output)}`);
      else if (failed !== undefined)
        broken.set(mutation, `fails without the mutation: ${firstLine(failed.failureMessages[0])}`);
    }
  }
  return broken;
}

/** @returns how many were not red */
async function mutateAll(
  wanted: readonly Trial[],
  broken: ReadonlyMap<Trial, string>,
  lanes: readonly string[],
  env: NodeJS.ProcessEnv,
): Promise<number> {
  const counts = { red: 0, green: 0, broken: 0 };
  const waiting = [...wanted];
  const width = String(wanted.length).length;
  const bad: string[] = [];
  await Promise.all(
    lanes.map(async (folder) => {
      for (let mutation = waiting.shift(); mutation !== undefined; mutation = waiting.shift()) {
        const startedAt = performance.now();
        const already = broken.get(mutation);
        const outcome: Outcome =
          already === undefined ? await tryMutation(mutation, folder, env) : { verdict: 'broken', why: already };
        counts[outcome.verdict]++;
        const done = counts.red + counts.green + counts.broken;
        const seconds = ((performance.now() - startedAt) / 1_000).toFixed(1);
        const line = `${outcome.verdict.padEnd(6)} ${mutation.name.padEnd(26)} ${outcome.why.slice(0, 110)}`;
        screen.line(
          `${String(done).padStart(width)}/${wanted.length}  ${seconds.padStart(5)} s  ${screen.style(outcome.verdict === 'red' ? 'green' : 'red', line)}`,
        );
        if (outcome.verdict !== 'red')
          bad.push(
            `${line}\n         ${filesOf(mutation)}: ${mutation.mechanism}\n         ${mutation.test}: ${mutation.title}`,
          );
      }
    }),
  );
  screen.line();
  for (const line of bad) screen.block(line);
  screen.line(`${counts.red} red, ${counts.green} survived, ${counts.broken} broken`);
  return counts.green + counts.broken;
}

/** Several mutations must be red together, and green with any one of them left in place. */
async function tryMutation(trial: Trial, folder: string, env: NodeJS.ProcessEnv): Promise<Outcome> {
  for (const left of trial.mutations.length > 1 ? trial.mutations : []) {
    const others = trial.mutations.filter((mutation) => mutation !== left);
    const { verdict, why } = await takeOut(others, trial, folder, env);
    if (verdict !== 'green') return { verdict: 'broken', why: `${verdict} with ${left.name} in place: ${why}` };
  }
  return takeOut(trial.mutations, trial, folder, env);
}

async function takeOut(
  mutations: readonly Mutation[],
  trial: Trial,
  folder: string,
  env: NodeJS.ProcessEnv,
): Promise<Outcome> {
  const sources = new Map<string, string>();
  try {
    for (const mutation of mutations) {
      const file = join(folder, mutation.file);
      const source = await readFile(file, 'utf8');
      if (!sources.has(file)) sources.set(file, source);
      await writeFile(file, mutate(source, mutation));
    }
    const { report, output } = await vitest(folder, trial.test, new Set([trial.title]), env, true);
    if (report === undefined) return { verdict: 'broken', why: `vitest did not end by itself: ${lastLine(output)}` };
    if (report.numFailedTests > 0) {
      const failed = report.testResults.flatMap(({ assertionResults }) => assertionResults);
      return { verdict: 'red', why: firstLine(failed.find(({ status }) => status === 'failed')?.failureMessages[0]) };
    }
    if (report.numPassedTests === 0)
      return { verdict: 'broken', why: firstLine(report.testResults[0]?.message) || 'no test ran' };
    return { verdict: 'green', why: '' };
  } catch (error) {
    if (stop.signal.aborted) throw error;
    return { verdict: 'broken', why: (error as Error).message };
  } finally {
    for (const [file, source] of sources) await writeFile(file, source);
  }
}

/** Runs the tests of a file that have one of the titles. `report` is missing when vitest had to be ended. */
async function vitest(
  folder: string,
  test: string,
  titles: ReadonlySet<string>,
  env: NodeJS.ProcessEnv,
  bail: boolean,
): Promise<{ report: Report | undefined; output: string }> {
  stop.signal.throwIfAborted();
  const reportFile = join(folder, 'report.json');
  await writeFile(reportFile, '');
  const args = [
    join(folder, 'node_modules/vitest/vitest.mjs'),
    'run',
    test,
    `--testNamePattern=${titlePattern([...titles])}`,
    '--reporter=json',
    `--outputFile=${reportFile}`,
    `--testTimeout=${TEST_LIMIT_MS}`,
    `--hookTimeout=${HOOK_LIMIT_MS}`,
    `--expect.poll.timeout=${POLL_LIMIT_MS}`,
    ...(bail ? ['--bail=1'] : []),
  ];
  // A process group of its own: the workers of a vitest that had to be killed go with it.
  const child = spawn(process.execPath, args, {
    cwd: folder,
    env: { ...process.env, ...env, BOOTSTRAP_PID: '' },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output = (output + text).slice(-10_000);
    });
  }
  const { pid } = child;
  if (pid === undefined) {
    await new Promise((_, reject) => child.once('error', reject));
    throw new Error('vitest did not start');
  }
  watchdog.watch(pid, { stopSignal: 'SIGTERM', graceMs: GRACE_MS, group: 1 });
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()));
  let killTimer: NodeJS.Timeout | undefined;
  const end = () => {
    signalGroup(pid, 'SIGTERM');
    killTimer = setTimeout(() => signalGroup(pid, 'SIGKILL'), GRACE_MS);
  };
  const limit = setTimeout(end, RUN_LIMIT_MS);
  stop.signal.addEventListener('abort', end, { once: true });
  try {
    await ended;
  } finally {
    watchdog.forget(pid);
    clearTimeout(limit);
    clearTimeout(killTimer);
    stop.signal.removeEventListener('abort', end);
  }
  stop.signal.throwIfAborted();
  const text = await readFile(reportFile, 'utf8');
  return { report: text === '' ? undefined : (JSON.parse(text) as Report), output };
}

function signalGroup(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-pid, signal);
  } catch {
    // Gone already.
  }
}

function firstLine(text = ''): string {
  return stripVTControlCharacters(text).trim().split('\n')[0] ?? '';
}

function lastLine(text: string): string {
  return stripVTControlCharacters(text).trim().split('\n').at(-1) ?? '';
}
