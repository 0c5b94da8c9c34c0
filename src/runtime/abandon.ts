import { CancelledError, OncefleetError, type StoredFailure, toStoredFailure } from '../errors.ts';
import { rowTerminalJson } from '../journal/terminal.ts';

export interface AbandonedEnding {
  status: 'failed' | 'cancelled';
  error: StoredFailure | undefined;
  terminalJson: string;
  poisoned: boolean;
}

/** How a job that nobody runs ends, if it must: the same for a delivery, a cancel and the reconciler. */
export function ending(
  jobId: string,
  row: { crashCount: number; cancelRequested: boolean; deadlinePassed: boolean },
  maxCrashes: number,
): AbandonedEnding | undefined {
  if (row.cancelRequested) {
    return {
      status: 'cancelled',
      error: toStoredFailure(new CancelledError(jobId)),
      terminalJson: rowTerminalJson({ status: 'cancelled', result: null, error: null }),
      poisoned: false,
    };
  }
  if (row.deadlinePassed) {
    return failed(new OncefleetError('DEADLINE_EXCEEDED', 'The job was not finished by its deadline'), false);
  }
  if (row.crashCount > maxCrashes) {
    return failed(
      new OncefleetError(
        'POISONED',
        `The job crashed or lost its worker ${row.crashCount} times; the limit is ${maxCrashes}`,
      ),
      true,
    );
  }
  return undefined;
}

function failed(error: OncefleetError, poisoned: boolean): AbandonedEnding {
  const failure = toStoredFailure(error);
  return {
    status: 'failed',
    error: failure,
    terminalJson: rowTerminalJson({ status: 'failed', result: null, error: JSON.stringify(failure) }),
    poisoned,
  };
}
