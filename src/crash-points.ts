/**
 * Places at which a process may die, by name: before and after every commit, and between a
 * commit and whoever is told of it. Tests kill or freeze a real process exactly there
 * (test/runs/crash-points.slow.test.ts); docs/internals/crash-points.md says what happens at each.
 *
 * A diagnostics channel, so that nothing but code that subscribes to it can arm a point: no
 * setting does. Without a subscriber a point costs the read of one property.
 *
 * @see https://nodejs.org/api/diagnostics_channel.html
 */
import { channel } from 'node:diagnostics_channel';

/** Where each point lies. The order is the docs' order: that of a job's life. */
export const CRASH_POINTS = {
  'enqueue.row.before': 'an enqueue is checked, its row is not committed',
  'enqueue.row.after': 'the row is committed, BullMQ does not have the job',
  'enqueue.dispatch.after': 'BullMQ has the job, the caller has no answer',
  'outbox.committed': 'the transaction of a caller has committed, BullMQ does not have its jobs',
  'outbox.dispatched': 'BullMQ has the jobs of that transaction, the outbox still holds them',
  'claim.before': 'a delivery is taken from BullMQ, its claim is not committed',
  'claim.after': 'the claim is committed, the handler has not begun',
  'append.before': 'events are emitted, not committed',
  'append.after': 'events are committed, not published',
  'checkpoint.before': 'the events before a checkpoint are committed, the checkpoint is not',
  'checkpoint.after': 'a checkpoint is committed, the handler does not know',
  'transaction.before': 'ctx.transaction holds its fence, no effect is written',
  'transaction.commit.before': 'the effects of ctx.transaction are written, not committed',
  'transaction.commit.after': 'the effects of ctx.transaction are committed, the handler does not know',
  'complete.after': 'ctx.complete has written the outcome, its transaction is not committed',
  'settle.before': 'the handler has returned or thrown, the outcome is not committed',
  'settle.after': 'the outcome is committed, not published',
  'answer.before': 'the outcome is committed, BullMQ is not told',
  'defer.before': 'a delivery met a live lease elsewhere, its deferral is not in Redis',
  'end.before': 'a delivery met a job that must end, the ending is not committed',
  'end.after': 'that ending is committed, not published, BullMQ is not told',
  'poison.alert.before': 'a job is poisoned and its alert noted, onPoison is not called',
  'poison.alert.after': 'onPoison has resolved, the alert is still noted',
  'cancel.asked': 'a cancel is noted in the row, nobody is told',
  'cancel.ended': 'a cancel has ended a waiting job, that is not published',
  'redrive.row': 'a redrive has made the row pending, BullMQ does not know',
  'retry.redriven': 'a retry in BullMQ has made the row pending, its delivery has not claimed it',
  'reconcile.locked': 'the reconciler holds its lock, nothing is repaired',
  'reconcile.end.after': 'the reconciler has ended a job, that is not published',
  'reconcile.missing': 'jobs missing from Redis are found, not dispatched',
  'reconcile.dispatched': 'missing jobs are dispatched, the round is not over',
  'redispatch.removed': 'a finished BullMQ job is removed, the new one is not added',
} as const;

export type CrashPoint = keyof typeof CRASH_POINTS;

/** Name of the diagnostics channel; its messages are `{ point }`. */
export const CRASH_POINT_CHANNEL = 'oncefleet:crash-point';

const points = channel(CRASH_POINT_CHANNEL);

/** Says that this process has come to `point`. */
export function crashPoint(point: CrashPoint): void {
  if (points.hasSubscribers) points.publish({ point });
}
