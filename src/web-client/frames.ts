/** Reads server-sent events from a body, as a fleet's web process writes them: lines end with LF. */

export interface Frame {
  id?: string;
  event?: string;
  data?: string;
  /** ms to wait before the next connection. */
  retry?: number;
}

/** @param heard called for each piece that comes, also of a comment */
export async function* readFrames(
  body: ReadableStream<Uint8Array>,
  heard: () => void,
): AsyncGenerator<Frame, void, undefined> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  // Of a line that has not ended, pieces: a large event comes in hundreds of them.
  let pieces: string[] = [];
  let frame: Frame = {};
  try {
    for (;;) {
      const { done, value } = await reader.read();
      // A frame without its blank line is not whole.
      if (done) return;
      heard();
      const lines = decoder.decode(value, { stream: true }).split('\n');
      for (const [index, text] of lines.entries()) {
        pieces.push(text);
        if (index === lines.length - 1) continue;
        const line = pieces.join('');
        pieces = [];
        if (line !== '') read(frame, line);
        else {
          if (Object.keys(frame).length > 0) yield frame;
          frame = {};
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function read(frame: Frame, line: string): void {
  const colon = line.indexOf(':');
  const value = line.slice(colon + 1).replace(/^ /, '');
  switch (line.slice(0, colon)) {
    case 'id':
      frame.id = value;
      break;
    case 'event':
      frame.event = value;
      break;
    case 'data':
      frame.data = frame.data === undefined ? value : `${frame.data}\n${value}`;
      break;
    case 'retry':
      frame.retry = Number(value);
      break;
    default:
    // A comment, or what a later server has.
  }
}
