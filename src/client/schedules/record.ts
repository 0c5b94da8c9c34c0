import type { ScheduleRow } from '../../db/schedules.ts';
import type { ScheduleRecord } from './types.ts';

/** A row as people see it. */
export function toRecord(row: ScheduleRow): ScheduleRecord {
  const iso = (at: number | null) => (at === null ? null : new Date(at).toISOString());
  return {
    tenant: row.tenant,
    name: row.name,
    job: row.jobName,
    input: JSON.parse(row.input),
    cron: row.cron,
    timeZone: row.timeZone,
    everyMs: row.everyMs,
    startAt: iso(row.startAt),
    endAt: iso(row.endAt),
    catchUp: row.catchUp,
    overlap: row.overlap,
    priority: row.priority,
    nextAt: iso(row.nextAt),
    lastAt: iso(row.lastAt),
    lastJobId: row.lastJobId,
    ticks: row.tickCount,
    skipped: row.skippedCount,
    pausedAt: iso(row.pausedAt),
  };
}
