/**
 * Where a reader stands: the last event it has. On a stream that is committed before it is
 * published that is its `seq`. On an `immediate` stream the event may still be lost, and
 * another attempt may put another event at its seq, so the cursor says whose event it was:
 * `<fence>-<seq>`.
 */
import { OncefleetError } from '../errors.ts';

/** A seq (-1: before the first event), as a number or as text, or `<fence>-<seq>`. */
export type Cursor = number | string;

export interface Place {
  /** The last event's; -1 for none. */
  seq: number;
  /** Undefined: the event is committed, its seq alone says which it is. */
  fence: number | undefined;
}

const CURSOR = /^(?:(-1|\d{1,15})|(\d{1,15})-(\d{1,15}))$/;

/** @throws OncefleetError CURSOR_INVALID */
export function parseCursor(cursor: Cursor): Place {
  const [, seq, fence, fencedSeq] = CURSOR.exec(String(cursor)) ?? [];
  if (seq !== undefined) return { seq: Number(seq), fence: undefined };
  if (fence !== undefined) return { seq: Number(fencedSeq), fence: Number(fence) };
  throw new OncefleetError(
    'CURSOR_INVALID',
    'A cursor is the seq of the last event seen (-1 for the start), or <fence>-<seq> as the stream gave it',
  );
}

/** The cursor of a reader that has just been given an event. */
export function cursorAt(seq: number, fence: number, immediate: boolean): Cursor {
  return immediate ? `${fence}-${seq}` : seq;
}
