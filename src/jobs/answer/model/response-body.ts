/**
 * The body of a model server's answer, as far as it is worth reading.
 *
 * An answer is whole when the server says so, and not when it closes the connection: some servers, and proxies
 * before them, leave it open for minutes. Whatever comes without end is cut.
 */
import { createParser } from 'eventsource-parser';
import { atMost } from './at-most.ts';
import { brokenOff } from './errors.ts';

/** How long the usage is waited for once the answer is whole. */
const USAGE_WAIT_MS = 2_000;
/** Of an answer that is no event stream: an error, or a page of HTML. In bytes. */
const MAX_OTHER_BYTES = 65_536;
/** A line of an event stream that does not end is no event. In bytes. */
const MAX_LINE_BYTES = 4_194_304;

type Fetch = typeof globalThis.fetch;
type Bytes = TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>;

/** `fetch`, whose bodies end with the answer they carry. */
export function endWithAnswer(fetch: Fetch): Fetch {
  return async (target, init) => {
    const response = await fetch(target, init);
    if (response.body === null) return response;
    const isEventStream = response.ok && /^text\/event-stream\b/i.test(response.headers.get('content-type') ?? '');
    const body = response.body.pipeThrough(isEventStream ? untilFinished() : atMost(MAX_OTHER_BYTES));
    return new Response(body, {
      status: response.status,
      statusText: response.statusText,
      headers: response.headers,
    });
  };
}

/** Ends after the finish reason and the usage, whichever comes last, or soon after the finish reason alone. */
function untilFinished(): Bytes {
  const decoder = new TextDecoder();
  let isFinished = false;
  let hasUsage = false;
  let isOver = false;
  let unended = 0;
  let timer: NodeJS.Timeout | undefined;
  const parser = createParser({
    onEvent({ data }) {
      if (data === '[DONE]') {
        isOver = true;
        return;
      }
      const chunk = parseChunk(data);
      isFinished ||= chunk?.choices?.some((choice) => choice?.finish_reason != null) === true;
      hasUsage ||= chunk?.usage != null;
      isOver ||= isFinished && hasUsage;
    },
  });
  return new TransformStream({
    transform(bytes, controller) {
      controller.enqueue(bytes);
      const newline = bytes.lastIndexOf(0x0a);
      unended = newline === -1 ? unended + bytes.length : bytes.length - newline;
      if (unended > MAX_LINE_BYTES) throw brokenOff(`The model server sent a line of over ${MAX_LINE_BYTES} bytes`);
      parser.feed(decoder.decode(bytes, { stream: true }));
      if (isOver) {
        clearTimeout(timer);
        controller.terminate();
      } else if (isFinished && timer === undefined) {
        timer = setTimeout(() => controller.terminate(), USAGE_WAIT_MS);
      }
    },
    flush: () => clearTimeout(timer),
  });
}

interface Chunk {
  choices?: ({ finish_reason?: unknown } | null)[];
  usage?: unknown;
}

function parseChunk(data: string): Chunk | undefined {
  // Most chunks carry a few letters and neither of the two; a text that has the words costs a parse, no more.
  if (!data.includes('"finish_reason"') && !data.includes('"usage"')) return undefined;
  try {
    const parsed: unknown = JSON.parse(data);
    const chunk = (typeof parsed === 'object' && parsed !== null ? parsed : {}) as Chunk;
    return Array.isArray(chunk.choices) ? chunk : { usage: chunk.usage };
  } catch {
    // The SDK says what is wrong with it.
    return undefined;
  }
}
