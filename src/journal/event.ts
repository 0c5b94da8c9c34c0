/**
 * What a stream is made of. An event is a JSON object with a `type`; its place is `seq`,
 * contiguous from 0 over all attempts of the job.
 */
import { isTerminalType, TERMINAL_TYPES } from '../db/streams/terminal.ts';
import { OncefleetError, type StoredFailure } from '../errors.ts';
import type { Cursor } from './cursor.ts';

export interface JobEvent {
  type: string;
  [field: string]: unknown;
}

/** An event in its place. `json` is the exact text the journal holds: every projection starts from it. */
export interface StreamEvent<E extends JobEvent = JobEvent> {
  seq: number;
  fence: number;
  /** What to continue after: the seq, on an `immediate` stream `<fence>-<seq>`. */
  cursor: Cursor;
  event: E | SystemEvent;
  json: string;
}

/** Events that the fleet writes; handlers may not emit these types. */
export type SystemEvent =
  /** A later attempt starts. `resumed`: events with `seq >= from` are superseded; otherwise all before this one are. */
  | { type: 'attempt'; attempt: number; reason: AttemptReason; resumed: boolean; from?: number }
  | { type: 'retry'; attempt: number; delayMs: number; error: StoredFailure }
  /** Not in the journal: a reader of an `immediate` stream has events with `seq >= from` that a crash lost. */
  | { type: 'rewind'; from: number }
  | { type: 'progress'; done: number; total?: number; message?: string }
  | { type: 'end'; result?: unknown }
  | { type: 'error'; error: StoredFailure }
  | { type: 'cancelled' };

/** Why an attempt after the first one starts. */
export type AttemptReason = 'error' | 'crash' | 'interruption' | 'redrive';

export type AttemptEvent = Extract<SystemEvent, { type: 'attempt' }>;

export type TerminalEvent = Extract<SystemEvent, { type: 'end' | 'error' | 'cancelled' }>;

const RESERVED_TYPES: ReadonlySet<string> = new Set(['attempt', 'retry', 'rewind', ...TERMINAL_TYPES]);

/** Longest accepted event, in UTF-16 units of its JSON text. */
export const MAX_EVENT_LENGTH = 4 * 1024 * 1024;

/**
 * Deepest accepted nesting. JSON.stringify and Postgres's json parser recurse; both manage
 * several thousand levels on default stacks, so this leaves room for either to be smaller.
 */
const MAX_EVENT_DEPTH = 1_000;

export { isTerminalType };

/** Whether only the fleet writes events of this type. */
export function isFleetType(type: string): boolean {
  return RESERVED_TYPES.has(type);
}

/**
 * The text to journal for an event a handler emits.
 *
 * Lone surrogates and NUL come out as `\u` escapes (well-formed JSON.stringify), which the
 * `json` column keeps as they are.
 *
 * @throws OncefleetError EVENT_INVALID; nothing was buffered
 */
export function encodeEvent(event: JobEvent): string {
  try {
    checkShape(event);
  } catch (cause) {
    if (cause instanceof OncefleetError) throw cause;
    throw new OncefleetError('EVENT_INVALID', 'event cannot be read', { cause });
  }
  const json = encodeJson(event, 'event');
  // A `toJSON` or a getter may have written something else than was checked.
  if (!json.startsWith(`{"type":${JSON.stringify(event.type)}`)) checkShape(JSON.parse(json));
  return json;
}

function checkShape(event: JobEvent): void {
  if (typeof event !== 'object' || event === null || Array.isArray(event)) {
    throw new OncefleetError('EVENT_INVALID', 'An event is a JSON object with a `type`');
  }
  if (typeof event.type !== 'string' || event.type === '' || event.type.length > 100 || /[\r\n\0]/.test(event.type)) {
    throw new OncefleetError('EVENT_INVALID', 'event.type: expected a string of 1 to 100 characters on one line');
  }
  if (RESERVED_TYPES.has(event.type)) {
    throw new OncefleetError('EVENT_INVALID', `event.type: "${event.type}" is written by the fleet; choose another`);
  }
}

/**
 * JSON text of a value within the journal's limits; `what` names it in errors.
 *
 * @throws OncefleetError EVENT_INVALID
 */
export function encodeJson(value: unknown, what: string): string {
  let json: string | undefined;
  try {
    json = JSON.stringify(value);
  } catch (cause) {
    throw new OncefleetError('EVENT_INVALID', `${what} cannot be written as JSON: ${(cause as Error).message}`, {
      cause,
    });
  }
  if (json === undefined) throw new OncefleetError('EVENT_INVALID', `${what} cannot be written as JSON`);
  if (json.length > MAX_EVENT_LENGTH) {
    throw new OncefleetError(
      'EVENT_INVALID',
      `${what} is ${json.length} characters of JSON; the limit is ${MAX_EVENT_LENGTH}`,
      {
        details: { length: json.length, limit: MAX_EVENT_LENGTH },
      },
    );
  }
  // Each level costs at least two characters, so short texts cannot be too deep.
  if (json.length > 2 * MAX_EVENT_DEPTH && jsonDepth(json) > MAX_EVENT_DEPTH) {
    throw new OncefleetError('EVENT_INVALID', `${what} is nested deeper than ${MAX_EVENT_DEPTH} levels`, {
      details: { limit: MAX_EVENT_DEPTH },
    });
  }
  return json;
}

function jsonDepth(json: string): number {
  let depth = 0;
  let deepest = 0;
  let inString = false;
  for (let i = 0; i < json.length; i++) {
    const unit = json.charCodeAt(i);
    if (inString) {
      if (unit === 0x5c) i++;
      else if (unit === 0x22) inString = false;
    } else if (unit === 0x22) inString = true;
    else if (unit === 0x7b || unit === 0x5b) {
      depth++;
      if (depth > deepest) deepest = depth;
    } else if (unit === 0x7d || unit === 0x5d) depth--;
  }
  return deepest;
}
