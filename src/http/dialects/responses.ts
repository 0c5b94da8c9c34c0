/**
 * The dialect of OpenAI's Responses API, background mode: every event has a number, and a client resumes after the
 * last number that it has.
 *
 * Frames depend on those before them, so the journal is read from its start, and those up to the client's number are
 * left out. Numbers are counted from the start as well, and so are the same for each reader. Those of an ending stay
 * taken where a redrive has taken the ending back.
 */
import type { AttemptEvent, StreamEvent, TerminalEvent } from '../../journal/event.ts';
import { KEEPALIVE_FRAME } from '../sse.ts';
import type { Dialect, Placed } from './dialect.ts';
import { NOTHING_SAID, type Source, say, startOver, type Transcript, textOf, textOfResult } from './transcript.ts';

/** What the request said and its response says again. */
export interface ResponseHead {
  /** Of the job. */
  jobId: string;
  /** Seconds since 1970. */
  createdAt: number;
  model: string;
  instructions: string | null;
  metadata: Readonly<Record<string, string>>;
  previousResponseId: string | null;
  temperature: number | null;
  topP: number | null;
}

type Status = 'queued' | 'in_progress' | 'completed' | 'failed' | 'incomplete' | 'cancelled';

interface OutputItem {
  id: string;
  type: 'message';
  role: 'assistant';
  status: 'in_progress' | 'completed' | 'incomplete';
  content: ReturnType<typeof textPart>[];
}

interface State {
  /** Of the next event. */
  number: number;
  said: Transcript;
  /** Items that were added; the last one is open or not. */
  items: number;
  isOpen: boolean;
  /** The last item is in the output: no attempt has closed it to start over. */
  isShown: boolean;
  status: Status;
  error: { code: 'server_error'; message: string } | null;
  /** The ending, until it is known to be the last. */
  ending: string;
}

export function responseIdOf(jobId: string): string {
  return `resp_${jobId.replaceAll('-', '')}`;
}

