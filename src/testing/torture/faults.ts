/** What torture does to a run, and where: one schedule is one fault at one call of the handler. */

export const FAULTS = ['crash', 'error', 'pause', 'overlap', 'lost lease', 'interrupt', 'duplicate'] as const;

/**
 * - `crash`: the run ends there as its process would; another one takes over
 * - `error`: the call throws, before it does anything or after it has done it
 * - `pause`: the run freezes, another takes over and finishes, then it continues without knowing
 * - `overlap`: the same, but it continues while the other is at the same call
 * - `lost lease`: its signal aborts, and it continues beside the other
 * - `interrupt`: its worker is stopped, as in a deploy
 * - `duplicate`: the job is delivered and enqueued again while it runs
 */
export type Fault = (typeof FAULTS)[number];

export type Moment = 'before' | 'inside' | 'after';

/** One call that a handler makes of its context. */
export interface Call {
  /** As in schedules: `ctx.checkpoint #2`. */
  id: string;
  /** `ctx.checkpoint`. */
  kind: string;
  /** Made within a transaction: nobody can take over, because that holds the job's row. */
  nested: boolean;
}

export interface Schedule {
  /** As `only` takes it: `crash after ctx.checkpoint #2`. */
  name: string;
  fault: Fault | 'none';
  call: string;
  moment: Moment;
}

/** The pseudo calls at both ends of a run. */
export const RUN = 'run';
export const SETTLE = 'settle';

/** Calls whose answer can be lost although they took effect. */
const ANSWERED: ReadonlySet<string> = new Set([
  'ctx.transaction',
  'ctx.checkpoint',
  'ctx.flush',
  'ctx.complete',
  'ctx.db',
]);

/**
 * One schedule for each fault at each call.
 *
 * @param maxCalls of a kind of call with more than these, this many are taken, evenly spread, first and last included
 */
export function schedulesOf(
  calls: readonly Call[],
  faults: ReadonlySet<Fault>,
  maxCalls: number,
): { schedules: Schedule[]; skipped: number } {
  const taken = new Set<Call>();
  for (const group of Map.groupBy(calls, ({ kind }) => kind).values())
    for (const call of evenly(group, maxCalls)) taken.add(call);
  const schedules: Schedule[] = [];
  const add = (fault: Fault, moment: Moment, call: string, word: string = moment) => {
    if (faults.has(fault)) schedules.push({ name: `${fault} ${word} ${call}`, fault, call, moment });
  };
  add('crash', 'before', RUN);
  for (const call of calls) {
    if (!taken.has(call)) continue;
    add('crash', 'before', call.id);
    if (call.kind === 'ctx.transaction') add('crash', 'inside', call.id, 'before the commit of');
    add('crash', 'after', call.id);
    add('error', 'before', call.id);
    if (ANSWERED.has(call.kind)) add('error', 'after', call.id);
    if (call.nested) continue;
    add('pause', 'before', call.id);
    add('pause', 'after', call.id);
    add('overlap', 'before', call.id, 'at');
    add('lost lease', 'before', call.id, 'at');
    add('interrupt', 'before', call.id, 'at');
    add('duplicate', 'before', call.id, 'at');
  }
  add('crash', 'before', SETTLE);
  add('pause', 'before', SETTLE);
  add('duplicate', 'after', SETTLE);
  return { schedules, skipped: calls.length - taken.size };
}

/** @returns `count` of the items, first and last included; all of them if there are no more */
function evenly<T>(items: readonly T[], count: number): T[] {
  if (items.length <= count) return [...items];
  if (count === 1) return items.slice(0, 1);
  return Array.from({ length: count }, (_, i) => items[Math.round((i * (items.length - 1)) / (count - 1))] as T);
}
