/**
 * A reader: subscribes first, reads the snapshot second, then tails.
 *
 * It keeps `next`, the seq it wants. A message below it is dropped, one that holds it is
 * delivered, one above it means a gap, which is filled from Postgres and never skipped. A
 * check of the stream's head, at intervals and after each reconnect, finds what pub/sub lost.
 *
 * On an `immediate` stream messages run ahead of the journal. Delivered events that are not
 * committed are the reader's tail, of one fence; once a later fence (or the stream's end)
 * shows that the journal does not have them, the reader is told to rewind and continues from
 * there. `Tail` has the states.
 */
import type { Kysely } from 'kysely';
import { findTracedJob } from '../db/jobs/find.ts';
import type { Database } from '../db/schema.ts';
import { findStreamStates, type StreamState } from '../db/streams/segments.ts';
import { OncefleetError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { Batcher } from '../util/batcher.ts';
import type { Probes } from '../util/probes.ts';
import { isTracing, traceFollower } from '../util/tracing.ts';
import type { Turns } from '../util/turns.ts';
import { type FollowedBatch, type GivenBatch, LiveBatch, ReadBatch } from './batches.ts';
import type { ChannelHub } from './channel.ts';
import { type Cursor, parseCursor } from './cursor.ts';
import { EarlyBatches } from './early-batches.ts';
import type { StreamEvent } from './event.ts';
import { type Following, type OpenedBatches, StoppableFollowing } from './following.ts';
import { Inbox } from './inbox.ts';
import { findRewind, rewindTo } from './rewind.ts';
import { PAGE_SEGMENTS, readStored, requireKept } from './stored-events.ts';
import { Tail } from './tail.ts';

export interface FollowerOptions {
  db: Kysely<Database>;
  hub: ChannelHub;
  log: Logger;
  probes?: Probes | undefined;
  /** How often a quiet follower compares its place with the head. Default 5,000. */
  headCheckMs?: number;
  /** The same while Redis gives no messages. Default 250. */
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
  /** False: throw while Postgres is unreachable. `follow` alone waits by default; batches never do. */
  throughOutages?: boolean | undefined;
  /** Followers that share these read from the journal one at a time. */
  turns?: Pick<Turns, 'take'> | undefined;
  /** As the option of all followers (`maxInboxLength`), for this one. */
  maxInboxLength?: number | undefined;
  /** Asked before more than 64 Ki characters of live messages are kept; see `Inbox`. */
  keep?: ((length: number) => boolean) | undefined;
}

/** Characters of events in a page; a larger event is a page of its own. */
const MAX_PAGE_LENGTH = 4 * 1024 * 1024;

/** How long to wait for Redis to confirm a subscription before the snapshot is read anyway. */
const SUBSCRIBE_WAIT_MS = 1_000;

export class Followers {
  readonly #db: Kysely<Database>;
  readonly #hub: ChannelHub;
  readonly #log: Logger;
  readonly #probes: Probes | undefined;
  readonly #headCheckMs: number;
  readonly #pollMs: number;
  readonly #maxInboxLength: number;
  readonly #states: Batcher<string, (StreamState & { tenant: string }) | undefined>;

  constructor(options: FollowerOptions) {
    this.#db = options.db;
    this.#hub = options.hub;
    this.#log = options.log;
    this.#probes = options.probes;
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
   * Follows a stream to its terminal event. Waits while Postgres is unreachable.
   *
   * @throws OncefleetError JOB_NOT_FOUND, CURSOR_INVALID, STREAM_EXPIRED on a `next()`; the signal's reason
   */
  follow(options: FollowStreamOptions): Following {
    const { after, signal, throughOutages } = options;
    const types = options.types === undefined ? undefined : new Set([...options.types, 'rewind']);
    const open = (from: Cursor): OpenedBatches => {
      const inbox = this.#inbox(options);
      return { batches: this.#start({ ...options, after: from }, inbox), inbox };
    };
    return new StoppableFollowing({ open, after, types, signal, throughOutages });
  }

  /** The same, as batches of all types; its signal alone ends a `next()` that waits. */
  followBatches(options: Omit<FollowStreamOptions, 'types'>): AsyncGenerator<FollowedBatch, void, undefined> {
    return this.#start(options, this.#inbox(options));
  }

  #start(options: FollowStreamOptions, inbox: Inbox): AsyncGenerator<FollowedBatch, void, undefined> {
    return isTracing() ? this.#followTraced(options, inbox) : this.#follow(options, inbox);
  }

  async *#followTraced(options: FollowStreamOptions, inbox: Inbox): AsyncGenerator<FollowedBatch, void, undefined> {
    const { streamId, tenant } = options;
    const end = await traceFollower(streamId, () => findTracedJob(this.#db, streamId, tenant));
    try {
      yield* this.#follow(options, inbox);
    } finally {
      end?.();
    }
  }

  #inbox({ maxInboxLength = this.#maxInboxLength, keep }: FollowStreamOptions): Inbox {
    return new Inbox(maxInboxLength, () => this.#probes?.listener?.followerDemoted(), keep);
  }

  /** @returns ends it; of what came nothing is kept */
  #listen(streamId: string, inbox: Inbox): () => void {
    const unsubscribe = this.#hub.subscribe(streamId, inbox);
    return () => {
      unsubscribe();
      inbox.clear();
    };
  }

  async *#follow(options: FollowStreamOptions, inbox: Inbox): AsyncGenerator<FollowedBatch, void, undefined> {
    const { streamId, tenant, signal, committed = false } = options;
    signal?.throwIfAborted();
    const place = parseCursor(options.after);
    const unsubscribe = this.#listen(streamId, inbox);
    try {
      if (this.#hub.connected) await inbox.wait(SUBSCRIBE_WAIT_MS, signal);
      if (inbox.stopped) return;
      inbox.checkingHead();
      let state = await this.state(streamId, tenant);
      const tail = new Tail(place, state);
      const early = new EarlyBatches(options.maxInboxLength ?? this.#maxInboxLength);
      for (;;) {
        const fork = await findRewind(this.#db, tail, state);
        if (fork !== undefined) {
          yield new ReadBatch([rewindTo(fork, state)], () => undefined, signal);
          tail.rewind(fork);
        }
        tail.confirm(state);
        early.forgetBelow(state.fence);
        let taken = true;
        for await (const events of readStored(this.#db, state, tail.next, options)) {
          const batch = new ReadBatch(events, ({ seq, fence }) => tail.durable(seq, fence), signal);
          yield batch;
          passOver(batch);
          taken = batch.taken;
          if (!taken) break;
        }
        if (!taken) {
          state = await this.state(streamId, tenant);
          continue;
        }
        if (state.closed && tail.next >= state.nextSeq) return;

        // Live messages, until one is missing or it is time to check the head.
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
          if (step === 'keep' || step === 'checkHead') {
            early.add(message);
            if (step === 'keep') continue;
            break;
          }
          const batch = new LiveBatch(message, step.events, tail, state.immediate, signal);
          yield batch;
          passOver(batch);
          if (tail.next <= message.lastSeq) break;
          if (message.end) return;
        }
        inbox.checkingHead();
        state = await this.state(streamId, tenant);
        const missed = state.nextSeq - tail.next;
        if (missed > 0) {
          this.#probes?.listener?.gapFilled(missed);
          this.#log.debug({ streamId, seq: tail.next, events: missed }, 'gap filled from the journal');
        }
      }
    } finally {
      unsubscribe();
    }
  }

  /**
   * Events after a cursor that are in the journal now, up to `limit`, or fewer where they are large. If the
   * cursor's event was lost, the first one is a `rewind`. A limit of 0 asks where the stream stands.
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
    const fork = await findRewind(this.#db, tail, state);
    if (fork !== undefined) {
      events.push(rewindTo(fork, state));
      tail.rewind(fork);
    }
    let next: Cursor = fork !== undefined ? fork - 1 : place.fence === undefined ? tail.next - 1 : after;
    requireKept(state, tail.next);
    let length = 0;
    // Each segment has an event at least.
    const pageSegments = Math.min(limit, PAGE_SEGMENTS);
    reading: for await (const read of limit === 0 ? [] : readStored(this.#db, state, tail.next, { pageSegments })) {
      for (const event of read) {
        length += event.json.length;
        if (events.length >= limit || (events.length > 0 && length > MAX_PAGE_LENGTH)) break reading;
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
}

/** Takes a batch that its reader has left alone. */
function passOver(batch: GivenBatch): void {
  if (batch.unread) batch.skip(Number.POSITIVE_INFINITY);
}
