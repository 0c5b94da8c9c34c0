/**
 * Tortures a handler: runs it once without a fault (the baseline run) and writes down each call it
 * makes of its context, then once for each fault at each of those calls, and compares.
 *
 * Everything happens in one process, so that hundreds of schedules take seconds. A crash is
 * a run that is abandoned: its promises stay pending, its connections break, its lease is
 * backdated, another run takes over. What real processes do when they are killed is the matter
 * of crash points (docs/internals/crash-points.md).
 */
import { z } from 'zod';
import { asPlain } from '../../db/own-schema.ts';
import { OncefleetError } from '../../errors.ts';
import { type AnyJobDefinition, defineJob, type JobContext, type JobDefinition } from '../../jobs/define-job.ts';
import type { JobEvent } from '../../journal/event.ts';
import { createTestFleet } from '../test-fleet.ts';
import { FAULTS, RUN, type Schedule, schedulesOf } from './faults.ts';
import { Harness } from './harness.ts';
import { checkOptions, type TortureOptions } from './options.ts';
import { TortureError, type TortureFailure, type TortureReport } from './report.ts';

const BASELINE: Schedule = { name: 'baseline', fault: 'none', call: RUN, moment: 'before' };

/** Default of `maxCalls`. */
const MAX_CALLS = 8;

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
    const harness = await Harness.open(definition, fleet, options as TortureOptions<unknown, unknown>);
    try {
      return await runSchedules(harness, definition.name, options as TortureOptions<unknown, unknown>);
    } finally {
      await harness.close();
    }
  } finally {
    if (options.fleet === undefined) await fleet.close();
  }
}

async function runSchedules(
  harness: Harness,
  name: string,
  options: TortureOptions<unknown, unknown>,
): Promise<TortureReport> {
  const startedAt = performance.now();
  const failures: TortureFailure[] = [];
  const baseline = await harness.run(BASELINE, undefined);
  const { schedules: all, skipped } = schedulesOf(
    baseline.calls,
    new Set(options.faults ?? FAULTS),
    options.maxCalls ?? MAX_CALLS,
  );
  const schedules = choose(all, options.only);
  let { runs } = baseline.outcome ?? { runs: 1 };
  if (baseline.problems.length > 0) failures.push({ schedule: BASELINE.name, problems: baseline.problems });
  else {
    for (const schedule of schedules) {
      const { outcome, problems } = await harness.run(schedule, baseline.outcome);
      runs += outcome?.runs ?? 0;
      if (problems.length > 0) failures.push({ schedule: schedule.name, problems });
    }
  }
  const report: TortureReport = {
    schedules: schedules.map((schedule) => schedule.name),
    calls: baseline.calls.map(({ id }) => id),
    skippedCalls: skipped,
    runs,
    durationMs: Math.round(performance.now() - startedAt),
  };
  if (failures.length > 0) throw new TortureError(name, failures, report);
  return report;
}

function toDefinition<I, O>(handler: (input: I, ctx: JobContext) => Promise<O> | O): AnyJobDefinition {
  const name = /^[A-Za-z0-9][\w.-]{0,99}$/.test(handler.name) ? handler.name : 'handler';
  return defineJob({ name, input: z.any(), run: (input, ctx) => handler(input as I, ctx) });
}

/** @throws OncefleetError INPUT_INVALID a name is of no schedule */
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
