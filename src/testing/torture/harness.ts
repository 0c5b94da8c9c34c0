/** Runs schedules: a fleet whose one job is the tortured one, and tables that are emptied between runs. */
import { randomUUID } from 'node:crypto';
import { createDb, type Db } from '../../db/client.ts';
import { asPlain } from '../../db/own-schema.ts';
import { OncefleetError } from '../../errors.ts';
import type { AnyJobDefinition, JobContext } from '../../jobs/define-job.ts';
import { RANGES } from '../../options.ts';
import { createFleet, type Fleet } from '../../workers/fleet.ts';
import type { FleetWorker } from '../../workers/worker.ts';
import type { TestFleet } from '../test-fleet.ts';
import { compare, readStream, toReaderEvents } from './compare.ts';
import type { Call, Schedule } from './faults.ts';
import type { TortureOptions, TortureOutcome } from './options.ts';
import { NEVER_MS, ScheduleRun } from './schedule-run.ts';
import { countRows, emptyTables } from './tables.ts';

/** Default of `timeoutMs`. */
const TIMEOUT_MS = 10_000;

export class Harness {
  readonly #definition: AnyJobDefinition;
  readonly #world: TestFleet;
  readonly #options: TortureOptions<unknown, unknown>;
  readonly #fleet: Fleet;
  readonly #handlers: Db;
  readonly #emptied: readonly string[];
  #worker: FleetWorker | undefined;
  #current: ScheduleRun | undefined;

  static async open(
    definition: AnyJobDefinition,
    world: TestFleet,
    options: TortureOptions<unknown, unknown>,
  ): Promise<Harness> {
    const before = await countRows(world);
    const empty = Object.keys(before).filter((table) => before[table] === 0);
    const harness = new Harness(definition, world, options, empty);
    harness.#worker = await harness.#fleet.work();
    return harness;
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
    this.#fleet = createFleet({
      databaseUrl: world.databaseUrl,
      databaseSchema: world.databaseSchema,
      redisUrl: world.redisUrl,
      prefix: `${world.prefix.slice(0, 55)}-${randomUUID().slice(0, 8)}`,
      jobs: [toTortured(definition, (input, ctx) => this.#runHandler(input, ctx))],
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

  /** Runs the job once, with a fault, and says what is wrong with its outcome. */
  async run(
    schedule: Schedule,
    baseline: TortureOutcome | undefined,
  ): Promise<{ outcome: TortureOutcome | undefined; calls: Call[]; problems: string[] }> {
    await this.#reset();
    const before = await countRows(this.#world);
    const { pool } = this.#world;
    const current = new ScheduleRun(this.#fleet, this.#worker as FleetWorker, pool, this.#definition.name, schedule);
    this.#current = current;
    const timeoutMs = this.#options.timeoutMs ?? TIMEOUT_MS;
    const input = 'input' in this.#options ? this.#options.input : null;
    try {
      await current.start(input, randomUUID());
      if (!(await current.waitForEnd(timeoutMs))) {
        const problems = [`the job has not ended within ${timeoutMs} ms`];
        return { outcome: undefined, calls: current.calls, problems };
      }
      await current.afterEnd();
      await current.waitUntilIdle();
      const stream = await readStream(this.#fleet, current.jobId);
      const outcome = await this.#outcomeOf(current, await toReaderEvents(stream), before);
      const problems = [...current.problems, ...compare(schedule, stream, outcome, baseline, this.#options.same)];
      try {
        await this.#options.check?.(outcome);
      } catch (error) {
        problems.push(error instanceof Error ? error.message : String(error));
      }
      return { outcome, calls: current.calls, problems };
    } finally {
      this.#current = undefined;
      await current.close();
    }
  }

  async #reset(): Promise<void> {
    const { reset } = this.#options;
    const { pool } = this.#world;
    if (reset === undefined) await emptyTables(pool, this.#emptied);
    else await reset({ fleet: this.#world, db: asPlain(this.#world.db), pool });
  }

  #runHandler(input: unknown, ctx: JobContext): Promise<unknown> {
    const current = this.#current;
    if (current === undefined || current.jobId !== ctx.jobId)
      return Promise.reject(new OncefleetError('INTERNAL', 'a run of an earlier schedule'));
    const run = current.newRun(ctx, this.#handlers.pool);
    return run.execute(async (tortured) => this.#definition.run(input, tortured));
  }

  async #outcomeOf(
    current: ScheduleRun,
    events: TortureOutcome['events'],
    before: Record<string, number>,
  ): Promise<TortureOutcome> {
    const job = await this.#fleet.get(current.jobId);
    if (job === undefined) throw new Error('the job is gone');
    const after = await countRows(this.#world);
    const tables = [...new Set([...Object.keys(before), ...Object.keys(after)])].sort();
    return {
      schedule: current.schedule.name,
      fleet: this.#world,
      db: asPlain(this.#world.db),
      pool: this.#world.pool,
      job,
      result: job.status === 'completed' ? await this.#fleet.result(current.jobId) : undefined,
      events,
      runs: current.runs,
      rows: Object.fromEntries(tables.map((table) => [table, (after[table] ?? 0) - (before[table] ?? 0)])),
    };
  }
}

function toTortured(
  definition: AnyJobDefinition,
  run: (input: unknown, ctx: JobContext) => Promise<unknown>,
): AnyJobDefinition {
  const { lease: _lease, ...policy } = definition.policy;
  return {
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
    run: (input, ctx) => run(input, ctx as JobContext),
  };
}
