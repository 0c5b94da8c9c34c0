/**
 * What a stream comes to, whatever its attempts: text, sources, progress, outcome.
 *
 * An attempt that starts over supersedes all before it, one that resumes what came after its
 * checkpoint, and a `rewind` what a crash lost. Here that is done once, for every reader.
 * Imports nothing at run time, so that browsers can have it (`oncefleet/fold`).
 */
import type { StoredFailure } from '../errors.ts';
import type { AttemptReason, JobEvent, SystemEvent } from './event.ts';
import { supersededFrom } from './superseded.ts';

/** An event in its place: a `StreamEvent`, or `{ seq, event }` made of a server-sent event. */
export interface FoldableEvent<E extends JobEvent = JobEvent> {
  readonly seq: number;
  readonly event: E | SystemEvent;
}

export interface FoldState<V = undefined> {
  /** `open` until the terminal event, and again after a redrive. */
  readonly status: 'open' | 'completed' | 'failed' | 'cancelled';
  /** The texts of `delta` events, joined. */
  readonly text: string;
  /** The last `sources` event's list. */
  readonly sources: readonly unknown[];
  readonly progress: { readonly done: number; readonly total?: number; readonly message?: string } | undefined;
  /** 1 until an `attempt` event says more. */
  readonly attempt: number;
  /** Why the attempt started; undefined of the first. */
  readonly attemptReason: AttemptReason | undefined;
  /** An attempt failed and the next has not started. */
  readonly retry: { readonly delayMs: number; readonly error: StoredFailure } | undefined;
  readonly result: unknown;
  readonly error: StoredFailure | undefined;
  /** The seq of the last event, -1 before the first. */
  readonly lastSeq: number;
  /** What `reduce` has made of the events that count. */
  readonly value: V;
}

export interface FoldOptions<V, E extends JobEvent = JobEvent> {
  initial: V;
  /**
   * Takes an event of the handler (not of the fleet) into the value. Must not change the old
   * value: it is called again from `initial` when events are superseded.
   */
  reduce(value: V, event: E, seq: number): V;
}

export interface Folder<V = undefined, E extends JobEvent = JobEvent> {
  readonly state: FoldState<V>;
  /**
   * Takes the next event; one that was taken before (a reconnect may repeat it) changes nothing.
   *
   * @returns the new state: another object, unless nothing changed
   */
  add(event: FoldableEvent<E>): FoldState<V>;
}

/** A fold to feed event by event, as a user interface does. Costs O(1) an event, O(n) where events are superseded. */
export function createFolder<E extends JobEvent = JobEvent>(): Folder<undefined, E>;
export function createFolder<V, E extends JobEvent = JobEvent>(options: FoldOptions<V, E>): Folder<V, E>;
export function createFolder<V, E extends JobEvent>(options?: FoldOptions<V, E>): Folder<V | undefined, E> {
  const folder = new EventFolder<V | undefined, E>(
    (options as FoldOptions<V | undefined, E> | undefined) ?? { initial: undefined, reduce: (value) => value },
  );
  return {
    get state() {
      return folder.state;
    },
    add: (event) => folder.add(event),
  };
}

/** Folds a whole stream, or as much of one as there is. @throws what the iterable throws */
export function fold<E extends JobEvent = JobEvent>(
  events: AsyncIterable<FoldableEvent<E>> | Iterable<FoldableEvent<E>>,
): Promise<FoldState>;
export function fold<V, E extends JobEvent = JobEvent>(
  events: AsyncIterable<FoldableEvent<E>> | Iterable<FoldableEvent<E>>,
  options: FoldOptions<V, E>,
): Promise<FoldState<V>>;
export async function fold<V, E extends JobEvent>(
  events: AsyncIterable<FoldableEvent<E>> | Iterable<FoldableEvent<E>>,
  options?: FoldOptions<V, E>,
): Promise<FoldState<V | undefined>> {
  const folder = options === undefined ? (createFolder<E>() as Folder<V | undefined, E>) : createFolder(options);
  for await (const event of events) folder.add(event as FoldableEvent<E>);
  return folder.state;
}

class EventFolder<V, E extends JobEvent> implements Folder<V, E> {
  readonly #options: FoldOptions<V, E>;
  readonly #blank: FoldState<V>;
  /** All that was taken: a rewind may bring back what a lost attempt superseded. */
  #all: FoldableEvent<E>[] = [];
  /** Of these, what counts. */
  #counting: FoldableEvent<E>[] = [];
  #state: FoldState<V>;

  constructor(options: FoldOptions<V, E>) {
    this.#options = options;
    this.#blank = {
      status: 'open',
      text: '',
      sources: [],
      progress: undefined,
      attempt: 1,
      attemptReason: undefined,
      retry: undefined,
      result: undefined,
      error: undefined,
      lastSeq: -1,
      value: options.initial,
    };
    this.#state = this.#blank;
  }

  get state(): FoldState<V> {
    return this.#state;
  }

  add(item: FoldableEvent<E>): FoldState<V> {
    // What the fleet writes has these shapes; a handler cannot emit these types.
    const event = item.event as SystemEvent;
    if (event.type === 'rewind') {
      // Not in the journal, and without a seq of its own.
      const all = this.#all.filter(({ seq }) => seq < event.from);
      if (all.length === this.#all.length) return this.#state;
      this.#all = [];
      this.#counting = [];
      this.#state = this.#blank;
      for (const kept of all) this.add(kept);
      return this.#state;
    }
    if (item.seq <= this.#state.lastSeq) return this.#state;
    if (event.type === 'attempt') {
      const from = supersededFrom(event, item.seq);
      this.#keep((seq) => seq < from);
    }
    this.#all.push(item);
    this.#counting.push(item);
    this.#state = this.#take(this.#state, item);
    return this.#state;
  }

  /** Drops events that are superseded and folds the others again. */
  #keep(counts: (seq: number) => boolean): void {
    const kept = this.#counting.filter(({ seq }) => counts(seq));
    if (kept.length === this.#counting.length) return;
    this.#counting = kept;
    this.#state = kept.reduce((state, item) => this.#take(state, item), this.#blank);
  }

  #take(state: FoldState<V>, { seq, event: anyEvent }: FoldableEvent<E>): FoldState<V> {
    const event = anyEvent as SystemEvent;
    const next = { ...state, lastSeq: seq };
    switch (event.type) {
      case 'attempt':
        // After a redrive the job has no outcome any more.
        return {
          ...next,
          status: 'open',
          result: undefined,
          error: undefined,
          retry: undefined,
          attempt: event.attempt,
          attemptReason: event.reason,
        };
      case 'retry':
        return { ...next, retry: { delayMs: event.delayMs, error: event.error } };
      case 'progress': {
        const { type: _type, ...progress } = event;
        return { ...next, progress };
      }
      case 'end':
        return { ...next, status: 'completed', result: event.result };
      case 'error':
        return { ...next, status: 'failed', error: event.error };
      case 'cancelled':
        return { ...next, status: 'cancelled' };
      default: {
        const own = anyEvent as JobEvent;
        if (own.type === 'delta' && typeof own.text === 'string') next.text = state.text + own.text;
        else if (own.type === 'sources' && Array.isArray(own.sources)) next.sources = own.sources;
        return { ...next, value: this.#options.reduce(state.value, own as E, seq) };
      }
    }
  }
}
