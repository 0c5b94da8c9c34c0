/**
 * Tortures a handler: runs it once in peace and writes down each call it makes of its context,
 * then once for each fault at each of those calls, and compares.
 *
 * Everything happens in one process, so that hundreds of schedules take seconds. A crash is
 * a run that is abandoned: its calls never settle, its connections break, its lease is
 * backdated, another run takes over. What real processes do when they are killed is the matter
 * of crash points (docs/crash-points.md).
 */

import { randomUUID } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import type { Queue } from 'bullmq';
import type { Kysely } from 'kysely';
import pg from 'pg';
import { z } from 'zod';
import type { EventPage, JobHandle, JobRecord } from '../client/types.ts';
import { createDb, type Db } from '../db/client.ts';
import type { JobStatus } from '../db/jobs/states.ts';
import { isTerminalStatus } from '../db/jobs/states.ts';
import { asPlain, type QualifiedDatabase } from '../db/own-schema.ts';
import { LeaseLostError, OncefleetError, toIssues } from '../errors.ts';
import {
  type AnyJobDefinition,
  defineJob,
  definitionSchema,
  type JobContext,
  type JobDefinition,
} from '../jobs/define-job.ts';
import type { Cursor } from '../journal/cursor.ts';
import { isTerminalType, type JobEvent, type StreamEvent } from '../journal/event.ts';
import { aFunction, MAX_TIMER_MS, parseOptions, RANGES, wholeNumber } from '../options.ts';
import { within } from '../util/with-timeout.ts';
import { createFleet, type Fleet, type FleetWorker } from '../workers/fleet.ts';
import { type Call, FAULTS, type Fault, type Moment, RUN, type Schedule, SETTLE, schedulesOf } from './faults.ts';
import { createTestFleet, type TestFleet } from './test-fleet.ts';
import { TorturedCallError, TorturedRun } from './tortured-run.ts';

export type { Fault } from './faults.ts';

export interface TortureOptions<I, O> {
  /** What the handler gets, the same in every run; `undefined` unless told. */
  input?: I;
  /** Where to do it; a fleet of its own unless told. Rows in its tables do not survive: see `reset`. */
  fleet?: TestFleet;
  /** Once, before anything: makes the handler's tables. */
  setup?(world: { fleet: TestFleet; db: Kysely<QualifiedDatabase>; pool: pg.Pool }): Promise<void> | void;
  /** Before every run. Unless told, tables that were empty when torture began are emptied again, then and at the end. */
  reset?(world: { fleet: TestFleet; db: Kysely<QualifiedDatabase>; pool: pg.Pool }): Promise<void> | void;
  /** Throws where an invariant of yours does not hold. Called after every run, the first included. */
  check?(outcome: TortureOutcome<O>): Promise<void> | void;
  /** These schedules alone, by name, as a failure prints it. */
  only?: string | readonly string[];
  /** All of them unless told. */
  faults?: readonly Fault[];
  /** Of a call that the handler makes more often, so many are tortured. Default 8. */
  maxCalls?: number;
  /** What must be as in the run in peace. All of it unless told. */
  same?: { result?: boolean; stream?: boolean; rows?: boolean };
  /** How long one run of the job may take with its fault, ms. Default 10,000. */
  timeoutMs?: number;
}

/** What a run of the job has come to, all its attempts together. */
export interface TortureOutcome<O = unknown> {
  /** `in peace`, or as `only` takes it. */
  schedule: string;
  fleet: TestFleet;
  db: Kysely<QualifiedDatabase>;
  pool: pg.Pool;
  job: JobRecord;
  result: O | undefined;
  /** The stream as readers see it in the end: superseded events are gone. */
  events: JobEvent[];
  /** How often the handler was started. */
  runs: number;
  /** Rows that the job has added to each table that is not of the fleet's own bookkeeping. */
  rows: Record<string, number>;
}

export interface TortureFailure {
  schedule: string;
  problems: readonly string[];
}

