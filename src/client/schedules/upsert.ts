/** Making a schedule, or changing it. */
import { z } from 'zod';
import { findNow, lockSchedule, putSchedule, type ScheduleRow } from '../../db/schedules.ts';
import { InputInvalidError, type Issue } from '../../errors.ts';
import type { AnyJobDefinition } from '../../jobs/define-job.ts';
import { parseOptions, tenantName, wholeNumber } from '../../options.ts';
import { check, definitionOf } from '../enqueue.ts';
import { type ClientHost, tenantOf } from '../host.ts';
import { MAX_PRIORITY } from '../options.ts';
import { toRecord } from './record.ts';
import { cronProblem, isTimeZone, MAX_EVERY_MS, MIN_EVERY_MS, nextTick, type Timing } from './times.ts';
import type { ScheduleOptions, ScheduleRecord } from './types.ts';

const NAME = /^[A-Za-z0-9][\w.-]{0,99}$/;
/** Years with four digits: others are no ISO 8601 to everybody. */
const LAST_MS = Date.UTC(9999, 11, 31);

const dateTime = z
  .custom<Date | string>((value) => value instanceof Date || typeof value === 'string')
  .transform((value) => new Date(value).getTime())
  .refine((at) => at >= 0 && at <= LAST_MS, 'expected a time from 1970 to 9999, as a Date or as ISO 8601');

const scheduleSchema = z.strictObject({
  tenant: tenantName.optional(),
  name: z.string().regex(NAME, 'expected 1 to 100 of A-Za-z0-9_.-, the first a letter or digit'),
  input: z.unknown().optional(),
  cron: z
    .string()
    .superRefine((cron, { addIssue }) => {
      const problem = cronProblem(cron);
      if (problem !== undefined) addIssue({ code: 'custom', message: problem });
    })
    .optional(),
  timeZone: z.string().refine(isTimeZone, 'is not a time zone; expected an IANA name such as Europe/Berlin').optional(),
  everyMs: wholeNumber({ min: MIN_EVERY_MS, max: MAX_EVERY_MS }).optional(),
  startAt: dateTime.optional(),
  endAt: dateTime.optional(),
  catchUp: z.enum(['skip', 'one', 'all']).default('one'),
  overlap: z.enum(['allow', 'skip']).default('allow'),
  priority: wholeNumber({ min: 0, max: MAX_PRIORITY }).default(0),
} satisfies Record<keyof ScheduleOptions | 'name', z.ZodType>);

export async function upsertSchedule(
  host: ClientHost,
  name: string,
  job: AnyJobDefinition | string,
  options: ScheduleOptions,
): Promise<ScheduleRecord> {
  const definition = definitionOf(host, job);
  const isObject = typeof options === 'object' && options !== null;
  const given = parseOptions('Schedule', scheduleSchema, isObject ? { ...options, name } : options, timingIssues);
  const tenant = tenantOf(host, given);
  const { text } = check(definition, given.input, tenant);
  return host.runtime.db.kysely.transaction().execute(async (trx) => {
    const before = await lockSchedule(trx, { tenant, name });
    const now = await findNow(trx);
    const timing: Timing = {
      cron: given.cron ?? null,
      timeZone: given.cron === undefined ? null : (given.timeZone ?? 'UTC'),
      everyMs: given.everyMs ?? null,
      anchorAt: given.startAt ?? now,
      startAt: given.startAt ?? null,
      endAt: given.endAt ?? null,
    };
    const kept = before !== undefined && sameTiming(before, timing);
    const nextAt = kept ? before.nextAt : nextTick(timing, now);
    if (nextAt === null && !kept)
      throw new InputInvalidError('Schedule', [
        { path: 'endAt', message: 'is before the first tick: it would never tick' },
      ]);
    await putSchedule(trx, {
      tenant,
      name,
      jobName: definition.name,
      ...timing,
      ...(kept ? { anchorAt: before.anchorAt } : {}),
      input: text,
      priority: given.priority,
      catchUp: given.catchUp,
      overlap: given.overlap,
      nextAt,
    });
    return toRecord((await lockSchedule(trx, { tenant, name })) as ScheduleRow);
  });
}

function timingIssues({ cron, everyMs, timeZone, startAt, endAt }: Record<string, unknown>): Issue[] {
  const issues: Issue[] = [];
  if ((cron === undefined) === (everyMs === undefined))
    issues.push({ path: cron === undefined ? 'cron' : 'everyMs', message: 'expected either cron or everyMs' });
  if (timeZone !== undefined && cron === undefined)
    issues.push({ path: 'timeZone', message: 'goes with cron: an interval knows no time zone' });
  const [start, end] = [startAt, endAt].map((at) => new Date(at as string).getTime()) as [number, number];
  if (end < start) issues.push({ path: 'endAt', message: 'is before startAt' });
  return issues;
}

function sameTiming(a: Timing, b: Timing): boolean {
  return (['cron', 'timeZone', 'everyMs', 'startAt', 'endAt'] as const).every((field) => a[field] === b[field]);
}
