/** What `torture` takes, and what its hooks are called with. */
import type { Kysely } from 'kysely';
import type pg from 'pg';
import { z } from 'zod';
import type { JobRecord } from '../../client/types.ts';
import type { QualifiedDatabase } from '../../db/own-schema.ts';
import { toIssues } from '../../errors.ts';
import { definitionSchema } from '../../jobs/define-job.ts';
import type { JobEvent } from '../../journal/event.ts';
import { aFunction, MAX_TIMER_MS, parseOptions, wholeNumber } from '../../options.ts';
import type { TestFleet } from '../test-fleet.ts';
import { FAULTS, type Fault } from './faults.ts';

export interface TortureOptions<I, O> {
  /** What the handler gets, the same in every run. Default `undefined`. */
  input?: I;
  /** Where to run it. Default: a fleet of its own. Rows in its tables do not survive: see `reset`. */
  fleet?: TestFleet;
  /** Once, before anything: makes the handler's tables. */
  setup?(world: { fleet: TestFleet; db: Kysely<QualifiedDatabase>; pool: pg.Pool }): Promise<void> | void;
  /** Before every run. Default: tables that were empty when torture began are emptied, before every run and at the end. */
  reset?(world: { fleet: TestFleet; db: Kysely<QualifiedDatabase>; pool: pg.Pool }): Promise<void> | void;
  /** Throws where an invariant of yours does not hold. Called after every run, the first included. */
  check?(outcome: TortureOutcome<O>): Promise<void> | void;
  /** These schedules alone, by name, as a failure prints it. */
  only?: string | readonly string[];
  /** Default: all of them. */
  faults?: readonly Fault[];
  /** Of a call that the handler makes more often, only this many are tortured. Default 8. */
  maxCalls?: number;
  /** What must be as in the baseline run. Default: all of it. */
  same?: { result?: boolean; stream?: boolean; rows?: boolean };
  /** How long one run of the job may take with its fault, in milliseconds. Default 10,000. */
  timeoutMs?: number;
}

/** The outcome of a run of the job, all its attempts together. */
export interface TortureOutcome<O = unknown> {
  /** `baseline`, or as `only` takes it. */
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

/**
 * A misspelt fault or option would torture nothing, and say that the handler holds.
 *
 * @throws InputInvalidError
 */
export function checkOptions(job: unknown, options: object): void {
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
