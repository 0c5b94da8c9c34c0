/** Server-sent events as a reader that is never done before the terminal event. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Lines } from './lines.ts';

const RETRY_MS = 300;
const TERMINAL: ReadonlySet<string> = new Set(['end', 'error', 'cancelled']);

export interface Frame {
  /** The event's seq; absent on frames that are not in the journal. */
  id: string | undefined;
  type: string;
  data: string;
}

export interface SeenEvent {
  seq: number;
  type: string;
  /** The exact text of the journal. */
  json: string;
}

/**
 * Follows a job to its end. Whenever the connection breaks, or the caller cuts it, it is
 * opened again with Last-Event-ID, so that the story continues after the last event seen.
 */
export class Reader {
  readonly #url: string;
  readonly #signal: AbortSignal;
  #cut = new AbortController();
  /** How often it connected. */
  connections = 0;
  lastEventId: string | undefined;

  constructor(url: string, signal: AbortSignal) {
    this.#url = url;
    this.#signal = signal;
  }

  /** Breaks the connection, as a network would. */
  cut(): void {
    this.#cut.abort();
  }

  /** @throws Error the server refuses, or the story has a gap or says something twice */
  async *events(): AsyncGenerator<SeenEvent, void, undefined> {
    let next = 0;
    for (;;) {
      this.#signal.throwIfAborted();
      this.#cut = new AbortController();
      this.connections++;
      try {
        for await (const frame of this.#connect()) {
          if (frame.id === undefined) continue;
          const seq = Number(frame.id);
          if (seq !== next) throw new BrokenStory(`the stream gave seq ${frame.id} where ${next} was due`);
          next = seq + 1;
          this.lastEventId = frame.id;
          yield { seq, type: frame.type, json: frame.data };
          if (TERMINAL.has(frame.type)) return;
        }
      } catch (error) {
        if (error instanceof BrokenStory || this.#signal.aborted) throw error;
      }
      await sleep(RETRY_MS, undefined, { signal: this.#signal });
    }
  }

  async *#connect(): AsyncGenerator<Frame, void, undefined> {
    const response = await fetch(this.#url, {
      headers: {
        accept: 'text/event-stream',
        ...(this.lastEventId === undefined ? {} : { 'last-event-id': this.lastEventId }),
      },
      signal: AbortSignal.any([this.#signal, this.#cut.signal]),
    });
    if (response.status !== 200 || response.body === null) {
      throw new BrokenStory(`the stream answered ${response.status}: ${(await response.text()).slice(0, 300)}`);
    }
    yield* parseFrames(response.body.pipeThrough(new TextDecoderStream()));
  }
}

class BrokenStory extends Error {}

/** @see https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation */
export async function* parseFrames(chunks: AsyncIterable<string>): AsyncGenerator<Frame, void, undefined> {
  const lines = new Lines();
  let id: string | undefined;
  let type = 'message';
  let data: string[] = [];
  for await (const chunk of chunks) {
    for (const line of lines.push(chunk)) {
      if (line === '') {
        if (data.length > 0) yield { id, type, data: data.join('\n') };
        [id, type, data] = [undefined, 'message', []];
        continue;
      }
      const colon = line.indexOf(':');
      const field = colon === -1 ? line : line.slice(0, colon);
      const value = colon === -1 ? '' : line.slice(colon + 1).replace(/^ /, '');
      if (field === 'id') id = value;
      else if (field === 'event') type = value;
      else if (field === 'data') data.push(value);
    }
  }
}
