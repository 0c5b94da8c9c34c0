/** What `torture` has found. */
import { OncefleetError } from '../../errors.ts';

export interface TortureFailure {
  schedule: string;
  problems: readonly string[];
}

export interface TortureReport {
  /** Names of the schedules that were run. */
  schedules: readonly string[];
  /** Calls of the baseline run, in order. */
  calls: readonly string[];
  /** Calls that were left alone because of `maxCalls`. */
  skippedCalls: number;
  /** Starts of the handler, all schedules together. */
  runs: number;
  durationMs: number;
}

/** The handler broke what torture or its caller checks. */
export class TortureError extends OncefleetError {
  readonly failures: readonly TortureFailure[];
  readonly report: TortureReport;

  constructor(job: string, failures: readonly TortureFailure[], report: TortureReport) {
    const list = failures.map(({ schedule, problems }) =>
      [
        `  ${schedule}`,
        ...problems.map((problem) => `    ${problem.replaceAll('\n', '\n    ')}`),
        `    again: torture(${job}, { …, only: '${schedule}' })`,
      ].join('\n'),
    );
    super(
      'TORTURE_FAILED',
      `${failures.length} of ${report.schedules.length} schedules broke job ${job}:\n${list.join('\n')}`,
    );
    this.failures = failures;
    this.report = report;
  }
}