/** The job of a response; undefined: it is no id of one. */
export function jobIdOf(responseId: string): string | undefined {
  const hex = /^resp_([0-9a-f]{32})$/i.exec(responseId)?.[1]?.toLowerCase();
  return hex?.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

const COMMON = {};

export class ResponsesDialect implements Dialect {
  readonly shared = false;
  readonly headers = {};
  readonly keepalive = KEEPALIVE_FRAME;
  readonly #head: ResponseHead;
  /** The reader has the events up to this number. */
  readonly #after: number;
  readonly #hex: string;
  #state: State = {
    number: 0,
    said: NOTHING_SAID,
    items: 0,
    isOpen: false,
    isShown: false,
    status: 'queued',
    error: null,
    ending: '',
  };

  constructor(head: ResponseHead, after = -1) {
    this.#head = head;
    this.#after = after;
    this.#hex = head.jobId.replaceAll('-', '');
  }

  /** Readers of one stream that leave nothing out have the same state after the same events. */
  get common(): object | undefined {
    return this.#state.number > this.#after ? COMMON : undefined;
  }

  save(): unknown {
    return { ...this.#state };
  }

  load(state: unknown): void {
    this.#state = { ...(state as State) };
  }

  open(): string {
    return this.#lifecycle('response.created') + this.#lifecycle('response.queued');
  }

  event(event: StreamEvent): string {
    const begun = this.#begin();
    const state = this.#state;
    state.said = say(state.said, event);
    if (event.event.type !== 'delta') return begun;
    const delta = textOf(event.event);
    if (delta === '') return begun;
    return begun + (state.isOpen ? '' : this.#addItem()) + this.#delta(delta);
  }

  attempt({ seq, event }: Placed<AttemptEvent>): string {
    const begun = this.#begin();
    const state = this.#state;
    // A failed job was redriven: that was not its end.
    state.ending = '';
    state.error = null;
    state.status = 'in_progress';
    const kept = startOver(state.said, event, seq);
    if (kept.text.length === state.said.text.length) {
      state.said = kept;
      return begun;
    }
    const closed = state.isOpen ? this.#closeItem('incomplete') : '';
    state.isShown = false;
    state.said = kept;
    return begun + closed + (kept.text === '' ? '' : this.#addItem() + this.#delta(kept.text));
  }

  end({ event }: Placed<TerminalEvent>): string {
    const begun = this.#begin();
    const state = this.#state;
    const { isOpen } = state;
    state.ending = this.#endingOf(event);
    // Nothing of the ending has been sent yet: after a redrive it will not be, and the item is open as before.
    if (state.status === 'failed') state.isOpen = isOpen;
    return begun;
  }

  close(): string {
    return this.#state.ending;
  }

  /** Without a terminal event the SDK would take what it has for all. */
  unavailable(): undefined {
    return undefined;
  }

  get text(): string {
    return this.#state.said.text;
  }

  /** The response as it stands. */
  snapshot(): Record<string, unknown> {
    const { model, instructions, metadata, previousResponseId, temperature, topP, createdAt } = this.#head;
    const { status, error, said, isShown } = this.#state;
    const { usage } = said;
    return {
      id: `resp_${this.#hex}`,
      object: 'response',
      created_at: createdAt,
      status,
      background: true,
      error,
      incomplete_details: status === 'cancelled' ? { reason: 'cancelled' } : null,
      instructions,
      max_output_tokens: null,
      metadata,
      model,
      output: isShown ? [this.#item(itemStatusOf(status))] : [],
      parallel_tool_calls: true,
      previous_response_id: previousResponseId,
      store: true,
      temperature,
      text: { format: { type: 'text' } },
      tool_choice: 'auto',
      tools: [],
      top_p: topP,
      truncation: 'disabled',
      usage:
        usage === undefined
          ? null
          : {
              input_tokens: usage.inputTokens,
              input_tokens_details: { cached_tokens: 0 },
              output_tokens: usage.outputTokens,
              output_tokens_details: { reasoning_tokens: 0 },
              total_tokens: usage.totalTokens,
            },
    };
  }

  #begin(): string {
    if (this.#state.status !== 'queued') return '';
    this.#state.status = 'in_progress';
    return this.#lifecycle('response.in_progress');
  }

  #endingOf(event: TerminalEvent): string {
    const state = this.#state;
    if (event.type === 'end') {
      let text = '';
      if (!state.isOpen) {
        const whole = state.said.text === '' ? textOfResult(event.result) : '';
        state.said = { ...state.said, text: state.said.text + whole };
        text = this.#addItem() + (state.said.text === '' ? '' : this.#delta(state.said.text));
      }
      text += this.#closeItem('completed');
      state.status = 'completed';
      return text + this.#lifecycle('response.completed');
    }
    const closed = state.isOpen ? this.#closeItem('incomplete') : '';
    if (event.type === 'cancelled') {
      state.status = 'cancelled';
      return closed + this.#lifecycle('response.incomplete');
    }
    state.status = 'failed';
    state.error = { code: 'server_error', message: event.error.message };
    return closed + this.#lifecycle('response.failed');
  }

  #lifecycle(type: string): string {
    return this.#frame(type, JSON.stringify(this.snapshot()), 'response');
  }

  #addItem(): string {
    const state = this.#state;
    state.items++;
    state.isOpen = true;
    state.isShown = true;
    const index = state.items - 1;
    const item = { ...this.#item('in_progress'), content: [] };
    return (
      this.#frame('response.output_item.added', JSON.stringify(item), 'item', `"output_index":${index},`) +
      this.#frame('response.content_part.added', JSON.stringify(textPart('', [])), 'part', this.#place())
    );
  }

  #delta(text: string): string {
    return this.#frame('response.output_text.delta', JSON.stringify(text), 'delta', `${this.#place()}"logprobs":[],`);
  }

  #closeItem(status: 'completed' | 'incomplete'): string {
    const state = this.#state;
    const item = this.#item(status);
    const [part] = item.content as [ReturnType<typeof textPart>];
    const place = this.#place();
    const annotations = part.annotations.map((annotation, index) =>
      this.#frame(
        'response.output_text.annotation.added',
        JSON.stringify(annotation),
        'annotation',
        `${place}"annotation_index":${index},`,
      ),
    );
    state.isOpen = false;
    return (
      annotations.join('') +
      this.#frame('response.output_text.done', JSON.stringify(part.text), 'text', `${place}"logprobs":[],`) +
      this.#frame('response.content_part.done', JSON.stringify(part), 'part', place) +
      this.#frame('response.output_item.done', JSON.stringify(item), 'item', `"output_index":${state.items - 1},`)
    );
  }

  #item(status: OutputItem['status']): OutputItem {
    const { text, sources } = this.#state.said;
    const id = this.#itemId();
    return { id, type: 'message', role: 'assistant', status, content: [textPart(text, sources.map(toAnnotation))] };
  }

  #itemId(): string {
    return `msg_${this.#hex}_${this.#state.items - 1}`;
  }

  #place(): string {
    return `"item_id":"${this.#itemId()}","output_index":${this.#state.items - 1},"content_index":0,`;
  }

  /** Takes the next number. @param json of the field */
  #frame(type: string, json: string, field: string, others = ''): string {
    const number = this.#state.number++;
    if (number <= this.#after) return '';
    return `event: ${type}\ndata: {"type":"${type}","sequence_number":${number},${others}"${field}":${json}}\n\n`;
  }
}

function isFinal(status: Status): boolean {
  return status !== 'queued' && status !== 'in_progress';
}

function itemStatusOf(status: Status): OutputItem['status'] {
  if (!isFinal(status)) return 'in_progress';
  return status === 'completed' ? 'completed' : 'incomplete';
}

function textPart(text: string, annotations: ReturnType<typeof toAnnotation>[]) {
  return { type: 'output_text' as const, text, annotations, logprobs: [] };
}

function toAnnotation({ n, path, documentId }: Source) {
  return { type: 'file_citation' as const, file_id: documentId, filename: path, index: n - 1 };
}