export interface TortureReport {
  /** Names of the schedules that were run. */
  schedules: readonly string[];
  /** Calls of the run in peace, in order. */
  calls: readonly string[];
  /** Calls that were left alone because of `maxCalls`. */
  skippedCalls: number;
  /** Starts of the handler, all schedules together. */
  runs: number;
  durationMs: number;
}

/** The handler broke what torture or its caller checks. */
export class TortureError extends OncefleetError {
  readonly failures: readonly TortureFailure[];
  readonly report: TortureReport;

  constructor(job: string, failures: readonly TortureFailure[], report: TortureReport) {
    const list = failures.map(({ schedule, problems }) =>
      [
        `  ${schedule}`,
        ...problems.map((problem) => `    ${problem.replaceAll('\n', '\n    ')}`),
        `    again: torture(${job}, { …, only: '${schedule}' })`,
      ].join('\n'),
    );
    super(
      'TORTURE_FAILED',
      `${failures.length} of ${report.schedules.length} schedules broke job ${job}:\n${list.join('\n')}`,
    );
    this.failures = failures;
    this.report = report;
  }
}

const IN_PEACE: Schedule = { name: 'in peace', fault: 'none', call: RUN, moment: 'before' };

/** No lease runs out and no reconciler looks by itself: schedules decide when. */
const NEVER_MS = 3_600_000;

const POLL_MS = 5;

/** How long a zombie may go on after the job has ended, ms. */
const ZOMBIE_MS = 5_000;

/** The fleet's bookkeeping, which differs from run to run. */
const OWN_TABLES = [
  'jobs',
  'unfinished_jobs',
  'ended_attempts',
  'stream_heads',
  'journal_segments',
  'dispatch_outbox',
  'reconciler_rounds',
  'poison_alerts',
  'tenant_policies',
  'retention_marks',
  'retention_later',
  'applied_migrations',
];

/**
 * @param job a definition, or a handler alone (its input is not checked)
 * @throws TortureError a schedule broke an invariant; its message says which and how to run it again.
 *   OncefleetError INPUT_INVALID an option is none, or `only` names no schedule; SERVICE_MISSING
 */
export async function torture<I, O, E extends JobEvent = JobEvent>(
  job: JobDefinition<I, O, E> | ((input: I, ctx: JobContext) => Promise<O> | O),
  options: TortureOptions<I, O> = {},
): Promise<TortureReport> {
  checkOptions(job, options);
  const definition = typeof job === 'function' ? toDefinition(job) : (job as AnyJobDefinition);
  const fleet = options.fleet ?? (await createTestFleet());
  try {
    await options.setup?.({ fleet, db: asPlain(fleet.db), pool: fleet.pool });
    const chamber = await Chamber.open(definition, fleet, options as TortureOptions<unknown, unknown>);
    try {
      return await tortureIn(chamber, definition.name, options as TortureOptions<unknown, unknown>);
    } finally {
      await chamber.close();
    }
  } finally {
    if (options.fleet === undefined) await fleet.close();
  }
}

async function tortureIn(
  chamber: Chamber,
  name: string,
  options: TortureOptions<unknown, unknown>,
): Promise<TortureReport> {
  const startedAt = performance.now();
  const failures: TortureFailure[] = [];
  const peace = await chamber.run(IN_PEACE, undefined);
  const { schedules: all, skipped } = schedulesOf(
    peace.calls,
    new Set(options.faults ?? FAULTS),
    options.maxCalls ?? 8,
  );
  const schedules = choose(all, options.only);
  let { runs } = peace.outcome ?? { runs: 1 };
  if (peace.problems.length > 0) failures.push({ schedule: IN_PEACE.name, problems: peace.problems });
  else {
    for (const schedule of schedules) {
      const { outcome, problems } = await chamber.run(schedule, peace.outcome);
      runs += outcome?.runs ?? 0;
      if (problems.length > 0) failures.push({ schedule: schedule.name, problems });
    }
  }
  const report: TortureReport = {
    schedules: schedules.map((schedule) => schedule.name),
    calls: peace.calls.map(({ id }) => id),
    skippedCalls: skipped,
    runs,
    durationMs: Math.round(performance.now() - startedAt),
  };
  if (failures.length > 0) throw new TortureError(name, failures, report);
  return report;
}

