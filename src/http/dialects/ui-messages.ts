/**
 * The dialect of the AI SDK's UI message streams: chunks of one message of the assistant.
 *
 * A client that resumes says nothing of where it was: it is sent the whole message again, under the same id. What an
 * attempt takes back cannot be taken back in such a stream, but in one whose reader understands `reset-step`. For others
 * the response is cut off, and a reader that comes then is sent what counts: `from` says where that begins.
 */
import type { AttemptEvent, StreamEvent, TerminalEvent } from '../../journal/event.ts';
import { supersededFrom } from '../../journal/superseded.ts';
import { KEEPALIVE_FRAME } from '../sse.ts';
import { type Dialect, type Placed, ReconnectRequired } from './dialect.ts';
import { readSources, type Source, textOf, textOfResult } from './transcript.ts';

export interface UiMessageOptions {
  /** The job, whose id gives the message's. */
  jobId: string;
  /** The reader understands `reset-step`: it is told to start over within the response. */
  resets?: boolean;
  /** What was taken back before the attempt with this seq is not sent; `startedOver` of a read before says it. Infinity for that. */
  from?: number;
  /** The reader has as many chunks. */
  skip?: number;
}

/** An event that the message has a part of, and those before it. */
interface Shown {
  readonly seq: number;
  /** Undefined where it will not be sent again. */
  readonly event: StreamEvent | undefined;
  readonly before: Shown | undefined;
}

interface State {
  /** Chunks so far. */
  chunks: number;
  /** Parts so far, for their ids. */
  parts: number;
  open: 'text' | 'reasoning' | undefined;
  /** Sources that were sent, as JSON: a later list may name them again. */
  sources: ReadonlySet<string>;
  shown: Shown | undefined;
  hasText: boolean;
  /** The ending, until it is known to be the last. */
  ending: TerminalEvent | undefined;
}

const NO_SOURCES: ReadonlySet<string> = new Set();
const COMMON = { cut: {}, resets: {} };

const MEDIA_TYPES: Readonly<Record<string, string>> = {
  md: 'text/markdown',
  html: 'text/html',
  htm: 'text/html',
  pdf: 'application/pdf',
  csv: 'text/csv',
  json: 'application/json',
  docx: 'application/vnd.openxmlformats-officedocument.wordprocessingml.document',
};

