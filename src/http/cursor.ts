/** Cursors as requests and frames carry them. */
import { type Cursor, parseCursor } from '../journal/cursor.ts';
import type { StreamEvent } from '../journal/event.ts';

/** What a reader that has this event resumes after. */
export function cursorOf(event: StreamEvent): string {
  return String(event.cursor);
}

/**
 * The reader's cursor, from the first candidate that has one. The header comes first: a reconnecting
 * EventSource still has the cursor of its first connect in its URL.
 *
 * @throws OncefleetError CURSOR_INVALID
 */
export function readCursor(...candidates: (string | undefined)[]): Cursor {
  const cursor = candidates.find((text) => text !== undefined && text !== '');
  if (cursor === undefined) return -1;
  const { seq, fence } = parseCursor(cursor);
  return fence === undefined ? seq : cursor;
}
