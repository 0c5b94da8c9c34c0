/** The fleet's own dialect: each event is a frame with its cursor, its type and its JSON as the journal holds it. */
import type { StreamEvent } from '../../journal/event.ts';
import { cursorOf } from '../cursor.ts';
import { formatFrame, formatRetry, KEEPALIVE_FRAME } from '../sse.ts';
import type { Dialect } from './dialect.ts';

/** EventSource's own default is several seconds; a cut stream should resume at once. */
const RECONNECT_MS = 1_000;
/** While this process drains, or Postgres is unreachable: give them time. */
const RECONNECT_LATER_MS = 5_000;

export const NATIVE: Dialect = {
  shared: true,
  headers: {},
  keepalive: KEEPALIVE_FRAME,
  open: () => formatRetry(RECONNECT_MS),
  event: formatEvent,
  attempt: formatEvent,
  // With an id, a reader would resume from an event that is not in the journal.
  rewind: (event) => formatFrame({ event: event.event.type, data: event.json }),
  end: formatEvent,
  close: () => '',
  unavailable: (code) => formatRetry(RECONNECT_LATER_MS, code),
};

function formatEvent(event: StreamEvent): string {
  return formatFrame({ id: cursorOf(event), event: event.event.type, data: event.json });
}
