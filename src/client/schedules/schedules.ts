/** Schedules as people make, see and remove them. */
import { z } from 'zod';
import {
  deleteSchedule,
  findNow,
  findSchedules,
  lockSchedule,
  type ScheduleRow,
  setPaused,
} from '../../db/schedules.ts';
import { OncefleetError } from '../../errors.ts';
import type { AnyJobDefinition } from '../../jobs/define-job.ts';
import { parseOptions, tenantName, wholeNumber } from '../../options.ts';
import { type ClientHost, tenantOf } from '../host.ts';
import { toRecord } from './record.ts';
import { nextTick } from './times.ts';
import type { OfTenant, Schedules } from './types.ts';
import { upsertSchedule } from './upsert.ts';

const tenant = tenantName.optional();
const MAX_PAGE = 100;
const namedSchema = z.strictObject({ tenant });
const listSchema = z.strictObject({
  tenant,
  cursor: z.string().max(100).optional(),
  limit: wholeNumber({ min: 1, max: MAX_PAGE }).default(MAX_PAGE),
});

export function createSchedules(host: ClientHost): Schedules {
  const db = host.runtime.db.kysely;
  const setPause = async (what: string, name: string, options: OfTenant, paused: boolean) => {
    const of = { tenant: tenantOf(host, parseOptions(what, namedSchema, options)), name };
    return db.transaction().execute(async (trx) => {
      const row = await lockSchedule(trx, of);
      if (row === undefined)
        throw new OncefleetError('SCHEDULE_NOT_FOUND', `No schedule is named "${String(name).slice(0, 100)}"`);
      if ((row.pausedAt !== null) === paused) return toRecord(row);
      const nextAt = paused ? row.nextAt : nextTick(row, await findNow(trx));
      await setPaused(trx, of, { paused, nextAt });
      return toRecord((await lockSchedule(trx, of)) as ScheduleRow);
    });
  };
  return {
    upsert: (name, job, options) => upsertSchedule(host, name, job as AnyJobDefinition | string, options),
    async list(options = {}) {
      const { cursor, limit, ...of } = parseOptions('schedules.list', listSchema, options);
      const rows = await findSchedules(db, { tenant: tenantOf(host, of), after: cursor, limit: limit + 1 });
      const page = rows.slice(0, limit);
      return { schedules: page.map(toRecord), nextCursor: rows.length > limit ? (page.at(-1)?.name ?? null) : null };
    },
    remove: (name, options = {}) =>
      deleteSchedule(db, { tenant: tenantOf(host, parseOptions('schedules.remove', namedSchema, options)), name }),
    pause: (name, options = {}) => setPause('schedules.pause', name, options, true),
    resume: (name, options = {}) => setPause('schedules.resume', name, options, false),
  };
}
