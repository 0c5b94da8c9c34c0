/** What must hold of every run of the job, and how it may differ from the baseline run. */
import { isDeepStrictEqual } from 'node:util';
import type { EventPage } from '../../client/types.ts';
import type { Cursor } from '../../journal/cursor.ts';
import { isTerminalType, type JobEvent, type StreamEvent } from '../../journal/event.ts';
import { fold } from '../../journal/fold.ts';
import type { Fleet } from '../../workers/fleet.ts';
import type { Schedule } from './faults.ts';
import type { TortureOptions, TortureOutcome } from './options.ts';

/** @returns problems, in words for people */
export function compare(
  schedule: Schedule,
  stream: readonly StreamEvent[],
  outcome: TortureOutcome,
  baseline: TortureOutcome | undefined,
  same: TortureOptions<unknown, unknown>['same'],
): string[] {
  const problems: string[] = [];
  const { job } = outcome;
  if (job.status !== 'completed')
    problems.push(`the job is ${job.status}: ${job.error?.code ?? ''} ${job.error?.message ?? ''}`);
  if (stream.some(({ seq }, i) => seq !== i)) problems.push('the seqs of its stream are not contiguous');
  const terminals = stream.filter(({ event }) => isTerminalType(event.type));
  if (terminals.length !== 1 || terminals[0] !== stream.at(-1))
    problems.push(`its stream has ${terminals.length} terminal events, or not at its end`);
  if (schedule.fault === 'duplicate' && outcome.runs !== 1)
    problems.push(`a duplicate delivery ran the handler: ${outcome.runs} runs`);
  if (baseline !== undefined && job.status === 'completed') problems.push(...differences(outcome, baseline, same));
  return problems;
}

function differences(
  outcome: TortureOutcome,
  baseline: TortureOutcome,
  same: TortureOptions<unknown, unknown>['same'] = {},
): string[] {
  const { result = true, stream = true, rows = true } = same;
  const problems: string[] = [];
  if (result && !isDeepStrictEqual(outcome.result, baseline.result))
    problems.push(`result ${JSON.stringify(outcome.result)}, baseline ${JSON.stringify(baseline.result)}`);
  const [actual, expected] = [handlersEvents(outcome), handlersEvents(baseline)];
  if (stream && !isDeepStrictEqual(actual, expected))
    problems.push(`stream ${summary(actual)}, baseline ${summary(expected)}`);
  if (rows) {
    for (const table of Object.keys({ ...baseline.rows, ...outcome.rows })) {
      const [now, then] = [outcome.rows[table] ?? 0, baseline.rows[table] ?? 0];
      if (now !== then) problems.push(`table ${table} has ${now} rows of this job, baseline ${then}`);
    }
  }
  return problems;
}

export async function readStream(fleet: Fleet, id: string): Promise<StreamEvent[]> {
  const events: StreamEvent[] = [];
  for (let after: Cursor = -1; ; ) {
    const page: EventPage = await fleet.readEvents(id, { after });
    events.push(...page.events);
    if (page.finished || page.events.length === 0) return events;
    after = page.next;
  }
}

/** The events that a reader holds in the end, without those about attempts: what these supersede, `fold` knows. */
export async function toReaderEvents(stream: readonly StreamEvent[]): Promise<JobEvent[]> {
  // Wrapped, progress and the terminal event are to `fold` events of the handler, which it gives to `reduce`.
  const wrapped = stream
    .filter(({ event }) => event.type !== 'retry')
    .map(({ seq, event }) => ({ seq, event: event.type === 'attempt' ? event : { type: 'wrapped', event } }));
  // A chain of lists: `reduce` must not change the value that it is given, and a copy for each event would be slow.
  const { value } = await fold<Held | undefined>(wrapped, {
    initial: undefined,
    reduce: (before, { event }) => ({ event: event as JobEvent, before }),
  });
  const events: JobEvent[] = [];
  for (let held = value; held !== undefined; held = held.before) events.push(held.event);
  return events.reverse();
}

interface Held {
  event: JobEvent;
  before: Held | undefined;
}

/** Without the terminal event, which has the result once more. */
function handlersEvents({ events }: TortureOutcome): JobEvent[] {
  return events.filter(({ type }) => !isTerminalType(type));
}

function summary(events: readonly JobEvent[]): string {
  const text = JSON.stringify(events);
  return text.length <= 300 ? text : `${text.slice(0, 300)}… (${events.length} events)`;
}
