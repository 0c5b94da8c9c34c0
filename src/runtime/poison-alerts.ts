/**
 * Tells of poisoned jobs: a log line, and the `onPoison` of their definition, at least once.
 *
 * The transaction that poisons a job notes its alert, and whoever ended it calls the hook. What it
 * did not get to, for it died, or the hook threw, stays in the table until a process that has the
 * job's definition looks. Each looks by itself and not the one that reconciles: that one may not
 * have the definition, and `withIdempotency` has no reconciler.
 */
import type { Kysely } from 'kysely';
import { crashPoint } from '../crash-points.ts';
import { deletePoisonAlert, type PoisonAlert, takePoisonAlerts } from '../db/poison-alerts.ts';
import type { Database } from '../db/schema.ts';
import { isTransient } from '../db/transient.ts';
import type { Logger } from '../log.ts';
import { within } from '../util/with-timeout.ts';

/** How long a hook is waited for: clients of paging services give up by then. Less than `ALERT_HOLD_MS`. */
const CALL_LIMIT_MS = 20_000;

/** Calls under way at once in one process; more wait in the table: hooks that hang must not pile up. */
const MAX_CALLS_AT_ONCE = 20;

/** An alert is given up after so many calls: with an hour between the later ones, about a day. */
const MAX_CALLS = 30;

/** Between two looks, where there is no reconciler whose pause to keep. */
const LOOK_MS = 5_000;

/** How long `close()` waits for hooks: what has not resolved by then is called again elsewhere. */
const CLOSE_WAIT_MS = 2_000;

/** Of a definition, what its alerts need. */
export interface Alerted {
  name: string;
  queue: string;
  onPoison?(job: PoisonedJob): void | Promise<void>;
}

/** What the hook is told. */
export interface PoisonedJob {
  jobId: string;
  tenant: string;
  name: string;
  crashes: number;
}

export class PoisonAlerts {
  readonly #db: Kysely<Database>;
  readonly #log: Logger;
  readonly #callLimitMs: number;
  readonly #known = new Set<Alerted>();
  readonly #calls = new Set<Promise<void>>();
  #timer: NodeJS.Timeout | undefined;
  #looking: Promise<void> | undefined;
  #closed: Promise<void> | undefined;

  constructor(options: { db: Kysely<Database>; log: Logger; callLimitMs?: number }) {
    this.#db = options.db;
    this.#log = options.log;
    this.#callLimitMs = options.callLimitMs ?? CALL_LIMIT_MS;
  }

  /** Looks after alerts of these jobs that others left behind, from now on. @returns ends it */
  know(jobs: readonly Alerted[], everyMs = LOOK_MS): () => void {
    for (const job of jobs) this.#known.add(job);
    if (this.#timer === undefined && this.#looking === undefined) this.#lookIn(0, everyMs);
    return () => {
      for (const job of jobs) this.#known.delete(job);
      if (this.#known.size > 0) return;
      clearTimeout(this.#timer);
      this.#timer = undefined;
    };
  }

  /**
   * Tells of a job that this process has just poisoned. Never throws: what fails is tried again later.
   *
   * @param job its definition; undefined: another process has it, and will call the hook
   */
  async raise(job: Pick<Alerted, 'onPoison'> | undefined, alert: Omit<PoisonAlert, 'calls'>): Promise<void> {
    await this.#tell(job, { ...alert, calls: 1 });
  }

  /** Tells of what others left behind and has been left long enough. @returns how many */
  async lookAfter(jobs: readonly Alerted[]): Promise<number> {
    const room = MAX_CALLS_AT_ONCE - this.#calls.size;
    if (room <= 0 || jobs.length === 0) return 0;
    const alerts = await takePoisonAlerts(this.#db, jobs, room);
    await Promise.all(
      alerts.map((alert) =>
        this.#tell(
          jobs.find(({ name, queue }) => name === alert.name && queue === alert.queue),
          alert,
        ),
      ),
    );
    return alerts.length;
  }

  /** Waits a while for hooks under way. Idempotent. */
  close(): Promise<void> {
    this.#closed ??= (async () => {
      clearTimeout(this.#timer);
      await within(CLOSE_WAIT_MS, Promise.all([this.#looking, ...this.#calls]), () => undefined);
    })();
    return this.#closed;
  }

  async #tell(job: Pick<Alerted, 'onPoison'> | undefined, alert: PoisonAlert): Promise<void> {
    const { jobId, tenant, name, crashes, calls } = alert;
    if (calls > MAX_CALLS) {
      this.#log.error({ jobId, tenant, name, calls: calls - 1 }, 'onPoison given up: no call of it has resolved');
      await this.#takeOut(alert);
      return;
    }
    const told = { jobId, tenant, name, crashes };
    this.#log.error({ alert: 'job_poisoned', ...told }, 'job poisoned: it crashed or lost its worker too often');
    if (job === undefined || this.#calls.size >= MAX_CALLS_AT_ONCE) return;
    const call = this.#call(job, told, alert);
    this.#calls.add(call);
    await call;
    this.#calls.delete(call);
  }

  async #call(job: Pick<Alerted, 'onPoison'>, told: PoisonedJob, alert: PoisonAlert): Promise<void> {
    try {
      crashPoint('poison.alert.before');
      const resolved = (async () => {
        await job.onPoison?.(told);
        crashPoint('poison.alert.after');
        // Also when it resolves after it was waited for.
        await this.#takeOut(alert);
      })();
      await within(this.#callLimitMs, resolved, () => {
        throw new Error(`it has not resolved after ${this.#callLimitMs} ms`);
      });
    } catch (err) {
      this.#log.error({ err, jobId: told.jobId, calls: alert.calls }, 'onPoison failed; it is called again later');
    }
  }

  async #takeOut(alert: PoisonAlert): Promise<void> {
    try {
      await deletePoisonAlert(this.#db, alert);
    } catch (err) {
      this.#log.warn({ err, jobId: alert.jobId }, 'poison alert not taken out: onPoison is called again');
    }
  }

  #lookIn(ms: number, everyMs: number): void {
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#looking = this.#look().finally(() => {
        this.#looking = undefined;
        if (this.#closed === undefined && this.#known.size > 0) this.#lookIn(everyMs, everyMs);
      });
    }, ms);
    this.#timer.unref();
  }

  async #look(): Promise<void> {
    try {
      await this.lookAfter([...this.#known]);
    } catch (err) {
      // The others of this process tell that Postgres is unreachable.
      if (!isTransient(err)) this.#log.error({ err }, 'poison alerts not looked after');
    }
  }
}
