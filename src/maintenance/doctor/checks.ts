/** Checks of the servers and of each queue: settings and states that will cause an incident. */
import type { Queue } from 'bullmq';
import { findClock, findUnknownNames, type ServerState } from '../../db/doctor.ts';
import { findWaitingAlerts } from '../../db/poison-alerts.ts';
import { findRoundAge } from '../../db/reconcile.ts';
import { findBehind } from '../../db/schedules.ts';
import { findSessionProblems } from '../../db/session.ts';
import type { AnyJobDefinition } from '../../jobs/define-job.ts';
import type { Runtime } from '../../runtime/runtime.ts';
import { UNKNOWN_ALERT_MS } from '../../runtime/unknown-names.ts';
import { type Finding, oneOfAKind, type Trouble } from './diagnosis.ts';

/** Clocks further apart than this are reported. */
const MAX_SKEW_MS = 2_000;

/** A reconciler whose last round ended longer ago is missing. */
const ROUND_OVERDUE_MS = 60_000;

/** An alert whose `onPoison` has not resolved after this has failed several times, or no worker has the job. */
const ALERT_OVERDUE_MS = 300_000;

/** A transaction that is open for longer keeps Postgres from cleaning up. */
const LONG_TRANSACTION_MS = 600_000;

/** More dead rows than this, and more than live ones, are bloat. */
const MANY_DEAD_ROWS = 100_000;

const MIN_POSTGRES = 140_000;
const MIN_REDIS: readonly [number, number] = [6, 2];

type Report = (kind: Trouble, message: string, remedy: string) => void;

/** @returns one finding a kind */
export async function findTroubles(
  runtime: Runtime,
  jobs: ReadonlyMap<string, AnyJobDefinition>,
  server: ServerState,
): Promise<Finding[]> {
  const troubles: Finding[] = [];
  const report: Report = (kind, message, remedy) => {
    troubles.push({ kind, message, remedy, count: 0, repaired: 0, jobs: [] });
  };
  if (server.version < MIN_POSTGRES)
    report('postgres-old', `Postgres is ${Math.floor(server.version / 10_000)}, older than 14.`, 'Upgrade it.');
  checkLocale(server, report);
  for (const { message, remedy } of await findSessionProblems(runtime.db.kysely))
    report('postgres-settings', message, remedy);
  await checkRedis(runtime, report);
  await checkClocks(runtime, report);
  checkTables(server, report);
  const listed = await checkQueues(runtime, report);
  await checkReconciler(runtime, server.unfinished + listed, report);
  await checkNames(runtime, jobs, report);
  await checkAlerts(runtime, report);
  await checkSchedules(runtime, report);
  return oneOfAKind(troubles);
}

/** A tick that is later than this has met no worker that knows its job. */
const TICK_OVERDUE_MS = 60_000;

async function checkSchedules({ db }: Runtime, report: Report): Promise<void> {
  for (const { tenant, name, jobName, lateMs } of await findBehind(db.kysely, {
    overdueMs: TICK_OVERDUE_MS,
    limit: 100,
  }))
    report(
      'schedules-behind',
      `Schedule ${name} of ${tenant} is ${Math.round(lateMs / 1_000)} s late: no worker that runs knows its job ${jobName}.`,
      'Start a worker that has the job, or pause or remove the schedule.',
    );
}

/** In these, no character beyond ASCII is a letter with a capital, and all of them are letters to text search. */
const PLAIN_LOCALES: ReadonlySet<string> = new Set(['C', 'POSIX']);

function checkLocale({ ctype }: ServerState, report: Report): void {
  if (!PLAIN_LOCALES.has(ctype)) return;
  report(
    'database-locale',
    `LC_CTYPE of the database is ${ctype}: Postgres takes quotation marks and dashes for letters, and knows no capitals beyond ASCII.`,
    'Create the database with a locale such as C.UTF-8 or en_US.UTF-8, and move the tables.',
  );
}

async function checkRedis({ redis }: Runtime, report: Report): Promise<void> {
  const info = await redis.info();
  const field = (name: string) => new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1];
  const version = field('valkey_version') ?? field('redis_version') ?? '0';
  const [major = 0, minor = 0] = version.split('.').map(Number);
  if (major < MIN_REDIS[0] || (major === MIN_REDIS[0] && minor < MIN_REDIS[1]))
    report('redis-old', `Redis is ${version}, older than ${MIN_REDIS.join('.')}.`, 'Upgrade it.');
  const policy = field('maxmemory_policy');
  if (policy !== undefined && policy !== 'noeviction')
    report(
      'redis-evicts',
      `Redis may evict what BullMQ keeps: its maxmemory-policy is ${policy}. Jobs are found again, but late.`,
      'Set maxmemory-policy to noeviction.',
    );
}

