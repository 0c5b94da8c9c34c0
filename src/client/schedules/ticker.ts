/**
 * Makes the jobs of schedules that are due. Every worker process has one, and none leads: a schedule is taken with its row
 * locked, and its jobs are inserted in the transaction that moves its next tick on, so that a tick makes one job however many
 * processes look, die or are frozen. What time it is, Postgres says. A worker takes schedules of jobs that it knows.
 *
 * Rejected: delayed jobs in Redis that enqueue their successor, as BullMQ's own schedulers have them: a flush ends them.
 */
import { CompiledQuery, type Transaction } from 'kysely';
import type { DispatchRow } from '../../db/jobs/unfinished.ts';
import type { RunInTransaction } from '../../db/outbox.ts';
import { qualify } from '../../db/own-schema.ts';
import { type DueSchedule, lockDue, msToNextTick, noteTicks } from '../../db/schedules.ts';
import type { Database } from '../../db/schema.ts';
import { isTransient } from '../../db/transient.ts';
import { fingerprint } from '../../enqueue/fingerprint.ts';
import { OncefleetError } from '../../errors.ts';
import type { AnyJobDefinition } from '../../jobs/define-job.ts';
import { limitKeysOf } from '../../jobs/limits.ts';
import type { Runtime } from '../../runtime/runtime.ts';
import { within } from '../../util/with-timeout.ts';
import { type CheckedInput, plan } from '../enqueue.ts';
import { chooseTicks } from './choose-ticks.ts';

/** The longest pause between two looks: a schedule that another process has just made ticks no later than this. */
const LOOK_MS = 2_000;

/** Schedules of one transaction. */
const BATCH = 20;

/** Postgres takes the lock from a process that has sent nothing for this time. */
const IDLE_LIMIT_MS = 10_000;

const CLOSE_WAIT_MS = 2_000;

interface TickerOptions {
  runtime: Runtime;
  jobs: ReadonlyMap<string, AnyJobDefinition>;
}

export class Ticker {
  readonly #options: TickerOptions;
  #timer: NodeJS.Timeout | undefined;
  #round: Promise<void> = Promise.resolve();
  #closed = false;

  constructor(options: TickerOptions) {
    this.#options = options;
  }

  start(): void {
    this.#schedule(0);
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await within(CLOSE_WAIT_MS, this.#round, () => undefined);
  }

  #schedule(ms: number): void {
    if (this.#closed) return;
    this.#timer = setTimeout(() => {
      this.#round = this.#runRound();
    }, ms);
    this.#timer.unref();
  }

  async #runRound(): Promise<void> {
    const { runtime, jobs } = this.#options;
    let pauseMs = LOOK_MS;
    try {
      const left = await msToNextTick(runtime.db.kysely, [...jobs.keys()]);
      if (left !== undefined && left <= 0) {
        const ticked = await tickDue(runtime, jobs);
        // None: another process has them locked.
        pauseMs = ticked === 0 ? 50 : 0;
      } else if (left !== undefined) pauseMs = Math.min(LOOK_MS, Math.ceil(left));
    } catch (err) {
      if (isTransient(err)) runtime.log.warn({ err }, 'schedules wait for Postgres');
      else runtime.log.error({ err }, 'schedules failed to tick');
    }
    this.#schedule(pauseMs);
  }
}

/** Makes the jobs of some schedules that are due. @returns how many schedules */
export async function tickDue(runtime: Runtime, jobs: ReadonlyMap<string, AnyJobDefinition>): Promise<number> {
  const { db, outbox, log } = runtime;
  const made: { xid: string; row: DispatchRow }[] = [];
  const count = await db.kysely.transaction().execute(async (trx) => {
    const { due, now } = await lockDue(trx, { jobNames: [...jobs.keys()], limit: BATCH, idleLimitMs: IDLE_LIMIT_MS });
    for (const schedule of due) {
      const definition = jobs.get(schedule.jobName) as AnyJobDefinition;
      const choice = chooseTicks(schedule, now);
      const enqueued = await enqueueTicks(trx, runtime, { schedule, definition, ticks: choice.ticks });
      made.push(...enqueued.created);
      if (choice.skipped > 0)
        log.warn({ schedule: schedule.name, skipped: choice.skipped }, 'ticks of a schedule were skipped');
      await noteTicks(trx, {
        tenant: schedule.tenant,
        name: schedule.name,
        nextAt: choice.nextAt,
        lastAt: choice.ticks.at(-1) ?? null,
        lastJobId: enqueued.lastId,
        made: choice.ticks.length,
        skipped: choice.skipped,
      });
    }
    return due.length;
  });
  for (const { xid, row } of made) outbox.watch(xid, row);
  return count;
}

/** The key of a tick's job: a tick that is made again, whatever has happened, meets it. */
function tickKey(name: string, tick: number): string {
  return `schedule/${name}/${new Date(tick).toISOString()}`;
}

async function enqueueTicks(
  trx: Transaction<Database>,
  runtime: Runtime,
  options: { schedule: DueSchedule; definition: AnyJobDefinition; ticks: readonly number[] },
): Promise<{ created: { xid: string; row: DispatchRow }[]; lastId: string | null }> {
  const { schedule, definition, ticks } = options;
  const { tenant, name, priority } = schedule;
  const run: RunInTransaction = async (text, parameters) => {
    const sent = CompiledQuery.raw(qualify(text, runtime.db.schema), [...parameters]);
    return (await trx.executeQuery<Record<string, unknown>>(sent)).rows;
  };
  const accept = runtime.transitions.createIn(run);
  const checked = storedInput(schedule, definition);
  const answers = await Promise.all(
    ticks.map(async (tick) => {
      const key = tickKey(name, tick);
      const { wanted, toDispatch } = plan(definition, checked, { key, priority }, { tenant, trace: undefined });
      try {
        const { id, outcome, xid } = await accept(wanted, 'replay');
        return { id, xid, row: outcome === 'created' ? toDispatch(id) : undefined };
      } catch (error) {
        // Made before, with the input of then.
        if (!(error instanceof OncefleetError && error.code === 'KEY_MISMATCH')) throw error;
        return { id: error.details['jobId'] as string, xid: undefined, row: undefined };
      }
    }),
  );
  const created = answers.flatMap(({ xid, row }) => (xid === undefined || row === undefined ? [] : [{ xid, row }]));
  return { created, lastId: answers.at(-1)?.id ?? null };
}

/** Checked when it was given. A schema that has changed since fails the job, where people look, and not the schedule. */
function storedInput({ input, tenant }: DueSchedule, definition: AnyJobDefinition): CheckedInput {
  const value: unknown = JSON.parse(input);
  const parsed = definition.input.safeParse(value);
  const limits = parsed.success ? definition.limits : undefined;
  const limitKeys = limitKeysOf(definition.name, limits, { input: parsed.success ? parsed.data : undefined, tenant });
  return { text: input, value, fingerprint: fingerprint(value), limitKeys };
}