export class UiMessageDialect implements Dialect {
  readonly shared = false;
  readonly headers = { 'x-vercel-ai-ui-message-stream': 'v1' };
  readonly keepalive = KEEPALIVE_FRAME;
  readonly #options: Required<UiMessageOptions>;
  #state: State = {
    chunks: 0,
    parts: 0,
    open: undefined,
    sources: NO_SOURCES,
    shown: undefined,
    hasText: false,
    ending: undefined,
  };
  /** Nothing is sent before the attempt `from`. */
  #waits: boolean;
  #startedOver = -1;

  constructor({ jobId, resets = false, from = -1, skip = 0 }: UiMessageOptions) {
    this.#options = { jobId, resets, from, skip };
    this.#waits = from >= 0;
  }

  /** The seq of the last attempt that took something back; -1: none did. */
  get startedOver(): number {
    return this.#startedOver;
  }

  get common(): object | undefined {
    const { resets, from, skip } = this.#options;
    if (from >= 0 || this.#state.chunks < skip) return undefined;
    return resets ? COMMON.resets : COMMON.cut;
  }

  save(): unknown {
    return { ...this.#state };
  }

  load(state: unknown): void {
    this.#state = { ...(state as State) };
  }

  open(): string {
    const messageId = `msg_${this.#options.jobId.replaceAll('-', '')}`;
    return this.#chunk({ type: 'start', messageId }) + this.#chunk({ type: 'start-step' });
  }

  event(event: StreamEvent): string {
    const { type } = event.event;
    // The fleet's own: a part of no message, but people may want to see it.
    if (type === 'retry') {
      const { attempt, delayMs } = event.event;
      return this.#waits ? '' : this.#chunk({ type: 'data-retry', data: { attempt, delayMs }, transient: true });
    }
    const isText = type === 'delta' || type === 'reasoning';
    if (isText && textOf(event.event) === '') return '';
    const isKept = this.#options.resets || (this.#waits && this.#options.from !== Infinity);
    this.#state.shown = { seq: event.seq, event: isKept ? event : undefined, before: this.#state.shown };
    return this.#waits ? '' : this.#show(event);
  }

  attempt({ seq, event }: Placed<AttemptEvent>): string {
    const state = this.#state;
    // A failed job was redriven: that was not its end.
    state.ending = undefined;
    const superseded = supersededFrom(event, seq);
    let { shown } = state;
    while (shown !== undefined && shown.seq >= superseded) shown = shown.before;
    const takesBack = shown !== state.shown;
    if (takesBack) this.#startedOver = seq;
    state.shown = shown;
    if (this.#waits) {
      this.#waits = seq < this.#options.from;
      return this.#waits ? '' : this.#showAll(shown);
    }
    if (!takesBack) return '';
    if (!this.#options.resets) throw new ReconnectRequired();
    state.open = undefined;
    state.sources = NO_SOURCES;
    state.hasText = false;
    return this.#chunk({ type: 'reset-step' }) + this.#showAll(shown);
  }

  end({ event }: Placed<TerminalEvent>): string {
    this.#state.ending = event;
    return '';
  }

  close(): string {
    const { ending } = this.#state;
    if (ending === undefined) return '';
    let text = '';
    if (ending.type === 'end' && !this.#state.hasText) {
      const whole = textOfResult(ending.result);
      if (whole !== '') text += this.#say('text', whole);
    }
    text += this.#closePart();
    if (ending.type === 'error') text += this.#chunk({ type: 'error', errorText: ending.error.message });
    if (ending.type === 'cancelled') text += this.#chunk({ type: 'abort' });
    const finishReason = { end: 'stop', error: 'error', cancelled: 'other' }[ending.type];
    text += this.#chunk({ type: 'finish-step' }) + this.#chunk({ type: 'finish', finishReason });
    return `${text}data: [DONE]\n\n`;
  }

  /** A clean end without `finish` would be taken for a whole message. */
  unavailable(): undefined {
    return undefined;
  }

  #showAll(last: Shown | undefined): string {
    const events: StreamEvent[] = [];
    for (let one = last; one !== undefined; one = one.before) if (one.event !== undefined) events.push(one.event);
    return events
      .reverse()
      .map((event) => this.#show(event))
      .join('');
  }

  #show({ event }: StreamEvent): string {
    const { type } = event;
    if (type === 'delta') return this.#say('text', textOf(event));
    if (type === 'reasoning') return this.#say('reasoning', textOf(event));
    const fields: Record<string, unknown> = { ...event };
    if (type === 'sources') return this.#source(readSources(fields.sources));
    const { type: _, ...others } = fields;
    if (!type.startsWith('data-')) return this.#chunk({ type: `data-${type}`, id: type, data: others });
    const { id, data = null, transient } = fields;
    return this.#chunk({
      type,
      ...(typeof id === 'string' ? { id } : {}),
      data,
      ...(transient === true ? { transient } : {}),
    });
  }

  #say(kind: 'text' | 'reasoning', delta: string): string {
    const state = this.#state;
    if (kind === 'text') state.hasText = true;
    let begun = '';
    if (state.open !== kind) {
      begun = this.#closePart();
      state.open = kind;
      state.parts++;
      begun += this.#chunk({ type: `${kind}-start`, id: this.#partId() });
    }
    return begun + this.#chunk({ type: `${kind}-delta`, id: this.#partId(), delta });
  }

  #closePart(): string {
    const { open } = this.#state;
    if (open === undefined) return '';
    this.#state.open = undefined;
    return this.#chunk({ type: `${open}-end`, id: this.#partId() });
  }

  #partId(): string {
    return `part-${this.#state.parts}`;
  }

  #source(sources: readonly Source[]): string {
    let text = '';
    for (const source of sources) {
      const chunk = toChunk(source);
      const json = JSON.stringify(chunk);
      if (this.#state.sources.has(json)) continue;
      this.#state.sources = new Set(this.#state.sources).add(json);
      text += this.#chunk(chunk);
    }
    return text;
  }

  /** Counts it. */
  #chunk(chunk: { type: string; [field: string]: unknown }): string {
    const number = this.#state.chunks++;
    return number < this.#options.skip ? '' : `data: ${JSON.stringify(chunk)}\n\n`;
  }
}

function toChunk({ n, path, heading, documentId }: Source): { type: string; [field: string]: unknown } {
  const sourceId = String(n);
  const title = heading === '' ? path : heading;
  const providerMetadata = { oncefleet: { documentId, path, heading } };
  if (/^https?:\/\//i.test(path)) return { type: 'source-url', sourceId, url: path, title, providerMetadata };
  const extension = /\.(\w+)$/.exec(path)?.[1]?.toLowerCase() ?? '';
  const mediaType = MEDIA_TYPES[extension] ?? 'text/plain';
  return { type: 'source-document', sourceId, mediaType, title, filename: path, providerMetadata };
}
