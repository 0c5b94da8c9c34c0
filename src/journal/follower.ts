/**
 * A reader: subscribes first, reads the snapshot second, then tails.
 *
 * It keeps `next`, the seq it wants. A message below it is dropped, one that holds it is
 * given on, one above it means a gap, which is filled from Postgres and never skipped. A
 * check of the stream's head, at intervals and after each reconnect, finds what pub/sub lost.
 */
import type { Kysely } from 'kysely';
import { findSegments, findStreamStates, type StreamState } from '../db/journal.ts';
import type { Database } from '../db/schema.ts';
import { OncefleetError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { Batcher } from './batcher.ts';
import type { ChannelHub, ChannelListener, RunMessage } from './channel.ts';
import { isTerminalType, type JobEvent, type StreamEvent } from './event.ts';
import { rowTerminalJson } from './terminal.ts';

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
  /** The last seq seen; -1 for none. */
  after: number;
  signal?: AbortSignal | undefined;
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
   * @throws OncefleetError JOB_NOT_FOUND, CURSOR_INVALID on the first `next()`; the signal's reason
   */
  async *follow(options: FollowStreamOptions): AsyncGenerator<StreamEvent, void, undefined> {
    const { streamId, signal } = options;
    signal?.throwIfAborted();
    const inbox = new Inbox(this.#maxInboxLength);
    const unsubscribe = this.#hub.subscribe(streamId, inbox);
    try {
      if (this.#hub.connected) await inbox.wait(SUBSCRIBE_WAIT_MS, signal);
      inbox.lookingAtHead();
      let state = await this.state(streamId, options.tenant);
      let next = nextSeqAfter(options.after, state);
      for (;;) {
        for await (const event of this.#read(state, next)) {
          signal?.throwIfAborted();
          next = event.seq + 1;
          yield event;
        }
        if (state.closed && next >= state.nextSeq) return;

        // The tail: live messages, until one is missing or it is time to look at the head.
        for (;;) {
          const message = inbox.take();
          if (message === undefined) {
            const live = this.#hub.isLive(streamId);
            const woken = await inbox.wait(live ? this.#headCheckMs : this.#pollMs, signal);
            if (!woken || inbox.gap) break;
            continue;
          }
          if (message.lastSeq < next) continue;
          if (message.firstSeq > next || message.events === undefined) break;
          for (let i = next - message.firstSeq; i < message.events.length; i++) {
            signal?.throwIfAborted();
            const json = message.events[i] as string;
            const event = { seq: next, fence: message.fence, event: JSON.parse(json) as JobEvent, json };
            next++;
            yield event;
          }
          if (message.end) return;
        }
        inbox.lookingAtHead();
        state = await this.state(streamId, options.tenant);
        if (state.nextSeq > next)
          this.#log.debug({ streamId, seq: next, events: state.nextSeq - next }, 'gap filled from the journal');
      }
    } finally {
      unsubscribe();
    }
  }

  /** Events after a cursor that are in the journal now, up to `limit`. @throws OncefleetError JOB_NOT_FOUND, CURSOR_INVALID */
  async readPage(
    streamId: string,
    tenant: string,
    after: number,
    limit: number,
  ): Promise<{ events: StreamEvent[]; next: number; finished: boolean }> {
    const state = await this.state(streamId, tenant);
    let next = nextSeqAfter(after, state);
    const events: StreamEvent[] = [];
    for await (const event of this.#read(state, next)) {
      events.push(event);
      next = event.seq + 1;
      if (events.length >= limit) break;
    }
    return { events, next: next - 1, finished: state.closed && next >= state.nextSeq };
  }

  /** @throws OncefleetError JOB_NOT_FOUND */
  async state(streamId: string, tenant: string): Promise<StreamState> {
    const state = await this.#states.call(streamId);
    if (state === undefined || state.tenant !== tenant) {
      throw new OncefleetError('JOB_NOT_FOUND', `No job ${streamId}`, { details: { jobId: streamId } });
    }
    return state;
  }

  async *#read(state: StreamState, from: number): AsyncGenerator<StreamEvent, void, undefined> {
    if (from >= state.nextSeq) return;
    if (state.rowTerminal !== undefined) {
      const json = rowTerminalJson(state.rowTerminal);
      yield { seq: 0, fence: state.fence, event: JSON.parse(json) as JobEvent, json };
      return;
    }
    let next = from;
    while (next < state.nextSeq) {
      const segments = await findSegments(this.#db, state.streamId, next, PAGE_SEGMENTS);
      if (segments.length === 0) {
        throw new OncefleetError('CURSOR_INVALID', `Stream ${state.streamId} no longer has events from seq ${next}`, {
          details: { seq: next },
        });
      }
      for (const segment of segments) {
        const events = JSON.parse(segment.events) as JobEvent[];
        if (segment.firstSeq > next)
          throw new Error(`Journal gap in stream ${state.streamId}: wanted seq ${next}, found ${segment.firstSeq}`);
        for (let i = next - segment.firstSeq; i < events.length; i++) {
          const event = events[i] as JobEvent;
          next++;
          yield { seq: next - 1, fence: segment.fence, event, json: JSON.stringify(event) };
        }
      }
    }
  }
}

/** Whether an event is the last of a finished stream, as far as its type says. */
export function isTerminal(event: StreamEvent): boolean {
  return isTerminalType(event.event.type);
}

function nextSeqAfter(after: number, state: StreamState): number {
  if (!Number.isSafeInteger(after) || after < -1) {
    throw new OncefleetError('CURSOR_INVALID', `The cursor is a seq from -1 up, not ${after}`, { details: { after } });
  }
  // A finished stream has nothing after any cursor; an open one cannot have been read past its head.
  if (after >= state.nextSeq && !state.closed) {
    throw new OncefleetError(
      'CURSOR_INVALID',
      `The stream stands at seq ${state.nextSeq - 1}; ${after} lies beyond it`,
      {
        details: { after, last: state.nextSeq - 1 },
      },
    );
  }
  return Math.min(after + 1, Math.max(state.nextSeq, 0));
}

/** Live messages between two reads; bounded: what does not fit is a gap, to be read from Postgres. */
class Inbox implements ChannelListener {
  readonly #maxLength: number;
  #messages: RunMessage[] = [];
  #length = 0;
  #gap = false;
  #wake: (() => void) | undefined;

  constructor(maxLength: number) {
    this.#maxLength = maxLength;
  }

  /** Something may be missing: look at the head. */
  get gap(): boolean {
    return this.#gap;
  }

  onRun(message: RunMessage): void {
    const length = messageLength(message);
    if (this.#length + length > this.#maxLength) {
      this.#messages = [];
      this.#length = 0;
      this.#gap = true;
    } else {
      this.#messages.push(message);
      this.#length += length;
    }
    this.#wake?.();
  }

  onGap(): void {
    this.#gap = true;
    this.#wake?.();
  }

  take(): RunMessage | undefined {
    const message = this.#messages.shift();
    if (message !== undefined) this.#length -= messageLength(message);
    return message;
  }

  /**
   * To be called before the head is read, not after: whatever was missed until now was
   * committed before, so that read sees it; what is missed from now on raises the flag again.
   */
  lookingAtHead(): void {
    this.#gap = false;
  }

  /** True when a message or a gap came, false after `ms`. @throws the signal's reason */
  async wait(ms: number, signal: AbortSignal | undefined): Promise<boolean> {
    if (this.#messages.length > 0 || this.#gap) return true;
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

function messageLength(message: RunMessage): number {
  let length = 100;
  for (const event of message.events ?? []) length += event.length;
  return length;
}
