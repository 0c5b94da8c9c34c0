/**
 * Framing of server-sent events: pure text, no sockets.
 * @see https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
 */

/** Quiet streams get this so that proxies and clients see a live connection. */
export const KEEPALIVE_FRAME = ': keepalive\n\n';

/** A parser ends a line at CRLF, LF or CR, so a raw one inside data would cut the frame. */
const LINE_BREAK = /\r\n|\r|\n/;

interface SseFrame {
  /** The cursor this frame leaves its reader at. Absent for frames that are not in the journal. */
  id?: string | number;
  event?: string;
  data: string;
}

/**
 * One frame, closed by its blank line.
 *
 * @throws RangeError an id or event name with a line break or NUL in it, which no frame can carry
 */
export function formatFrame(frame: SseFrame): string {
  let text = '';
  if (frame.id !== undefined) text += `id: ${oneLine('id', String(frame.id))}\n`;
  if (frame.event !== undefined) text += `event: ${oneLine('event', frame.event)}\n`;
  // JSON text has no line breaks of its own; the test saves a split of every token's frame.
  if (LINE_BREAK.test(frame.data)) for (const line of frame.data.split(LINE_BREAK)) text += `data: ${line}\n`;
  else text += `data: ${frame.data}\n`;
  return `${text}\n`;
}

/** Tells the reader how long to wait before it connects again; the comment is for people. */
export function formatRetry(delayMs: number, comment?: string): string {
  return `retry: ${delayMs}\n${comment === undefined ? '' : `: ${oneLine('comment', comment)}\n`}\n`;
}

function oneLine(what: string, text: string): string {
  if (/[\r\n\0]/.test(text)) throw new RangeError(`SSE ${what} with a line break or NUL`);
  return text;
}
