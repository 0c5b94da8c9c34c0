/** How a row and its BullMQ job can disagree: the one table, which docs/reference/doctor.md prints. */
import type { RowState } from '../../db/doctor.ts';
import type { BullJob } from '../bullmq-jobs.ts';

/** What each disagreement is, in words for people, and what `--fix` does about it. */
export const DISAGREEMENTS = {
  'not-dispatched': {
    means: 'wait to run, and Redis does not have them: it was flushed, evicted them, or was unreachable when they came',
    fix: 'given to BullMQ, with their delay and priority',
  },
  'ended-in-bullmq': {
    means: 'wait to run, and BullMQ has them as finished',
    fix: 'made BullMQ deliver them again',
  },
  lost: {
    means: 'wait to run, and BullMQ has them in no list: a list was evicted or removed by hand',
    fix: 'taken out of BullMQ and given to it anew',
  },
  deserted: {
    means: 'wait to run, and BullMQ has them as active with no worker on them; a worker of their queue would notice',
    fix: 'taken out of BullMQ and given to it anew',
  },
  late: {
    means: 'are due, and BullMQ keeps them for later',
    fix: 'made due in BullMQ',
  },
  'lease-expired': {
    means: 'lost their worker, and BullMQ will not deliver them',
    fix: 'given to BullMQ',
  },
  unended: {
    means: 'must not run any more (cancelled, past their deadline, or crashed too often), and have not ended',
    fix: 'ended, with their terminal event',
  },
  superfluous: {
    means: 'have ended, and BullMQ still waits to run them',
    fix: 'taken out of BullMQ',
  },
  'without-row': {
    means: 'are in BullMQ, and Postgres does not know them: deleted, or lost with a restored backup',
    fix: 'taken out of BullMQ',
  },
  'other-outcome': {
    means: 'have another outcome in BullMQ than in Postgres, which decides',
    fix: 'taken out of BullMQ; the outcome stays in Postgres',
  },
  'open-stream': {
    means: 'have ended, and their stream is open: its readers wait for ever',
    fix: 'closed, with the terminal event',
  },
  unlisted: {
    means: 'have not ended and are not in unfinished_jobs, where the reconciler looks: set back by hand',
    fix: 'put there; the reconciler does the rest',
  },
  'closed-stream': {
    means: 'have not ended, and their stream is closed: nothing they write would be taken',
    fix: 'opened',
  },
} as const satisfies Record<string, { means: string; fix: string }>;

export type DisagreementKind = keyof typeof DISAGREEMENTS;

/** BullMQ may deliver a due job this much late (a delivery was deferred). */
const LATE_MS = 60_000;

/**
 * What is wrong between a row and BullMQ's job of the same id, if anything.
 *
 * @param maxCrashes of the row's job
 */
export function judge(row: RowState | undefined, bull: BullJob, maxCrashes: number): DisagreementKind | undefined {
  const { state } = bull;
  const isWaiting = state === 'waiting' || state === 'prioritized' || state === 'delayed';
  if (row === undefined)
    return bull.own && (isWaiting || state === 'lost' || state === 'deserted') ? 'without-row' : undefined;
  switch (row.status) {
    case 'pending':
    case 'running':
      if (row.held) return undefined;
      if (row.mustEnd || row.crashCount > maxCrashes) return 'unended';
      break;
    case 'completed':
    case 'failed':
    case 'cancelled':
      if (isWaiting || state === 'lost' || state === 'deserted') return 'superfluous';
      if (state === 'failed' && row.status === 'completed') return 'other-outcome';
      if (state === 'completed' && row.status !== 'completed') return 'other-outcome';
      return undefined;
    default:
      return row.status satisfies never;
  }
  if (row.status === 'running') return isWaiting || state === 'active' ? undefined : 'lease-expired';
  switch (state) {
    case 'absent':
      return 'not-dispatched';
    case 'waiting-children':
      // A user's own processor may have it wait for jobs that it added; the fleet's jobs have none.
      return row.source === undefined ? 'lost' : undefined;
    case 'lost':
      return 'lost';
    case 'deserted':
      return 'deserted';
    case 'completed':
    case 'failed':
      return 'ended-in-bullmq';
    case 'delayed':
      return bull.delayMs > Math.max(row.delayMs, 0) + LATE_MS ? 'late' : undefined;
    case 'waiting':
    case 'prioritized':
    case 'active':
      return undefined;
    default:
      return state satisfies never;
  }
}
