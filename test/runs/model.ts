/**
 * The transitions of one job as a small pure model: what the row and the stream must be after
 * any interleaving of owners, zombies, operators and the reconciler.
 */
export interface Model {
  status: 'pending' | 'running' | 'completed' | 'failed' | 'cancelled';
  fence: number;
  /** The lease is past its expiry (only while running). */
  expired: boolean;
  cancelRequested: boolean;
  crashes: number;
  errors: number;
  interruptions: number;
  result: string | null;
  checkpoint: string | null;
  /** BullMQ's attemptsMade of the delivery that failed; null where none did. */
  failedAt: number | null;
  /** Types of the stream's events, in order, as the table holds them. */
  stream: string[];
  /** The head exists; without one the terminal event is in the row. */
  hasHead: boolean;
}

export const MAX_CRASHES = 2;

export function initial(): Model {
  return {
    status: 'pending',
    fence: 0,
    expired: false,
    cancelRequested: false,
    crashes: 0,
    errors: 0,
    interruptions: 0,
    result: null,
    checkpoint: null,
    failedAt: null,
    stream: [],
    hasHead: false,
  };
}

export type Decision = 'claimed' | 'completed' | 'failed' | 'cancelled' | 'retried' | 'held' | 'cancel' | 'poison';

/** The claim table. */
export function claim(model: Model, delivery: number): Decision {
  switch (model.status) {
    case 'completed':
    case 'cancelled':
      return model.status;
    case 'failed':
      if (model.failedAt !== null && delivery > model.failedAt) return 'retried';
      if (model.failedAt === null || delivery < model.failedAt) model.failedAt = delivery;
      return 'failed';
    case 'running':
      if (!model.expired) return 'held';
      break;
    case 'pending':
  }
  if (model.cancelRequested) return 'cancel';
  const crashes = model.crashes + (model.status === 'running' ? 1 : 0);
  if (crashes > MAX_CRASHES) return 'poison';
  model.crashes = crashes;
  model.status = 'running';
  model.fence++;
  model.expired = false;
  if (model.fence > 1) model.hasHead = true;
  return 'claimed';
}

/** Whether an owner that claimed at `fence` still holds the job. An expired lease nobody took is still its. */
export function holds(model: Model, fence: number): boolean {
  return model.status === 'running' && model.fence === fence;
}

export function renew(model: Model, fence: number): boolean {
  if (!holds(model, fence)) return false;
  model.expired = false;
  return true;
}

export function append(model: Model, fence: number, types: string[]): boolean {
  // The journal looks at the head alone. It is at the job's fence from the second claim on.
  if (!holds(model, fence)) return false;
  model.stream.push(...types);
  model.hasHead = true;
  return true;
}

export function checkpoint(model: Model, fence: number, value: string): boolean {
  if (!holds(model, fence)) return false;
  model.checkpoint = value;
  return true;
}

export type Settle =
  | { to: 'completed'; result: string }
  | { to: 'failed'; delivery: number }
  | { to: 'cancelled' }
  | { to: 'retry' }
  | { to: 'interrupted' };

/** Ends a run. `silent`: the owner has emitted nothing and its stream has no head. */
export function settle(model: Model, fence: number, how: Settle): boolean {
  if (!holds(model, fence)) return false;
  model.expired = false;
  switch (how.to) {
    case 'completed':
      model.status = 'completed';
      model.result = how.result;
      if (model.hasHead) model.stream.push('end');
      return true;
    case 'failed':
      model.status = 'failed';
      model.errors++;
      model.failedAt = how.delivery;
      if (model.hasHead) model.stream.push('error');
      return true;
    case 'cancelled':
      model.status = 'cancelled';
      if (model.hasHead) model.stream.push('cancelled');
      return true;
    case 'retry':
      model.status = 'pending';
      model.errors++;
      model.stream.push('retry');
      model.hasHead = true;
      return true;
    case 'interrupted':
      model.status = 'pending';
      model.interruptions++;
      return true;
    default:
      return how satisfies never;
  }
}

export function expire(model: Model): void {
  if (model.status === 'running') model.expired = true;
}

/** The reconciler, a cancel of a dead job, or a delivery that meets one. */
export function end(model: Model): boolean {
  if (model.status !== 'pending' && !(model.status === 'running' && model.expired)) return false;
  const crashes = model.crashes + (model.status === 'running' ? 1 : 0);
  if (!model.cancelRequested && crashes <= MAX_CRASHES) return false;
  model.status = model.cancelRequested ? 'cancelled' : 'failed';
  model.stream.push(model.cancelRequested ? 'cancelled' : 'error');
  model.crashes = crashes;
  model.fence++;
  model.expired = false;
  model.failedAt = null;
  model.hasHead = true;
  return true;
}

export function cancel(model: Model): void {
  if (model.status === 'pending' || model.status === 'running') model.cancelRequested = true;
}

export function redrive(model: Model): boolean {
  if (model.status !== 'failed') return false;
  if (!model.hasHead) model.stream.push('error');
  model.hasHead = true;
  model.status = 'pending';
  model.crashes = 0;
  model.errors = 0;
  model.interruptions = 0;
  model.cancelRequested = false;
  model.failedAt = null;
  return true;
}
