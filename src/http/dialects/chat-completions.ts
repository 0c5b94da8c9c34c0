/**
 * The dialect of OpenAI's Chat Completions: chunks of one choice, which have no cursor and cannot be taken back.
 *
 * A reader whose text an attempt takes back is cut off. It asks again under its key, and is sent what counts by then alone.
 */
import type { AttemptEvent, StreamEvent, TerminalEvent } from '../../journal/event.ts';
import { KEEPALIVE_FRAME } from '../sse.ts';
import { type Dialect, type Placed, ReconnectRequired } from './dialect.ts';
import { NOTHING_SAID, say, startOver, type Transcript, textOf, textOfResult } from './transcript.ts';

interface CompletionOptions {
  jobId: string;
  /** Seconds since 1970. */
  createdAt: number;
  model: string;
  /** A chunk with the usage is the last one. */
  includeUsage?: boolean;
  /** Seq of the attempt before which nothing is sent; Infinity: nothing is sent but the whole at the end is kept. */
  from?: number;
}

/** How a failed or cancelled job is told, in a stream and without. */
interface CompletionError {
  error: { message: string; type: 'server_error'; code: string; param: null };
}

/** What depends on the events so far, and not on who reads them. */
interface State {
  said: Transcript;
  ending: TerminalEvent | undefined;
  /** The seq of the last attempt that took something back; -1: none did. */
  startedOver: number;
}

const COMMON = { plain: {}, withUsage: {} };

export class ChatCompletionDialect implements Dialect {
  readonly shared = false;
  readonly headers = {};
  readonly keepalive = KEEPALIVE_FRAME;
  readonly #options: CompletionOptions;
  #state: State = { said: NOTHING_SAID, ending: undefined, startedOver: -1 };
  /** Nothing is sent before the attempt `from`. */
  #waits: boolean;
  /** JSON of a chunk up to its choices, the same in each. */
  readonly #chunkHead: string;

  constructor(options: CompletionOptions) {
    this.#options = options;
    this.#waits = (options.from ?? -1) >= 0;
    this.#chunkHead = JSON.stringify(this.#head('chat.completion.chunk')).slice(0, -1);
  }

  /** The seq of the last attempt that took something back; -1: none did. */
  get startedOver(): number {
    return this.#state.startedOver;
  }

  /** One that waits is sent less than others. */
  get common(): object | undefined {
    if (this.#waits) return undefined;
    return this.#options.includeUsage === true ? COMMON.withUsage : COMMON.plain;
  }

  save(): unknown {
    return { ...this.#state };
  }

  load(state: unknown): void {
    this.#state = { ...(state as State) };
  }

  open(): string {
    return this.#chunk({ role: 'assistant', content: '' });
  }

  event(event: StreamEvent): string {
    const state = this.#state;
    state.said = say(state.said, event);
    if (this.#waits) return '';
    const { type } = event.event;
    if (type === 'delta') return this.#text('content', textOf(event.event));
    return type === 'reasoning' ? this.#text('reasoning_content', textOf(event.event)) : '';
  }

  attempt({ seq, event }: Placed<AttemptEvent>): string {
    const state = this.#state;
    const { said } = state;
    const kept = startOver(said, event, seq);
    const takesBack = kept.text.length < said.text.length || kept.reasoning.length < said.reasoning.length;
    state.said = kept;
    if (takesBack) state.startedOver = seq;
    if (this.#waits) {
      this.#waits = seq < (this.#options.from ?? -1);
      return this.#waits ? '' : this.#text('reasoning_content', kept.reasoning) + this.#text('content', kept.text);
    }
    if (takesBack) throw new ReconnectRequired();
    return '';
  }

  end({ event }: Placed<TerminalEvent>): string {
    // A later one takes its place: a job that failed may have been redriven.
    this.#state.ending = event;
    return '';
  }

  close(): string {
    const { error } = this;
    // Without a finish_reason and [DONE]: the SDK throws what it is told. The body ends cleanly, for a socket that is
    // destroyed may take the last frame with it, and the SDK would then throw that the connection broke.
    if (error !== undefined) return `data: ${JSON.stringify(error)}\n\n`;
    const whole = this.#state.said.text === '' ? this.#text('content', this.text) : '';
    const usage = this.#options.includeUsage === true ? this.#frame([], this.#usage() ?? null) : '';
    return `${whole}${this.#chunk({}, 'stop')}${usage}data: [DONE]\n\n`;
  }

  /** Without an ending the SDK would take what it has for all. */
  unavailable(): undefined {
    return undefined;
  }

  /** The text that counts. */
  get text(): string {
    const { said, ending } = this.#state;
    return said.text === '' && ending?.type === 'end' ? textOfResult(ending.result) : said.text;
  }

  /** Why there is no completion; undefined: there is, or will be. */
  get error(): CompletionError | undefined {
    const { ending } = this.#state;
    if (ending === undefined || ending.type === 'end') return undefined;
    const { code, message } =
      ending.type === 'error' ? ending.error : { code: 'CANCELLED', message: 'The job was cancelled' };
    return { error: { message, type: 'server_error', code, param: null } };
  }

  /** The whole, once the job has ended well. */
  completion(): Record<string, unknown> {
    const { reasoning } = this.#state.said;
    const message = {
      role: 'assistant',
      content: this.text,
      refusal: null,
      ...(reasoning === '' ? {} : { reasoning_content: reasoning }),
    };
    const usage = this.#usage();
    return {
      ...this.#head('chat.completion'),
      choices: [{ index: 0, message, logprobs: null, finish_reason: 'stop' }],
      ...(usage === undefined ? {} : { usage }),
    };
  }

  #text(field: 'content' | 'reasoning_content', text: string): string {
    return text === '' ? '' : this.#chunk({ [field]: text });
  }

  #chunk(delta: object, reason: 'stop' | null = null): string {
    return this.#frame([{ index: 0, delta, logprobs: null, finish_reason: reason }], null);
  }

  #frame(choices: readonly object[], usage: object | null): string {
    const withUsage = this.#options.includeUsage === true ? `,"usage":${JSON.stringify(usage)}` : '';
    return `data: ${this.#chunkHead},"choices":${JSON.stringify(choices)}${withUsage}}\n\n`;
  }

  #head(object: string) {
    const { jobId, createdAt, model } = this.#options;
    return { id: `chatcmpl-${jobId.replaceAll('-', '')}`, object, created: createdAt, model };
  }

  #usage(): object | undefined {
    const { usage } = this.#state.said;
    if (usage === undefined) return undefined;
    return {
      prompt_tokens: usage.inputTokens,
      completion_tokens: usage.outputTokens,
      total_tokens: usage.totalTokens,
    };
  }
}
