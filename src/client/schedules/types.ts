/** What `fleet.schedules` takes and gives. */
import type { CatchUp, Overlap } from '../../db/schedules.ts';
import type { JobDefinition } from '../../jobs/define-job.ts';
import type { JobEvent } from '../../journal/event.ts';

export interface ScheduleOptions<In = unknown> {
  tenant?: string;
  /** Of every job that a tick enqueues. Default null. */
  input?: In;
  /** Five fields of cron, or @hourly and so on. Either this or `everyMs`. */
  cron?: string;
  /** An IANA name such as Europe/Berlin; default UTC. */
  timeZone?: string;
  /** From 1,000 to a year, in milliseconds. */
  everyMs?: number;
  /** No tick before it; with `everyMs` the first one. */
  startAt?: Date | string;
  /** No tick after it. */
  endAt?: Date | string;
  /**
   * Ticks that came while no worker ran: none of them (`skip`), the last one (`one`), or the last 1,000 (`all`). A tick less
   * than a minute late with none after it was not missed. Default `one`.
   */
  catchUp?: CatchUp;
  /** `skip`: no tick while the job of the last one has not ended. Default `allow`. */
  overlap?: Overlap;
  /** As of `enqueue`. */
  priority?: number;
}

/** A schedule as people see it: dates as ISO 8601. */
export interface ScheduleRecord {
  tenant: string;
  name: string;
  job: string;
  input: unknown;
  cron: string | null;
  timeZone: string | null;
  everyMs: number | null;
  startAt: string | null;
  endAt: string | null;
  catchUp: CatchUp;
  overlap: Overlap;
  priority: number;
  /** `null`: it has ended. */
  nextAt: string | null;
  lastAt: string | null;
  lastJobId: string | null;
  /** Ticks that made a job. */
  ticks: number;
  /** Ticks that made none. */
  skipped: number;
  pausedAt: string | null;
}

interface SchedulePage {
  schedules: ScheduleRecord[];
  nextCursor: string | null;
}

export type OfTenant = { tenant?: string };

export interface Schedules {
  /**
   * Makes a schedule, or changes the one of this name. One that stays as it is keeps its next tick: every start of a
   * process may say it. Changed times count from now.
   *
   * @param name 1 to 100 of A-Za-z0-9_.-
   * @throws InputInvalidError; OncefleetError JOB_NAME_UNKNOWN
   */
  upsert<I, O, E extends JobEvent, In>(
    name: string,
    job: JobDefinition<I, O, E, In> | string,
    options: ScheduleOptions<In>,
  ): Promise<ScheduleRecord>;
  /** By name. @throws InputInvalidError */
  list(options?: OfTenant & { cursor?: string; limit?: number }): Promise<SchedulePage>;
  /** Its jobs stay. @returns whether there was one */
  remove(name: string, options?: OfTenant): Promise<boolean>;
  /** It does not tick until it is resumed. @throws OncefleetError SCHEDULE_NOT_FOUND */
  pause(name: string, options?: OfTenant): Promise<ScheduleRecord>;
  /** Ticks that came meanwhile are not made up for. @throws OncefleetError SCHEDULE_NOT_FOUND */
  resume(name: string, options?: OfTenant): Promise<ScheduleRecord>;
}
