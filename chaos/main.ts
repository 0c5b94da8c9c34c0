/**
 * `npm run chaos`: real web and worker processes, real Postgres and Redis, faults by the
 * dozen, and a checker that believes nobody.
 *
 *   npm run chaos -- --seconds 120 --seed 7
 *   npm run chaos -- --only freeze,hold-postgres
 *   npm run chaos -- recovery
 */
import { randomInt } from 'node:crypto';
import { cp, mkdir, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { exitCodeOf, listenForStop } from '../scripts/entry.ts';
import { type Services, startServices } from '../scripts/services.ts';
import { watchdog } from '../src/testing/services/child.ts';
import { check } from './checker.ts';
import { writeRecovery, writeRun } from './page.ts';
import { FAULTS, type Fault, planFaults } from './plan.ts';
import { FAKETIME } from './processes.ts';
import { measureRecovery } from './recovery.ts';
import { count, formatCounts, jobHistory, readLogs } from './report.ts';
import { runChaos } from './run.ts';

const USAGE = `npm run chaos -- [options]            break the system, then check what it promised
npm run chaos -- recovery [options]   measure how long it takes to recover

      --seconds N    how long faults continue; default 60
      --seed N       decides which faults strike and what jobs do (when they meet is up to the machine); printed, by default random
      --only A,B     these faults alone
      --lanes N      jobs that each of two producers has under way at once; default 10
      --keep FOLDER  copies logs and histories there
      --verbose      says every fault
      --write        puts the figures into docs/internals/reliability.md

Faults:
${Object.entries(FAULTS)
  .map(([name, { about }]) => `      ${name.padEnd(18)}${about}`)
  .join('\n')}
`;

/** Violations whose jobs are shown in full. */
const MAX_SHOWN = 3;
const MAX_LISTED = 40;

class UsageError extends Error {}

const stop = listenForStop();
const say = (line: string) => void process.stderr.write(`${line}\n`);

let code: number;
try {
  code = await main(process.argv.slice(2));
} catch (error) {
  if (stop.by !== undefined) {
    say('Stopped.');
    code = exitCodeOf(stop.by);
  } else {
    say(error instanceof UsageError ? error.message : ((error as Error).stack ?? String(error)));
    code = error instanceof UsageError ? 2 : 1;
  }
}
// Whatever is still open must not keep a finished run alive; the watchdog sees to it.
process.stdout.write('', () => process.exit(code));

async function main(args: string[]): Promise<number> {
  const options = parse(args);
  if (options === undefined) {
    process.stdout.write(USAGE);
    return 0;
  }
  // Its own servers whatever the environment says: nobody's Redis is to be flushed.
  if (process.env.DATABASE_URL !== undefined || process.env.REDIS_URL !== undefined)
    say('DATABASE_URL and REDIS_URL are not used: chaos breaks servers of its own');
  const services = await startServices({ kind: 'chaos', durable: true, say });
  const folder = await mkdtemp(join(tmpdir(), 'oncefleet-chaos-'));
  watchdog.remove(folder);
  try {
    await mkdir(join(folder, 'logs'));
    stop.signal.throwIfAborted();
    return options.command === 'recovery'
      ? await recovery(services, folder, options)
      : await chaos(services, folder, options);
  } finally {
    if (options.keep !== undefined) await cp(folder, options.keep, { recursive: true });
    await services.stop();
    await watchdog.removeNow(folder);
  }
}

type Options = NonNullable<ReturnType<typeof parse>>;

async function chaos(services: Services, folder: string, options: Options): Promise<number> {
  const { seed, seconds, only } = options;
  process.stdout.write(`seed ${seed}, ${seconds} s${only === undefined ? '' : `, only ${only.join(', ')}`}\n`);
  if (FAKETIME === undefined) say('Clocks are not skewed: libfaketime is not installed');
  const { evidence, faults, deaths } = await runChaos({
    services,
    folder,
    seed,
    seconds,
    plan: planFaults(seed, seconds, only),
    lanes: options.lanes,
    signal: stop.signal,
    say: options.verbose ? say : () => {},
    progress: say,
  });
  const logs = readLogs(folder);
  const violations = check(evidence);
  const counts = count(evidence, logs, deaths);
  process.stdout.write(`faults          ${[...faults].map(([fault, n]) => `${n} ${fault}`).join(', ')}\n`);
  process.stdout.write(`${formatCounts(counts).join('\n')}\n`);
  if (violations.length === 0) {
    process.stdout.write(`every promise held; seed ${seed}\n`);
    if (options.write) await writeRun({ seed, seconds, faults, counts });
    return 0;
  }
  const shown = [...new Set(violations.flatMap(({ jobId }) => (jobId === undefined ? [] : [jobId])))].slice(
    0,
    MAX_SHOWN,
  );
  for (const jobId of shown) process.stdout.write(`\n${jobHistory(jobId, evidence, logs)}\n`);
  process.stdout.write(`\n${violations.length} violations; seed ${seed}\n`);
  for (const { assertion, jobId, what } of violations.slice(0, MAX_LISTED))
    process.stdout.write(`  ${assertion}: ${jobId ?? ''} ${what}\n`);
  return 1;
}

async function recovery(services: Services, folder: string, options: Options): Promise<number> {
  const figures = await measureRecovery({ services, folder, signal: stop.signal, say });
  for (const { what, text } of figures.rows) process.stdout.write(`${what.padEnd(62)} ${text}\n`);
  if (options.write) await writeRecovery(figures);
  for (const problem of figures.problems) say(problem);
  return figures.problems.length === 0 ? 0 : 1;
}

function parse(args: string[]) {
  let parsed: ReturnType<typeof parseOptions>;
  try {
    parsed = parseOptions(args);
  } catch (error) {
    throw new UsageError(`${(error as Error).message}\n\n${USAGE}`);
  }
  const { values, positionals } = parsed;
  if (values.help) return undefined;
  const [command = 'run', ...rest] = positionals;
  if (!['run', 'recovery'].includes(command) || rest.length > 0)
    throw new UsageError(`${positionals.join(' ')} is not a command\n\n${USAGE}`);
  const only = values.only?.split(',').map((fault) => fault.trim());
  const unknown = only?.filter((fault) => !Object.hasOwn(FAULTS, fault));
  if (unknown !== undefined && unknown.length > 0)
    throw new UsageError(`No fault is called ${unknown.join(', ')}\n\n${USAGE}`);
  return {
    command,
    seconds: wholeNumber('--seconds', values.seconds, 1, 86_400) ?? 60,
    seed: wholeNumber('--seed', values.seed, 0, 2 ** 32 - 1) ?? randomInt(2 ** 32),
    lanes: wholeNumber('--lanes', values.lanes, 1, 200) ?? 10,
    only: only as Fault[] | undefined,
    keep: values.keep,
    verbose: values.verbose,
    write: values.write,
  };
}

function parseOptions(args: string[]) {
  return parseArgs({
    args,
    allowPositionals: true,
    options: {
      seconds: { type: 'string' },
      seed: { type: 'string' },
      only: { type: 'string' },
      lanes: { type: 'string' },
      keep: { type: 'string' },
      verbose: { type: 'boolean', default: false },
      write: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
}

function wholeNumber(option: string, text: string | undefined, min: number, max: number): number | undefined {
  if (text === undefined) return undefined;
  if (!/^\d+$/.test(text) || Number(text) < min || Number(text) > max)
    throw new UsageError(`${option}: expected a whole number from ${min} to ${max}`);
  return Number(text);
}