/** Where schedules are run: a fleet whose one job is the tortured one. */
class Chamber {
  readonly #definition: AnyJobDefinition;
  readonly #world: TestFleet;
  readonly #options: TortureOptions<unknown, unknown>;
  readonly #fleet: Fleet;
  readonly #handlers: Db;
  readonly #emptied: readonly string[];
  #worker: FleetWorker | undefined;
  #trial: Trial | undefined;

  static async open(
    definition: AnyJobDefinition,
    world: TestFleet,
    options: TortureOptions<unknown, unknown>,
  ): Promise<Chamber> {
    const before = await countRows(world);
    const empty = Object.keys(before).filter((table) => before[table] === 0);
    const chamber = new Chamber(definition, world, options, empty);
    chamber.#worker = await chamber.#fleet.work();
    return chamber;
  }

  private constructor(
    definition: AnyJobDefinition,
    world: TestFleet,
    options: TortureOptions<unknown, unknown>,
    empty: readonly string[],
  ) {
    this.#definition = definition;
    this.#world = world;
    this.#options = options;
    this.#emptied = empty;
    this.#handlers = createDb({
      url: world.databaseUrl,
      schema: world.databaseSchema,
      maxConnections: 10,
      applicationName: 'oncefleet torture',
      onError: () => {},
    });
    const { lease: _lease, ...policy } = definition.policy;
    const tortured: AnyJobDefinition = {
      ...definition,
      // Not the queue that workers of the caller's fleet may listen to: its reconciler sees these rows too.
      queue: `${definition.queue.slice(0, 90)}-torture`,
      policy: {
        ...policy,
        // An error of ours must not be the last one allowed, nor make anybody wait.
        attempts: Math.max(policy.attempts, 3),
        maxCrashes: Math.max(policy.maxCrashes ?? 0, RANGES.maxCrashes.default),
        backoff: { type: 'fixed', delayMs: 0, jitter: 0 },
      },
      run: (input, ctx) => this.#runHandler(input, ctx as JobContext),
    };
    this.#fleet = createFleet({
      databaseUrl: world.databaseUrl,
      databaseSchema: world.databaseSchema,
      redisUrl: world.redisUrl,
      prefix: `${world.prefix.slice(0, 55)}-${randomUUID().slice(0, 8)}`,
      jobs: [tortured],
      leaseTtlMs: NEVER_MS,
      reconcileMs: NEVER_MS,
      concurrency: 50,
      shutdownMs: 0,
      databasePoolSize: 5,
    });
  }

  async close(): Promise<void> {
    await this.#fleet.close();
    await this.#handlers.close();
    if (this.#options.reset === undefined) await emptyTables(this.#world.pool, this.#emptied);
  }

  /** Runs the job once, with a fault, and says what is wrong with what came of it. */
  async run(
    schedule: Schedule,
    peace: TortureOutcome | undefined,
  ): Promise<{ outcome: TortureOutcome | undefined; calls: Call[]; problems: string[] }> {
    const { fleet: world, db, pool } = { fleet: this.#world, db: asPlain(this.#world.db), pool: this.#world.pool };
    if (this.#options.reset !== undefined) await this.#options.reset({ fleet: world, db, pool });
    else await emptyTables(pool, this.#emptied);
    const before = await countRows(this.#world);
    const trial = new Trial(this.#fleet, this.#worker as FleetWorker, pool, this.#definition.name, schedule);
    this.#trial = trial;
    const timeoutMs = this.#options.timeoutMs ?? 10_000;
    const input = 'input' in this.#options ? this.#options.input : null;
    const problems: string[] = [];
    try {
      await trial.start(input, randomUUID());
      if (!(await trial.ended(timeoutMs))) {
        problems.push(`the job has not ended within ${timeoutMs} ms`);
        return { outcome: undefined, calls: trial.calls, problems };
      }
      await trial.afterwards();
      await trial.settle();
      problems.push(...trial.problems);
      const outcome = await this.#outcomeOf(trial, before);
      problems.push(...this.#compare(trial, outcome, peace));
      try {
        await this.#options.check?.(outcome);
      } catch (error) {
        problems.push(error instanceof Error ? error.message : String(error));
      }
      return { outcome, calls: trial.calls, problems };
    } finally {
      this.#trial = undefined;
      await trial.leave();
    }
  }

  #runHandler(input: unknown, ctx: JobContext): Promise<unknown> {
    const trial = this.#trial;
    if (trial === undefined || trial.jobId !== ctx.jobId)
      return Promise.reject(new OncefleetError('INTERNAL', 'a run of an earlier schedule'));
    const run = trial.newRun(ctx, this.#handlers.pool);
    return run.execute(async (tortured) => this.#definition.run(input, tortured));
  }

  async #outcomeOf(trial: Trial, before: Record<string, number>): Promise<TortureOutcome> {
    const { fleet, db, pool } = { fleet: this.#world, db: asPlain(this.#world.db), pool: this.#world.pool };
    const job = await this.#fleet.get(trial.jobId);
    if (job === undefined) throw new Error('the job is gone');
    trial.stream = await readStream(this.#fleet, trial.jobId);
    const after = await countRows(this.#world);
    const tables = [...new Set([...Object.keys(before), ...Object.keys(after)])].sort();
    return {
      schedule: trial.schedule.name,
      fleet,
      db,
      pool,
      job,
      result: job.status === 'completed' ? await this.#fleet.result(trial.jobId) : undefined,
      events: fold(trial.stream),
      runs: trial.runs,
      rows: Object.fromEntries(tables.map((table) => [table, (after[table] ?? 0) - (before[table] ?? 0)])),
    };
  }

  #compare(trial: Trial, outcome: TortureOutcome, peace: TortureOutcome | undefined): string[] {
    const problems: string[] = [];
    const { job } = outcome;
    if (job.status !== 'completed')
      problems.push(`the job is ${job.status}: ${job.error?.code ?? ''} ${job.error?.message ?? ''}`);
    if (trial.stream.some(({ seq }, i) => seq !== i)) problems.push('the seqs of its stream are not contiguous');
    const terminals = trial.stream.filter(({ event }) => isTerminalType(event.type));
    if (terminals.length !== 1 || terminals[0] !== trial.stream.at(-1))
      problems.push(`its stream has ${terminals.length} terminal events, or not at its end`);
    if (trial.schedule.fault === 'duplicate' && outcome.runs !== 1)
      problems.push(`a duplicate delivery ran the handler: ${outcome.runs} runs`);
    if (peace === undefined || job.status !== 'completed') return problems;
    const { result = true, stream = true, rows = true } = this.#options.same ?? {};
    if (result && !isDeepStrictEqual(outcome.result, peace.result))
      problems.push(`result ${JSON.stringify(outcome.result)}, in peace ${JSON.stringify(peace.result)}`);
    const [told, wanted] = [outcome.events, peace.events].map((events) =>
      // The terminal event says the result once more.
      events.filter(({ type }) => !isTerminalType(type)),
    ) as [JobEvent[], JobEvent[]];
    if (stream && !isDeepStrictEqual(told, wanted))
      problems.push(`stream ${summary(told)}, in peace ${summary(wanted)}`);
    if (rows) {
      for (const table of Object.keys({ ...peace.rows, ...outcome.rows })) {
        const [now, then] = [outcome.rows[table] ?? 0, peace.rows[table] ?? 0];
        if (now !== then) problems.push(`table ${table} has ${now} rows of this job, in peace ${then}`);
      }
    }
    return problems;
  }
}

/** One schedule while it is run. */
class Trial {
  readonly schedule: Schedule;
  readonly problems: string[] = [];
  stream: StreamEvent[] = [];
  readonly #fleet: Fleet;
  readonly #worker: FleetWorker;
  readonly #pool: pg.Pool;
  readonly #name: string;
  readonly #runs: TorturedRun[] = [];
  readonly #dead = new Set<TorturedRun>();
  readonly #deliveries: string[] = [];
  readonly #second = Promise.withResolvers<void>();
  readonly #finished = Promise.withResolvers<void>();
  #handle: JobHandle | undefined;
  #input: unknown;
  #key = '';
  #jobId = '';
  #fired = false;
  #over = false;

  constructor(fleet: Fleet, worker: FleetWorker, pool: pg.Pool, name: string, schedule: Schedule) {
    this.#fleet = fleet;
    this.#worker = worker;
    this.#pool = pool;
    this.#name = name;
    this.schedule = schedule;
  }

  get jobId(): string {
    return this.#jobId;
  }

  get runs(): number {
    return this.#runs.length;
  }

  /** Of the first run. */
  get calls(): Call[] {
    return [...(this.#runs[0]?.calls ?? [])];
  }

  /** Enqueues the job. Delayed, and promoted when its id is known: the first run must find this trial. */
  async start(input: unknown, key: string): Promise<void> {
    this.#input = input;
    this.#key = key;
    this.#handle = await this.#fleet.enqueue(this.#name, input, { key, delayMs: NEVER_MS });
    this.#jobId = this.#handle.id;
    this.#deliveries.push(this.#jobId);
    await (await this.#queue.getJob(this.#jobId))?.promote();
  }

  /** @returns false when it has not ended in time */
  async ended(timeoutMs: number): Promise<boolean> {
    // By its row: an outcome that was committed beside a crash is not announced, and waiters would look late.
    const ended = this.#until(({ status }) => isTerminalStatus(status));
    const inTime = await settles(timeoutMs, ended);
    this.#finished.resolve();
    return inTime;
  }

  newRun(ctx: JobContext, pool: pg.Pool): TorturedRun {
    const run = new TorturedRun(this.#runs.length + 1, ctx, pool, (...place) => this.#at(...place));
    this.#runs.push(run);
    return run;
  }

  /** What a schedule does to a job that has ended. */
  async afterwards(): Promise<void> {
    if (this.schedule.fault !== 'duplicate' || this.schedule.call !== SETTLE) return;
    await this.#deliver();
    await this.#enqueueAgain();
  }

  /** Waits until nobody is at the job any more: zombies have tried to write, duplicates have been answered. */
  async settle(): Promise<void> {
    const zombies = Promise.all(this.#runs.filter((run) => !this.#dead.has(run)).map((run) => run.ended));
    if (!(await settles(ZOMBIE_MS, zombies)))
      this.problems.push(`a run has not ended ${ZOMBIE_MS} ms after the job had`);
    for (const run of this.#dead) run.leave();
    const idle = async () => {
      for (const id of this.#deliveries) {
        while (!this.#over && (await this.#queue.getJobState(id)) === 'active') await pause(POLL_MS);
      }
    };
    await settles(ZOMBIE_MS, idle());
  }

  /** Lets go of whatever still waits. */
  async leave(): Promise<void> {
    this.#over = true;
    this.#finished.resolve();
    this.#second.resolve();
    for (const run of this.#runs) run.leave();
    if (this.#handle !== undefined) await this.#handle.cancel();
  }

  get #queue(): Queue {
    return this.#fleet.queues[0] as Queue;
  }

  async #at(run: TorturedRun, call: Call, moment: Moment): Promise<void> {
    const { schedule } = this;
    if (schedule.fault === 'none' || call.id !== schedule.call || moment !== schedule.moment) return;
    if (schedule.fault === 'overlap' && run.number === 2) {
      this.#second.resolve();
      await Promise.race([this.#runs[0]?.ended, this.#finished.promise]);
      return;
    }
    if (run.number !== 1 || this.#fired) return;
    this.#fired = true;
    switch (schedule.fault) {
      case 'crash':
        // What was emitted after a call that has returned is as good as durable; else this is the crash before it.
        if (moment === 'after' && !call.nested) await run.flush().catch(() => undefined);
        this.#dead.add(run);
        await run.die();
        await this.#takeOver(run);
        return;
      case 'error':
        throw new TorturedCallError(call.id);
      case 'pause':
        await this.#takeOver(run);
        await this.#finished.promise;
        return;
      case 'overlap':
        await this.#takeOver(run);
        await Promise.race([this.#second.promise, this.#finished.promise]);
        return;
      case 'lost lease':
        await this.#takeOver(run);
        await this.#until(({ fence, status }) => fence > run.fence || status !== 'running');
        run.abort(new LeaseLostError(this.#jobId, run.fence, 'torture has given it away'));
        return;
      case 'interrupt':
        this.#worker.interrupt();
        return;
      case 'duplicate':
        await this.#deliver();
        await this.#deliver();
        await this.#enqueueAgain();
        await this.#until(({ deferrals }) => deferrals >= 2);
        return;
      default:
        schedule.fault satisfies never;
    }
  }

  /** Backdates the run's lease, as if it had been silent for too long, and brings the job to another. */
  async #takeOver(run: TorturedRun): Promise<void> {
    await this.#pool.query(
      `/* oncefleet: torture */ update oncefleet.jobs set lease_expires_at = clock_timestamp() - interval '1 second'
       where id = $1 and fence = $2 and status = 'running'`,
      [this.#jobId, run.fence],
    );
    await this.#deliver();
  }

  /** Another delivery of the same row, as after a stall in BullMQ. */
  async #deliver(): Promise<void> {
    const id = `${this.#jobId}-${this.#deliveries.length}`;
    this.#deliveries.push(id);
    const data = { oncefleet: 1, jobId: this.#jobId, key: this.#key };
    await this.#queue.add(this.#name, data, { jobId: id });
  }

  async #enqueueAgain(): Promise<void> {
    const again = await this.#fleet.enqueue(this.#name, this.#input, { key: this.#key });
    if (again.id !== this.#jobId) this.problems.push('the same key made another job');
  }

  /** Waits until the job's row is as wanted. */
  async #until(wanted: (row: { fence: number; status: JobStatus; deferrals: number }) => boolean): Promise<void> {
    while (!this.#over) {
      const found = await this.#pool.query<{ fence: number; status: JobStatus; deferrals: number }>(
        '/* oncefleet: torture */ select fence, status, deferral_count as deferrals from oncefleet.jobs where id = $1',
        [this.#jobId],
      );
      if (found.rows[0] === undefined || wanted(found.rows[0])) return;
      await pause(POLL_MS);
    }
  }
}

function toDefinition<I, O>(handler: (input: I, ctx: JobContext) => Promise<O> | O): AnyJobDefinition {
  const name = /^[A-Za-z0-9][\w.-]{0,99}$/.test(handler.name) ? handler.name : 'handler';
  return defineJob({ name, input: z.any(), run: (input, ctx) => handler(input as I, ctx) });
}

/**
 * A misspelt fault or option would torture nothing, and say that the handler holds.
 *
 * @throws InputInvalidError
 */
function checkOptions(job: unknown, options: object): void {
  const wanted = definitionSchema.safeParse(job);
  const issues =
    typeof job === 'function' || wanted.success
      ? []
      : toIssues(wanted.error.issues).map(({ path, message }) => ({
          path: path === '' ? 'job' : `job.${path}`,
          message: path === '' ? 'expected a handler, or what defineJob returns' : message,
        }));
  parseOptions('Torture options', optionsSchema, options, () => issues);
}

const optionsSchema = z.strictObject({
  input: z.unknown().optional(),
  fleet: z
    .custom((value) => typeof (value as TestFleet | undefined)?.pool?.query === 'function', 'expected a test fleet')
    .optional(),
  setup: aFunction.optional(),
  reset: aFunction.optional(),
  check: aFunction.optional(),
  only: z.union([z.string(), z.array(z.string())]).optional(),
  faults: z.array(z.enum(FAULTS)).optional(),
  maxCalls: wholeNumber({ min: 1, max: 1_000_000 }).optional(),
  same: z
    .strictObject({ result: z.boolean().optional(), stream: z.boolean().optional(), rows: z.boolean().optional() })
    .optional(),
  timeoutMs: wholeNumber({ min: 1, max: MAX_TIMER_MS }).optional(),
} satisfies Record<keyof TortureOptions<unknown, unknown>, z.ZodType>);

function choose(all: readonly Schedule[], only: string | readonly string[] | undefined): readonly Schedule[] {
  if (only === undefined) return all;
  const names = typeof only === 'string' ? [only] : only;
  const unknown = names.filter((name) => !all.some((schedule) => schedule.name === name));
  if (unknown.length > 0) {
    throw new OncefleetError(
      'INPUT_INVALID',
      `No schedule is named ${unknown.map((name) => `"${name}"`).join(', ')}; there are:\n${all.map(({ name }) => `  ${name}`).join('\n')}`,
    );
  }
  return all.filter(({ name }) => names.includes(name));
}

async function readStream(fleet: Fleet, id: string): Promise<StreamEvent[]> {
  const events: StreamEvent[] = [];
  for (let after: Cursor = -1; ; ) {
    const page: EventPage = await fleet.readEvents(id, { after });
    events.push(...page.events);
    if (page.finished || page.events.length === 0) return events;
    after = page.next;
  }
}

/** What a reader holds in the end: a later attempt supersedes what came after its checkpoint, or all. */
function fold(stream: readonly StreamEvent[]): JobEvent[] {
  let kept: { seq: number; event: JobEvent }[] = [];
  for (const { seq, event } of stream) {
    if (event.type === 'retry') continue;
    if (event.type !== 'attempt') kept.push({ seq, event: event as JobEvent });
    else if (event['resumed'] === true) kept = kept.filter((earlier) => earlier.seq < ((event['from'] as number) ?? 0));
    else kept = [];
  }
  return kept.map(({ event }) => event);
}

function summary(events: readonly JobEvent[]): string {
  const text = JSON.stringify(events);
  return text.length <= 300 ? text : `${text.slice(0, 300)}… (${events.length} events)`;
}

/** Rows of every table of the database but the fleet's bookkeeping, by name. */
async function countRows({ pool, databaseSchema }: TestFleet): Promise<Record<string, number>> {
  const tables = await pool.query<{ name: string }>(
    `select format('%I.%I', schemaname, tablename) as name from pg_tables
     where schemaname not in ('pg_catalog', 'information_schema')
       and not (schemaname = $2 and tablename = any ($1)) order by 1`,
    [OWN_TABLES, databaseSchema],
  );
  if (tables.rows.length === 0) return {};
  const counted = await pool.query<{ name: string; rows: number }>(
    tables.rows
      .map(
        ({ name }) =>
          `select ${pg.escapeLiteral(name.replace(/^public\./, ''))} as name, count(*)::int as rows from ${name}`,
      )
      .join(' union all '),
  );
  return Object.fromEntries(counted.rows.map(({ name, rows }) => [name, rows]));
}

/** @throws Error Postgres refuses: a table with rows points to one of these */
async function emptyTables(pool: pg.Pool, tables: readonly string[]): Promise<void> {
  if (tables.length === 0) return;
  await pool.query(`truncate ${tables.join(', ')} restart identity`).catch((cause: unknown) => {
    throw new OncefleetError('INPUT_INVALID', `Tables cannot be emptied between runs: give torture a \`reset\``, {
      cause,
    });
  });
}

/** Whether it settled in time. */
function settles(ms: number, promise: Promise<unknown>): Promise<boolean> {
  const settled = promise.then(
    () => true,
    () => true,
  );
  return within(ms, settled, () => false);
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
