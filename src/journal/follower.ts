/**
 * A reader: subscribes first, reads the snapshot second, then tails.
 *
 * It keeps `next`, the seq it wants. A message below it is dropped, one that holds it is
 * given on, one above it means a gap, which is filled from Postgres and never skipped. A
 * check of the stream's head, at intervals and after each reconnect, finds what pub/sub lost.
 *
 * On an `immediate` stream messages run ahead of the journal. What was given on but not
 * committed is the reader's tail, of one fence; once a later fence (or the stream's end)
 * shows that the journal left it, the reader is told to rewind and goes on from there.
 */
import type { Kysely } from 'kysely';
import type { Database } from '../db/schema.ts';
import {
  findFork,
  findSegments,
  findStreamStates,
  type Segment,
  type StreamState,
  segmentEvents,
} from '../db/streams/segments.ts';
import { rowTerminalJson } from '../db/streams/terminal.ts';
import { OncefleetError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { Batcher } from '../util/batcher.ts';
import type { ChannelHub, ChannelListener, RunMessage } from './channel.ts';
import { type Cursor, cursorAt, type Place, parseCursor } from './cursor.ts';
import type { JobEvent, StreamEvent, SystemEvent } from './event.ts';

export interface FollowerOptions {
  db: Kysely<Database>;
  hub: ChannelHub;
  log: Logger;
  /** How often a quiet follower compares its place with the head, ms. Default 5,000. */
  headCheckMs?: number;
  /** The same while Redis gives no messages, ms. Default 250. */
  pollMs?: number;
  /** Characters of live messages a follower keeps while its reader is slow; past it, it reads from Postgres. Default 1 Mi. */
  maxInboxLength?: number;
}

export interface FollowStreamOptions {
  streamId: string;
  tenant: string;
  /** The last event seen; -1 for none. */
  after: Cursor;
  signal?: AbortSignal | undefined;
  /** Give events of these types (and `rewind`) alone; `cursor` moves past the others too. */
  types?: readonly string[] | undefined;
  /** Of an `immediate` stream give events only once they are committed. */
  committed?: boolean | undefined;
}

/** A stream being followed. `return()` also ends a `next()` that waits. */
export interface Following<E extends JobEvent = JobEvent> extends AsyncGenerator<StreamEvent<E>, void, undefined> {
  /** What to follow `after` to go on from here: past every event given, and those that `types` left out. */
  readonly cursor: Cursor;
}

/**
 * Events that a follower has got together, in order. Its reader takes them by iterating or by
 * `skip`; what it has not taken when it asks for the next run is in a later one.
 */
export interface EventRun extends Iterable<StreamEvent> {
  /**
   * The same object for every reader in this process that gets these very events; none where
   * it may be the only one, and once they are taken.
   */
  readonly source: object | undefined;
  /** Takes the next `count` of them, or as many as there are, without giving them. */
  skip(count: number): void;
}

/** Segments read at once; a folded one may hold thousands of events. */
const PAGE_SEGMENTS = 32;

/** How long to wait for Redis to confirm a subscription before reading anyway, ms. */
const SUBSCRIBE_WAIT_MS = 1_000;

export class Followers {
  readonly #db: Kysely<Database>;
  readonly #hub: ChannelHub;
  readonly #log: Logger;
  readonly #headCheckMs: number;
  readonly #pollMs: number;
  readonly #maxInboxLength: number;
  readonly #states: Batcher<string, (StreamState & { tenant: string }) | undefined>;

  constructor(options: FollowerOptions) {
    this.#db = options.db;
    this.#hub = options.hub;
    this.#log = options.log;
    this.#headCheckMs = options.headCheckMs ?? 5_000;
    this.#pollMs = options.pollMs ?? 250;
    this.#maxInboxLength = options.maxInboxLength ?? 1024 * 1024;
    this.#states = new Batcher({
      run: async (ids) => {
        const states = await findStreamStates(this.#db, [...new Set(ids)]);
        return ids.map((id) => states.get(id));
      },
      maxBatch: 1_000,
      maxInFlight: 2,
    });
  }

  /**
   * Follows a stream to its terminal event.
   *
   * @throws OncefleetError JOB_NOT_FOUND, CURSOR_INVALID, STREAM_EXPIRED on a `next()`; the signal's reason
   */
  follow(options: FollowStreamOptions): Following {
    const inbox = new Inbox(this.#maxInboxLength);
    const types = options.types === undefined ? undefined : new Set([...options.types, 'rewind']);
    return new StoppableFollowing(this.#follow(options, inbox), inbox, options.after, types);
  }

  /** The same, as runs of all types; its signal alone ends a `next()` that waits. */
  followRuns(options: Omit<FollowStreamOptions, 'types'>): AsyncGenerator<EventRun, void, undefined> {
    return this.#follow(options, new Inbox(this.#maxInboxLength));
  }

  async *#follow(options: FollowStreamOptions, inbox: Inbox): AsyncGenerator<EventRun, void, undefined> {
    const { streamId, signal, committed = false } = options;
    signal?.throwIfAborted();
    const place = parseCursor(options.after);
    const unsubscribe = this.#hub.subscribe(streamId, inbox);
    try {
      if (this.#hub.connected) await inbox.wait(SUBSCRIBE_WAIT_MS, signal);
      if (inbox.stopped) return;
      inbox.lookingAtHead();
      let state = await this.state(streamId, options.tenant);
      const { immediate } = state;
      const tail = new Tail(place, state);
      const early = new EarlyRuns(this.#maxInboxLength);
      // What retention had removed when all the reader had was sure to stay.
      let keptFrom: number | undefined;
      for (;;) {
        const fork = await this.#fork(tail, state, keptFrom);
        if (fork !== undefined) {
          yield new GivenRun([rewindTo(fork, state.fence, immediate)], () => undefined, signal);
          tail.rewind(fork);
        }
        tail.confirm(state);
        if (tail.fence === undefined) keptFrom = state.keptFrom;
        early.forgetBelow(state.fence);
        let taken = true;
        for await (const events of this.#read(state, tail.next)) {
          const run = new GivenRun(events, ({ seq, fence }) => tail.durable(seq, fence), signal);
          yield run;
          taken = run.taken;
          if (!taken) break;
        }
        if (!taken) {
          state = await this.state(streamId, options.tenant);
          continue;
        }
        if (state.closed && tail.next >= state.nextSeq) return;

        // Live messages, until one is missing or it is time to look at the head.
        for (;;) {
          if (inbox.stopped) return;
          const message = early.take(tail.next) ?? inbox.take();
          if (message === undefined) {
            const live = this.#hub.isLive(streamId) && early.isEmpty;
            const woken = await inbox.wait(live ? this.#headCheckMs : this.#pollMs, signal);
            if (!woken || inbox.gap) break;
            continue;
          }
          if (!message.committed && committed) continue;
          const step = tail.meet(message);
          if (step === 'drop') continue;
          if (step === 'keep') {
            early.add(message);
            continue;
          }
          if (step === 'look') {
            early.add(message);
            break;
          }
          yield new LiveRun(message, step.events, tail, immediate, signal);
          if (tail.next <= message.lastSeq) break;
          if (message.end) return;
        }
        inbox.lookingAtHead();
        state = await this.state(streamId, options.tenant);
        const missed = state.nextSeq - tail.next;
        if (missed > 0) this.#log.debug({ streamId, seq: tail.next, events: missed }, 'gap filled from the journal');
      }
    } finally {
      unsubscribe();
    }
  }

  /**
   * Events after a cursor that are in the journal now, up to `limit`. A cursor whose event was
   * lost is first told to rewind.
   *
   * @throws OncefleetError JOB_NOT_FOUND, CURSOR_INVALID, STREAM_EXPIRED
   */
  async readPage(
    streamId: string,
    tenant: string,
    after: Cursor,
    limit: number,
  ): Promise<{ events: StreamEvent[]; next: Cursor; finished: boolean }> {
    const place = parseCursor(after);
    const state = await this.state(streamId, tenant);
    const tail = new Tail(place, state);
    const events: StreamEvent[] = [];
    const fork = await this.#fork(tail, state);
    if (fork !== undefined) {
      events.push(rewindTo(fork, state.fence, state.immediate));
      tail.rewind(fork);
    }
    let next: Cursor = fork !== undefined ? fork - 1 : place.fence === undefined ? tail.next - 1 : after;
    // Each segment has an event at least.
    reading: for await (const read of this.#read(state, tail.next, Math.min(limit, PAGE_SEGMENTS))) {
      for (const event of read) {
        if (events.length >= limit) break reading;
        events.push(event);
        next = event.seq;
        tail.durable(event.seq, event.fence);
      }
    }
    return { events, next, finished: state.closed && tail.next >= state.nextSeq };
  }

  /** @throws OncefleetError JOB_NOT_FOUND */
  async state(streamId: string, tenant: string): Promise<StreamState> {
    const state = await this.#states.call(streamId);
    if (state === undefined || state.tenant !== tenant) {
      throw new OncefleetError('JOB_NOT_FOUND', `No job ${streamId}`, { details: { jobId: streamId } });
    }
    return state;
  }

  /**
   * The seq from which the journal left the reader's tail; undefined when it did not.
   *
   * @param keptFrom what retention had removed before the tail was given on by us
   * @throws OncefleetError STREAM_EXPIRED retention may have removed the place where it did
   */
  async #fork(tail: Tail, state: StreamState, keptFrom?: number): Promise<number | undefined> {
    if (tail.fence === undefined) return undefined;
    if (state.fence > tail.fence) {
      const fork = (await findFork(this.#db, state.streamId, tail.fence)) ?? state.nextSeq;
      // The first that is left is a later owner's: so may some have been that are gone.
      const intact = tail.known && state.keptFrom === keptFrom;
      if (state.keptFrom > 0 && fork <= state.keptFrom && !intact)
        throw expired(state.streamId, tail.next, state.keptFrom);
      return fork < tail.next ? fork : undefined;
    }
    // Nobody took over, but the run ended without these: its last event stands where the first of them would.
    const overtaken = tail.known ? tail.next >= state.nextSeq : tail.next > state.nextSeq;
    return state.closed && overtaken ? state.nextSeq - 1 : undefined;
  }

  /** Events from a seq to the head, a segment at a time. @throws OncefleetError STREAM_EXPIRED */
  async *#read(
    state: StreamState,
    from: number,
    pageSegments = PAGE_SEGMENTS,
  ): AsyncGenerator<Iterable<StreamEvent>, void, undefined> {
    if (from >= state.nextSeq) return;
    if (from < state.keptFrom) throw expired(state.streamId, from, state.keptFrom);
    const { immediate } = state;
    if (state.rowTerminal !== undefined) {
      const json = rowTerminalJson(state.rowTerminal);
      const cursor = cursorAt(0, state.fence, immediate);
      yield [{ seq: 0, fence: state.fence, cursor, event: JSON.parse(json) as JobEvent, json }];
      return;
    }
    let next = from;
    while (next < state.nextSeq) {
      const segments = await findSegments(this.#db, state.streamId, next, pageSegments);
      // Retention went by since the head was read.
      if (segments.length === 0) throw expired(state.streamId, next, state.nextSeq);
      for (const segment of segments) {
        if (segment.firstSeq > next)
          throw new Error(`Journal gap in stream ${state.streamId}: wanted seq ${next}, found ${segment.firstSeq}`);
        yield eventsOf(segment, next, immediate);
        next = segment.lastSeq + 1;
      }
    }
  }
}

/** A segment's events from a seq on, made as they are asked for. */
function* eventsOf(segment: Segment, from: number, immediate: boolean): Generator<StreamEvent, void, undefined> {
  const { fence, firstSeq } = segment;
  const texts = segmentEvents(segment);
  for (let i = from - firstSeq; i < texts.length; i++) {
    const json = texts[i] as string;
    const seq = firstSeq + i;
    yield { seq, fence, cursor: cursorAt(seq, fence, immediate), event: JSON.parse(json) as JobEvent, json };
  }
}

function expired(streamId: string, seq: number, keptFrom: number): OncefleetError {
  return new OncefleetError('STREAM_EXPIRED', `Stream ${streamId} no longer has events before seq ${keptFrom}`, {
    details: { seq, keptFrom },
  });
}

/** Follows nothing: throws on the first `next()`. */
export function failedFollowing(error: Error, after: Cursor): Following {
  // biome-ignore lint/correctness/useYield: it ends before it could.
  const events = (async function* (): AsyncGenerator<EventRun, void, undefined> {
    throw error;
  })();
  return new StoppableFollowing(events, new Inbox(0), after);
}

function rewindTo(from: number, fence: number, immediate: boolean): StreamEvent {
  const event: SystemEvent = { type: 'rewind', from };
  const cursor = from === 0 ? -1 : cursorAt(from - 1, fence, immediate);
  return { seq: from - 1, fence, cursor, event, json: JSON.stringify(event) };
}

/** `undefined` for what is no event: a channel is open to whoever can reach Redis. */
function parseEvent(json: string): JobEvent | undefined {
  try {
    const event = JSON.parse(json) as JobEvent | null;
    return typeof event?.type === 'string' ? event : undefined;
  } catch {
    return undefined;
  }
}

/** What a reader has, and how much of it is sure to stay. */
class Tail {
  /** Seq of the event it wants. */
  next: number;
  /** Whose uncommitted events it has; undefined for nobody's. */
  #fence: number | undefined;
  /** The tail was given on by us, not told by a cursor, which cannot know that its event was committed meanwhile. */
  #known = false;
  /** The highest fence met: what a lower one sends ahead of its commit is a zombie's. */
  #latest: number;
  /** The head was looked at because of this fence: it is no reason to look again. */
  #lookedFor = 0;

  /** @throws OncefleetError CURSOR_INVALID */
  constructor(place: Place, state: StreamState) {
    const { seq, fence } = place;
    this.#latest = state.fence;
    // An open stream cannot have been read past its head, nor past what its owner may have sent ahead.
    const beyond =
      fence === undefined || !state.immediate ? seq >= state.nextSeq && !state.closed : fence > state.fence;
    if (beyond) {
      throw new OncefleetError(
        'CURSOR_INVALID',
        `The stream stands at seq ${state.nextSeq - 1}, fence ${state.fence}; the cursor lies beyond it`,
        { details: { after: fence === undefined ? seq : `${fence}-${seq}`, last: state.nextSeq - 1 } },
      );
    }
    this.#fence = state.immediate ? fence : undefined;
    // A finished stream has nothing after any cursor.
    this.next = this.#fence === undefined ? Math.min(seq + 1, state.nextSeq) : seq + 1;
  }

  get fence(): number | undefined {
    return this.#fence;
  }

  get known(): boolean {
    return this.#known;
  }

  rewind(from: number): void {
    this.next = from;
    this.#fence = undefined;
  }

  /** The head was read and had no reason to rewind. */
  confirm(state: StreamState): void {
    this.#latest = Math.max(this.#latest, state.fence);
    if (this.#fence !== undefined && (state.fence > this.#fence || state.nextSeq >= this.next)) this.#fence = undefined;
  }

  /** Has been given a committed event, and with it all before it. */
  durable(seq: number, fence: number): void {
    this.next = seq + 1;
    this.#fence = undefined;
    this.#latest = Math.max(this.#latest, fence);
  }

  /** Has been given an event that may be lost. */
  ahead(seq: number, fence: number): void {
    this.next = seq + 1;
    this.#fence = fence;
    this.#known = true;
    this.#latest = Math.max(this.#latest, fence);
  }

  /**
   * What to do about a message: forget it, keep it until what lies before it has come, look
   * at the head first, or give on its events from `next`.
   */
  meet(message: RunMessage): 'drop' | 'keep' | 'look' | { events: readonly string[] } {
    const { fence, lastSeq, firstSeq, events } = message;
    const tailFence = this.#fence;
    if (tailFence !== undefined && fence > tailFence) {
      // The stream has a new owner: did it take over before the end of our tail?
      if (fence <= this.#lookedFor) return 'drop';
      this.#lookedFor = fence;
      return 'look';
    }
    if (!message.committed && fence < this.#latest) return 'drop';
    if (lastSeq < this.next) {
      // Read already, with what came after the head was looked at: has the stream ended, or been redriven since?
      if (message.committed && message.end && lastSeq === this.next - 1) return 'look';
      if (tailFence === undefined || !message.committed) return 'drop';
      if (message.end) return 'look';
      if (fence === tailFence && lastSeq === this.next - 1) this.#fence = undefined;
      return 'drop';
    }
    if (events !== undefined && firstSeq <= this.next) return { events };
    // What is not committed yet cannot be read: its commit is told, or found by a look at the head.
    if (message.committed) return 'look';
    return events === undefined ? 'drop' : 'keep';
  }
}

/** Runs sent ahead that lie beyond what a reader wants next; bounded: what is dropped is read from Postgres. */
class EarlyRuns {
  readonly #maxLength: number;
  /** By first seq. */
  #runs: RunMessage[] = [];
  #length = 0;

  constructor(maxLength: number) {
    this.#maxLength = maxLength;
  }

  get isEmpty(): boolean {
    return this.#runs.length === 0;
  }

  add(message: RunMessage): void {
    // A committed one is in the journal.
    if (message.committed) return;
    if (this.#length + message.length > this.#maxLength) {
      this.#runs = [];
      this.#length = 0;
    }
    let at = this.#runs.length;
    while (at > 0 && (this.#runs[at - 1] as RunMessage).firstSeq > message.firstSeq) at--;
    this.#runs.splice(at, 0, message);
    this.#length += message.length;
  }

  /** What a fence sent ahead is nothing once a later one owns the stream. */
  forgetBelow(fence: number): void {
    this.#runs = this.#runs.filter((run) => run.fence >= fence);
    this.#length = this.#runs.reduce((length, run) => length + run.length, 0);
  }

  /** The earliest, if nothing is missing before it any more. */
  take(next: number): RunMessage | undefined {
    const [first] = this.#runs;
    if (first === undefined || first.firstSeq > next) return undefined;
    this.#runs.shift();
    this.#length -= first.length;
    return first;
  }
}

/** Events that were read. Like a live one it holds nothing once it is taken: readers keep a run until the next. */
class GivenRun implements EventRun {
  readonly source = undefined;
  #events: Iterator<StreamEvent> | undefined;
  readonly #taken: (event: StreamEvent) => void;
  readonly #signal: AbortSignal | undefined;

  constructor(events: Iterable<StreamEvent>, taken: (event: StreamEvent) => void, signal: AbortSignal | undefined) {
    this.#events = events[Symbol.iterator]();
    this.#taken = taken;
    this.#signal = signal;
  }

  /** Whether nothing is left. */
  get taken(): boolean {
    return this.#events === undefined;
  }

  skip(count: number): void {
    for (let left = count; left > 0 && this.#take() !== undefined; left--);
  }

  *[Symbol.iterator](): Generator<StreamEvent, void, undefined> {
    for (let event = this.#take(); event !== undefined; event = this.#take()) yield event;
  }

  #take(): StreamEvent | undefined {
    this.#signal?.throwIfAborted();
    const step = this.#events?.next();
    if (step === undefined || step.done === true) {
      this.#events = undefined;
      return undefined;
    }
    this.#taken(step.value);
    return step.value;
  }
}

/** What is left of a message for a reader: all of it, unless it had some before. */
class LiveRun implements EventRun {
  #source: object | undefined;
  #texts: readonly string[];
  readonly #firstSeq: number;
  readonly #fence: number;
  readonly #committed: boolean;
  readonly #tail: Tail;
  readonly #immediate: boolean;
  readonly #signal: AbortSignal | undefined;

  constructor(
    message: RunMessage,
    texts: readonly string[],
    tail: Tail,
    immediate: boolean,
    signal: AbortSignal | undefined,
  ) {
    this.#source = tail.next === message.firstSeq ? message : undefined;
    this.#texts = texts;
    this.#firstSeq = message.firstSeq;
    this.#fence = message.fence;
    this.#committed = message.committed;
    this.#tail = tail;
    this.#immediate = immediate;
    this.#signal = signal;
  }

  get source(): object | undefined {
    return this.#source;
  }

  skip(count: number): void {
    const left = this.#firstSeq + this.#texts.length - this.#tail.next;
    const taken = Math.min(count, left);
    if (taken > 0) this.#take(this.#tail.next + taken - 1);
    if (taken >= left) this.#release();
  }

  *[Symbol.iterator](): Generator<StreamEvent, void, undefined> {
    const firstSeq = this.#firstSeq;
    const fence = this.#fence;
    const texts = this.#texts;
    for (let seq = this.#tail.next; seq - firstSeq < texts.length; seq++) {
      this.#signal?.throwIfAborted();
      const json = texts[seq - firstSeq] as string;
      const event = parseEvent(json);
      // A hint that holds no event: the journal does.
      if (event === undefined) break;
      this.#take(seq);
      yield { seq, fence, cursor: cursorAt(seq, fence, this.#immediate), event, json };
    }
    this.#release();
  }

  #take(seq: number): void {
    if (this.#committed) this.#tail.durable(seq, this.#fence);
    else this.#tail.ahead(seq, this.#fence);
  }

  #release(): void {
    this.#source = undefined;
    this.#texts = [];
  }
}

/** Live messages between two reads; bounded: what does not fit is a gap, to be read from Postgres. */
class Inbox implements ChannelListener {
  readonly #maxLength: number;
  #messages: RunMessage[] = [];
  #length = 0;
  #gap = false;
  #stopped = false;
  #wake: (() => void) | undefined;

  constructor(maxLength: number) {
    this.#maxLength = maxLength;
  }

  /** Something may be missing: look at the head. */
  get gap(): boolean {
    return this.#gap;
  }

  /** The reader has left. */
  get stopped(): boolean {
    return this.#stopped;
  }

  onRun(message: RunMessage): void {
    if (this.#length + message.length > this.#maxLength) {
      this.#messages = [];
      this.#length = 0;
      this.#gap = true;
    } else {
      this.#messages.push(message);
      this.#length += message.length;
    }
    this.#wake?.();
  }

  onGap(): void {
    this.#gap = true;
    this.#wake?.();
  }

  stop(): void {
    this.#stopped = true;
    this.#wake?.();
  }

  take(): RunMessage | undefined {
    const message = this.#messages.shift();
    if (message !== undefined) this.#length -= message.length;
    return message;
  }

  /**
   * To be called before the head is read, not after: whatever was missed until now was
   * committed before, so that read sees it; what is missed from now on raises the flag again.
   */
  lookingAtHead(): void {
    this.#gap = false;
  }

  /** True when a message or a gap came or the reader left, false after `ms`. @throws the signal's reason */
  async wait(ms: number, signal: AbortSignal | undefined): Promise<boolean> {
    if (this.#messages.length > 0 || this.#gap || this.#stopped) return true;
    signal?.throwIfAborted();
    const { promise, resolve, reject } = Promise.withResolvers<boolean>();
    const timer = setTimeout(() => resolve(false), ms);
    const onAbort = () => reject(signal?.reason);
    signal?.addEventListener('abort', onAbort, { once: true });
    this.#wake = () => resolve(true);
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      this.#wake = undefined;
    }
  }
}

/** Runs as their events. A generator's own `return()` would wait for the `next()` before it, and so for an event. */
class StoppableFollowing implements Following {
  readonly #runs: AsyncGenerator<EventRun, void, undefined>;
  /** What is left of the run that came last. */
  #events: Iterator<StreamEvent> | undefined;
  /** The last answer of those that are not given yet. */
  #asked: Promise<IteratorResult<StreamEvent, void>> | undefined;
  readonly #inbox: Inbox;
  readonly #types: ReadonlySet<string> | undefined;
  #cursor: Cursor;
  #stopped = false;

  constructor(
    runs: AsyncGenerator<EventRun, void, undefined>,
    inbox: Inbox,
    after: Cursor,
    types?: ReadonlySet<string>,
  ) {
    this.#runs = runs;
    this.#inbox = inbox;
    this.#cursor = after;
    this.#types = types;
  }

  get cursor(): Cursor {
    return this.#cursor;
  }

  next(): Promise<IteratorResult<StreamEvent, void>> {
    const step = () => this.#step();
    // Asked again before it has answered, it answers one after the other, as generators do.
    const answer = this.#asked === undefined ? step() : this.#asked.then(step, step);
    const answered = () => {
      if (this.#asked === answer) this.#asked = undefined;
    };
    this.#asked = answer;
    answer.then(answered, answered);
    return answer;
  }

  async #step(): Promise<IteratorResult<StreamEvent, void>> {
    for (;;) {
      const event = this.#take();
      if (event instanceof Error) {
        this.#stop();
        await this.#runs.return();
        throw event.cause;
      }
      if (event === undefined) {
        const run = await this.#runs.next();
        if (run.done === true) return run;
        if (this.#stopped) return { done: true, value: undefined };
        this.#events = run.value[Symbol.iterator]();
        continue;
      }
      this.#cursor = event.cursor;
      if (this.#types === undefined || this.#types.has(event.event.type)) return { done: false, value: event };
    }
  }

  async return(): Promise<IteratorResult<StreamEvent, void>> {
    this.#stop();
    await this.#runs.return();
    return { done: true, value: undefined };
  }

  async throw(error: unknown): Promise<IteratorResult<StreamEvent, void>> {
    this.#stop();
    await this.#runs.return();
    throw error;
  }

  #stop(): void {
    this.#stopped = true;
    this.#inbox.stop();
    this.#events = undefined;
  }

  /** The next event of the run at hand; an Error with what was thrown (the signal's reason) as its cause. */
  #take(): StreamEvent | Error | undefined {
    try {
      const step = this.#events?.next();
      if (step?.done === false) return step.value;
    } catch (cause) {
      return new Error('The run broke off', { cause });
    }
    this.#events = undefined;
    return undefined;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }
}