/** How far the clocks are apart, as far as a question and its answer can tell. */
async function checkClocks({ db, redis }: Runtime, report: Report): Promise<void> {
  const skewOf = async (ask: () => Promise<number>): Promise<number> => {
    const before = Date.now();
    const theirs = await ask();
    const after = Date.now();
    return theirs < before ? theirs - before : Math.max(0, theirs - after);
  };
  const skews = {
    Postgres: await skewOf(() => findClock(db.kysely)),
    Redis: await skewOf(async () => {
      const [s = 0, us = 0] = (await redis.time()).map(Number);
      return s * 1_000 + us / 1_000;
    }),
  };
  for (const [name, skew] of Object.entries(skews)) {
    if (Math.abs(skew) <= MAX_SKEW_MS) continue;
    const by = `${(Math.abs(skew) / 1_000).toFixed(1)} s ${skew > 0 ? 'ahead of' : 'behind'} this machine's`;
    report(
      'clock-skew',
      `The clock of ${name} is ${by}: delayed jobs start early or late by that.`,
      'Run an NTP client on all machines.',
    );
  }
}

function checkTables({ oldestTransactionMs, tables }: ServerState, report: Report): void {
  if (oldestTransactionMs !== null && oldestTransactionMs > LONG_TRANSACTION_MS)
    report(
      'long-transaction',
      `A transaction has been open for ${minutes(oldestTransactionMs)}: Postgres cannot clean up what it may still see.`,
      'Find it in pg_stat_activity and end it.',
    );
  for (const { name, live, dead } of tables)
    if (dead > MANY_DEAD_ROWS && dead > live)
      report(
        'dead-rows',
        `${name} has ${dead} dead rows and ${live} live ones: statements become slow.`,
        `Run \`vacuum ${name}\`; is autovacuum on?`,
      );
}

/** @returns how many jobs BullMQ has in all queues, waiting, delayed and active */
async function checkQueues({ dispatcher }: Runtime, report: Report): Promise<number> {
  let listed = 0;
  for (const queue of dispatcher.queues) {
    const counts = await queue.getJobCounts('waiting', 'prioritized', 'delayed', 'active');
    const all = Object.values(counts).reduce((sum, count) => sum + count, 0);
    listed += all;
    if (await queue.isPaused())
      report(
        'queue-paused',
        `Queue ${queue.name} is paused: its jobs wait.`,
        'Resume it in Bull Board, unless it is meant to wait.',
      );
    if (all > 0 && (await countWorkers(queue)) === 0)
      report(
        'no-workers',
        `Queue ${queue.name} has ${all} ${all === 1 ? 'job' : 'jobs'} and no worker.`,
        'Start one: `oncefleet work`.',
      );
  }
  return listed;
}

/** @returns 1 where a hosted Redis refuses CLIENT LIST: then nothing is reported */
async function countWorkers(queue: Queue): Promise<number> {
  return queue.getWorkersCount().catch(() => 1);
}

async function checkReconciler({ db }: Runtime, work: number, report: Report): Promise<void> {
  const age = await findRoundAge(db.kysely);
  if (work > 0 && (age === undefined || age > ROUND_OVERDUE_MS))
    report(
      'no-reconciler',
      age === undefined ? 'No worker looks for lost work.' : `No worker has looked for lost work for ${minutes(age)}.`,
      'Start a worker (`oncefleet work`): each looks after all queues.',
    );
}

async function checkNames({ db }: Runtime, jobs: ReadonlyMap<string, AnyJobDefinition>, report: Report): Promise<void> {
  for (const { name, count } of await findUnknownNames(db.kysely, [...jobs.keys()], UNKNOWN_ALERT_MS))
    report(
      'unknown-names',
      `${count} ${count === 1 ? 'job' : 'jobs'} named ${JSON.stringify(name)} ${count === 1 ? 'has' : 'have'} waited for more than a day, and this process does not know the name.`,
      'Deploy a worker that has this job, or cancel the jobs. Where other workers have it, name their modules in ONCEFLEET_JOBS here too.',
    );
}

async function checkAlerts({ db }: Runtime, report: Report): Promise<void> {
  for (const { name, count } of await findWaitingAlerts(db.kysely, ALERT_OVERDUE_MS))
    report(
      'poison-alerts',
      `${count} poisoned ${count === 1 ? 'job' : 'jobs'} named ${name} ${count === 1 ? 'waits for its' : 'wait for their'} onPoison.`,
      'Start a worker that has this job, or see in the logs why its onPoison fails.',
    );
}

function minutes(ms: number): string {
  return ms < 120_000 ? `${Math.round(ms / 1_000)} s` : `${Math.round(ms / 60_000)} min`;
}
