/** Runs a job once and brings a fault to its handler's run, at the call that the schedule names. */
import type { Queue } from 'bullmq';
import type pg from 'pg';
import type { JobHandle } from '../../client/types.ts';
import { isTerminalStatus, type JobStatus } from '../../db/jobs/states.ts';
import { LeaseLostError } from '../../errors.ts';
import type { JobContext } from '../../jobs/define-job.ts';
import { within } from '../../util/with-timeout.ts';
import type { Fleet } from '../../workers/fleet.ts';
import type { FleetWorker } from '../../workers/worker.ts';
import { type Call, type Moment, type Schedule, SETTLE } from './faults.ts';
import { TorturedCallError, TorturedRun } from './tortured-run.ts';

/** No lease runs out and no reconciler starts a round by itself: schedules decide when. */
export const NEVER_MS = 3_600_000;

const POLL_MS = 5;

/** How long a zombie may run on after the job has ended. */
const ZOMBIE_MS = 5_000;

/** One schedule while it is run. */
export class ScheduleRun {
  readonly schedule: Schedule;
  readonly problems: string[] = [];
  readonly #fleet: Fleet;
  readonly #worker: FleetWorker;
  readonly #pool: pg.Pool;
  readonly #name: string;
  readonly #runs: TorturedRun[] = [];
  readonly #dead = new Set<TorturedRun>();
  readonly #deliveries: string[] = [];
  readonly #second = Promise.withResolvers<void>();
  readonly #ended = Promise.withResolvers<void>();
  #handle: JobHandle | undefined;
  #input: unknown;
  #key = '';
  #jobId = '';
  #fired = false;
  #closed = false;

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

  /** Enqueues the job. Delayed, and promoted when its id is known: the first run must find this schedule. */
  async start(input: unknown, key: string): Promise<void> {
    this.#input = input;
    this.#key = key;
    this.#handle = await this.#fleet.enqueue(this.#name, input, { key, delayMs: NEVER_MS });
    this.#jobId = this.#handle.id;
    this.#deliveries.push(this.#jobId);
    await this.#fleet.operator.promote(this.#queue, this.#jobId);
  }

  /** Waits until the job has ended. @returns false when it has not in time */
  async waitForEnd(timeoutMs: number): Promise<boolean> {
    // By its row: an outcome that was committed beside a crash is not announced, and waiters would poll it late.
    const ended = this.#until(({ status }) => isTerminalStatus(status));
    const inTime = await isSettledWithin(timeoutMs, ended);
    this.#ended.resolve();
    return inTime;
  }

  newRun(ctx: JobContext, pool: pg.Pool): TorturedRun {
    const run = new TorturedRun(this.#runs.length + 1, ctx, pool, (...place) => this.#at(...place));
    this.#runs.push(run);
    return run;
  }

  /** What a schedule does to a job that has ended. */
  async afterEnd(): Promise<void> {
    if (this.schedule.fault !== 'duplicate' || this.schedule.call !== SETTLE) return;
    await this.#deliver();
    await this.#enqueueAgain();
  }

  /** Waits until no run and no delivery is left: zombies have tried to write, duplicates have been answered. */
  async waitUntilIdle(): Promise<void> {
    const zombies = Promise.all(this.#runs.filter((run) => !this.#dead.has(run)).map((run) => run.ended));
    if (!(await isSettledWithin(ZOMBIE_MS, zombies)))
      this.problems.push(`a run has not ended ${ZOMBIE_MS} ms after the job had`);
    for (const run of this.#dead) run.release();
    const idle = async () => {
      for (const id of this.#deliveries) {
        while (!this.#closed && (await this.#queue.getJobState(id)) === 'active') await pause(POLL_MS);
      }
    };
    await isSettledWithin(ZOMBIE_MS, idle());
  }

  /** Releases whatever still waits, and cancels the job. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#ended.resolve();
    this.#second.resolve();
    for (const run of this.#runs) run.release();
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
      await Promise.race([this.#runs[0]?.ended, this.#ended.promise]);
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
        await this.#ended.promise;
        return;
      case 'overlap':
        await this.#takeOver(run);
        await Promise.race([this.#second.promise, this.#ended.promise]);
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

  /** Backdates the run's lease, as if it had sent no heartbeat for too long, and has the job delivered to another. */
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
    while (!this.#closed) {
      const found = await this.#pool.query<{ fence: number; status: JobStatus; deferrals: number }>(
        '/* oncefleet: torture */ select fence, status, deferral_count as deferrals from oncefleet.jobs where id = $1',
        [this.#jobId],
      );
      if (found.rows[0] === undefined || wanted(found.rows[0])) return;
      await pause(POLL_MS);
    }
  }
}

/** Whether a promise settles in time. */
function isSettledWithin(ms: number, promise: Promise<unknown>): Promise<boolean> {
  const settled = promise.then(
    () => true,
    () => true,
  );
  return within(ms, settled, () => false);
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
