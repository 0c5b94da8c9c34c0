/** Events for people, one line each. */
import type { AttemptReason, StreamEvent } from '../journal/event.ts';
import { printableJson } from '../printable.ts';

const REASONS: Record<AttemptReason, string> = {
  error: 'the one before failed',
  crash: 'its worker was lost',
  interruption: 'its worker was stopped',
  redrive: 'it was redriven',
};

/** `   12  delta  {"text":"…"}`: seq, type, the other fields as JSON. */
export function formatEventLine({ seq, event }: StreamEvent): string {
  const { type, ...fields } = event as { type: string };
  const rest = Object.keys(fields).length === 0 ? '' : `  ${printableJson(JSON.stringify(fields))}`;
  return `${String(seq).padStart(5)}  ${type.padEnd(10)}${rest}`.trimEnd();
}

/** The event as JSON for scripts; `event` is the text that the journal holds. */
export function formatEventJson({ seq, fence, json }: StreamEvent): string {
  return `{"seq":${seq},"fence":${fence},"event":${json}}`;
}

export function describeReason(reason: AttemptReason): string {
  return REASONS[reason] ?? reason;
}
