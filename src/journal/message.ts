/** What goes over the live bus: how a batch of events becomes a message, and back. */
import { type EventBatch, lastSeq } from '../db/streams/segments.ts';

/** Larger batches are announced without their events, which followers then read from Postgres. */
const MAX_MESSAGE_LENGTH = 256 * 1024;

/** What a message takes in memory besides its text, in characters, about. */
const MESSAGE_OVERHEAD = 100;

export interface BatchMessage {
  firstSeq: number;
  lastSeq: number;
  fence: number;
  /** The last event is the stream's terminal event. */
  end: boolean;
  /** False: sent before its commit, which may never come. */
  committed: boolean;
  /** JSON texts, not parsed yet; absent when the message only points at the journal. */
  events: readonly string[] | undefined;
  /** Characters it takes in memory, about. */
  length: number;
}

/**
 * A batch to announce to followers.
 *
 * `events`: as it was committed. `ahead`: before its commit. `pointer`: committed, and its
 * events were sent ahead (or are in the row, of an eventless job).
 */
export interface Announcement {
  batch: EventBatch;
  end: boolean;
  form?: 'events' | 'ahead' | 'pointer';
}

/**
 * A batch as a message: a line of JSON about it, then a line an event. Events are JSON texts,
 * which hold no line breaks, so neither end has to parse them to take them apart.
 */
export function encodeBatchMessage(batch: EventBatch, end: boolean, form: Announcement['form'] = 'events'): string {
  const { events, firstSeq, fence } = batch;
  const last = Math.max(firstSeq, lastSeq(batch));
  const head = `{"first":${firstSeq},"last":${last},"fence":${fence},"end":${end}${form === 'ahead' ? ',"ahead":true' : ''}}`;
  if (form === 'pointer' || events.length === 0) return head;
  let length = 0;
  for (const event of events) {
    length += event.length + 1;
    if (event.includes('\n')) return head;
  }
  return length > MAX_MESSAGE_LENGTH ? head : `${head}\n${events.join('\n')}`;
}

/** `undefined` for anything that is not a batch message: every client of Redis can publish on a channel. */
export function decodeBatchMessage(text: string): BatchMessage | undefined {
  const lineEnd = text.indexOf('\n');
  let value: { first?: unknown; last?: unknown; fence?: unknown; end?: unknown; ahead?: unknown } | null;
  try {
    value = JSON.parse(lineEnd === -1 ? text : text.slice(0, lineEnd));
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null) return undefined;
  const { first, last, fence, end } = value;
  if (!isSeq(first) || !isSeq(last) || !isSeq(fence) || typeof end !== 'boolean' || last < first) return undefined;
  const events = lineEnd === -1 ? undefined : text.slice(lineEnd + 1).split('\n');
  if (events !== undefined && events.length !== last - first + 1) return undefined;
  const committed = value.ahead !== true;
  return { firstSeq: first, lastSeq: last, fence, end, committed, events, length: MESSAGE_OVERHEAD + text.length };
}

/** The end of an eventless job, for listeners: its terminal event is in its row. */
export const EVENTLESS_END: BatchMessage = Object.freeze({
  firstSeq: 0,
  lastSeq: 0,
  fence: 0,
  end: true,
  committed: true,
  events: undefined,
  length: MESSAGE_OVERHEAD,
});

function isSeq(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
