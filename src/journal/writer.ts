/**
 * The journal writer: one per process, all streams share a group commit.
 *
 * A flush starts when none is in flight and the oldest buffered event is `lingerMs` old, or
 * when buffers reach `maxEvents` or `maxLength`, or on `flush()`. The timer is a real one,
 * so the last event of a quiet stream does not wait for company. While Postgres is away the
 * flush in flight is retried as it is (same runs, same seqs) and buffers hold up to
 * `highWaterMark`; past it `emit` waits.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { Kysely } from 'kysely';
import { crashPoint } from '../crash-points.ts';
import type { Database } from '../db/schema.ts';
import { appendRuns, findHeads, lastSeq, type Run } from '../db/streams/segments.ts';
import { isTransient } from '../db/transient.ts';
import { LeaseLostError, OncefleetError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { RANGES } from '../options.ts';
import type { Publisher } from './channel.ts';
import { encodeEvent, type JobEvent } from './event.ts';

export interface JournalWriterOptions {
  db: Kysely<Database>;
  publisher: Pick<Publisher, 'publish'>;
  log: Logger;
  /** How long the oldest buffered event waits for company, ms. Default 5. */
  lingerMs?: number;
  /** Buffered events that start a flush at once. Default 2,000. */
  maxEvents?: number;
  /** Buffered characters that start a flush at once, and the most one stream puts into one segment. Default 1 Mi. */
  maxLength?: number;
  /** Buffered characters of all streams past which `emit` waits. Default 16 Mi. */
  highWaterMark?: number;
}

export interface OpenStreamOptions {
  streamId: string;
  fence: number;
  /** Where the claim found the stream's head. */
  nextSeq: number;
  /** Events are published as they are emitted, before their commit. */
  immediate?: boolean;
  /** Called once when the journal refuses this stream; nothing later is accepted. */
  onRefused(error: OncefleetError): void;
}

/** What is left of a stream when its run ends: events that go into the same transaction as the outcome. */
export interface SealedStream {
  firstSeq: number;
  events: string[];
}

const RETRY_MIN_MS = 50;
const RETRY_MAX_MS = 2_000;

export class JournalWriter {
  readonly #db: Kysely<Database>;
  readonly #publisher: Pick<Publisher, 'publish'>;
  readonly #log: Logger;
  readonly #lingerMs: number;
  readonly #maxEvents: number;
  readonly #maxLength: number;
  readonly #highWaterMark: number;

  /** Streams with events that no flush has taken yet. */
  readonly #dirty = new Set<StreamWriter>();
  /** Streams with events that are not committed yet, taken or not. */
  readonly #uncommitted = new Set<StreamWriter>();
  #bufferedEvents = 0;
  #bufferedLength = 0;
  #lingerTimer: NodeJS.Timeout | undefined;
  #inFlight: Promise<void> | undefined;
  /** A flush is over, and those it woke have the rest of this turn of the event loop. */
  #turn: NodeJS.Immediate | undefined;
  #waitingForRoom: (() => void)[] = [];
  readonly #giveUp = new AbortController();
  #closed: Promise<void> | undefined;
  /** What a stream may do here; the same for all. */
  readonly #side: WriterSide = {
    buffered: (stream, length) => this.#buffered(stream, length),
    dropped: (stream, events, length) => this.#dropped(stream, events, length),
    flushSoon: () => this.#flushNow(),
    room: () => this.#room(),
    publishAhead: (run) => this.#publisher.publish([{ run, end: false, form: 'ahead' }]),
  };

  constructor(options: JournalWriterOptions) {
    this.#db = options.db;
    this.#publisher = options.publisher;
    this.#log = options.log;
    this.#lingerMs = options.lingerMs ?? RANGES.lingerMs.default;
    this.#maxEvents = options.maxEvents ?? 2_000;
    this.#maxLength = options.maxLength ?? 1024 * 1024;
    this.#highWaterMark = options.highWaterMark ?? 16 * 1024 * 1024;
  }

  /** Characters buffered and not yet committed, all streams together. */
  get bufferedLength(): number {
    return this.#bufferedLength;
  }

  /** Starts writing a stream at a fence. */
  open(options: OpenStreamOptions): StreamWriter {
    return new StreamWriter(options, this.#side);
  }

  /** Resolves when everything buffered at the call is committed or refused. */
  async flush(): Promise<void> {
    await Promise.all([...this.#uncommitted].map((stream) => stream.flush().catch(() => undefined)));
  }

  /**
   * Commits what is buffered and stops. Idempotent; safe before the first event.
   *
   * @param options.timeoutMs how long to wait for a Postgres that is away; then what is
   *   buffered is given up and counted in the log (its runs have no outcome, so they run again)
   */
  close(options: { timeoutMs?: number } = {}): Promise<void> {
    this.#closed ??= this.#close(options.timeoutMs ?? 10_000);
    return this.#closed;
  }

  async #close(timeoutMs: number): Promise<void> {
    const deadline = setTimeout(() => this.#giveUp.abort(), timeoutMs);
    try {
      await this.flush();
    } finally {
      clearTimeout(deadline);
      clearTimeout(this.#lingerTimer);
    }
    if (this.#bufferedEvents > 0)
      this.#log.error({ events: this.#bufferedEvents }, 'journal closed with events not committed');
  }

  #buffered(stream: StreamWriter, length: number): void {
    this.#dirty.add(stream);
    this.#uncommitted.add(stream);
    this.#bufferedEvents++;
    this.#bufferedLength += length;
    if (this.#bufferedEvents >= this.#maxEvents || this.#bufferedLength >= this.#maxLength) this.#flushNow();
    else this.#startLinger();
  }

  #dropped(stream: StreamWriter, events: number, length: number): void {
    this.#bufferedEvents -= events;
    this.#bufferedLength -= length;
    if (!stream.hasPending) this.#dirty.delete(stream);
    if (!stream.hasUncommitted) this.#uncommitted.delete(stream);
    this.#wakeProducers();
  }

  #startLinger(): void {
    if (this.#lingerTimer !== undefined || this.#inFlight !== undefined || this.#turn !== undefined) return;
    this.#lingerTimer = setTimeout(() => this.#flushNow(), this.#lingerMs);
  }

  #flushNow(): void {
    clearTimeout(this.#lingerTimer);
    this.#lingerTimer = undefined;
    if (this.#inFlight !== undefined || this.#turn !== undefined) return;
    this.#inFlight = this.#flushDirty().finally(() => {
      this.#inFlight = undefined;
      this.#wakeProducers();
      // A commit wakes many producers: the first one's events must not leave alone while the
      // others are still writing theirs.
      this.#turn = setImmediate(() => {
        this.#turn = undefined;
        // What came in meanwhile has waited for a whole commit: that is linger enough.
        if (this.#dirty.size > 0) this.#flushNow();
      });
    });
  }

  async #flushDirty(): Promise<void> {
    const batch = [...this.#dirty].map((stream) => ({ stream, run: stream.take(this.#maxLength) }));
    for (const { stream } of batch) if (!stream.hasPending) this.#dirty.delete(stream);
    await this.#append(batch);
  }

  /** Appends until every run is committed, refused or given up. Never throws. */
  async #append(batch: readonly Flight[]): Promise<void> {
    let retryMs = RETRY_MIN_MS;
    let flights = batch;
    while (flights.length > 0) {
      try {
        const runs = flights.map((flight) => flight.run);
        crashPoint('append.before');
        const accepted = await appendRuns(this.#db, runs);
        crashPoint('append.after');
        this.#commit(flights.filter((flight) => accepted.has(flight.run)));
        const refused = flights.filter((flight) => !accepted.has(flight.run));
        flights = refused.length === 0 ? [] : await this.#explain(refused);
        retryMs = RETRY_MIN_MS;
      } catch (err) {
        if (!isTransient(err)) {
          await this.#isolate(flights, err);
          return;
        }
        if (this.#giveUp.signal.aborted) {
          for (const { stream } of flights)
            stream.refuse(
              new OncefleetError('STORE_UNAVAILABLE', 'The journal closed while Postgres was away', { cause: err }),
            );
          return;
        }
        this.#log.warn({ err, retryMs, streams: flights.length }, 'journal flush failed; retrying');
        await delay(retryMs * (0.5 + Math.random()), undefined, { signal: this.#giveUp.signal }).catch(() => undefined);
        retryMs = Math.min(retryMs * 2, RETRY_MAX_MS);
      }
    }
  }

  #commit(flights: readonly Flight[]): void {
    this.#publisher.publish(
      flights.map(({ stream, run }) => ({ run, end: false, form: stream.immediate ? 'pointer' : 'events' })),
    );
    for (const { stream, run } of flights) stream.committed(run);
  }

  /**
   * Tells an earlier try of ours that did commit (its answer was lost) from a lost fence.
   * Only the holder of a fence moves a head at that fence, so a head at ours that stands
   * within or behind the run was moved by us.
   */
  async #explain(refused: readonly Flight[]): Promise<Flight[]> {
    const heads = await findHeads(
      this.#db,
      refused.map(({ run }) => run.streamId),
    );
    const again: Flight[] = [];
    for (const { stream, run } of refused) {
      const head = heads.get(run.streamId);
      if (head === undefined || head.fence !== run.fence || head.state === 'closed') {
        const why =
          head === undefined
            ? 'the stream has no head'
            : head.fence === run.fence
              ? 'the stream is closed'
              : `the stream is at fence ${head.fence}`;
        stream.refuse(new LeaseLostError(run.streamId, run.fence, why));
      } else if (head.nextSeq > run.firstSeq && head.nextSeq <= lastSeq(run) + 1) {
        const done = head.nextSeq - run.firstSeq;
        this.#commit([{ stream, run: { ...run, events: run.events.slice(0, done) } }]);
        if (done < run.events.length)
          again.push({ stream, run: { ...run, firstSeq: head.nextSeq, events: run.events.slice(done) } });
      } else if (head.nextSeq === run.firstSeq) {
        again.push({ stream, run });
      } else {
        stream.refuse(
          new LeaseLostError(run.streamId, run.fence, `the stream stands at seq ${head.nextSeq}, not ${run.firstSeq}`),
        );
      }
    }
    return again;
  }

  /** Postgres refused something as data: finds what, so that everything else commits. */
  async #isolate(flights: readonly Flight[], error: unknown): Promise<void> {
    const [first] = flights;
    if (first === undefined) return;
    if (flights.length > 1) {
      const half = Math.ceil(flights.length / 2);
      await this.#append(flights.slice(0, half));
      await this.#append(flights.slice(half));
      return;
    }
    const { stream, run } = first;
    if (run.events.length > 1) {
      const half = Math.ceil(run.events.length / 2);
      await this.#append([{ stream, run: { ...run, events: run.events.slice(0, half) } }]);
      if (stream.refused === undefined) {
        await this.#append([
          { stream, run: { ...run, firstSeq: run.firstSeq + half, events: run.events.slice(half) } },
        ]);
      }
      return;
    }
    this.#log.error({ err: error, streamId: run.streamId, seq: run.firstSeq }, 'journal refused an event');
    stream.refuse(
      new OncefleetError(
        'JOURNAL_REFUSED',
        `Postgres refused event ${run.firstSeq} of stream ${run.streamId}: ${(error as Error).message}`,
        { cause: error },
      ),
    );
  }

  #room(): Promise<void> | undefined {
    if (this.#bufferedLength < this.#highWaterMark) return undefined;
    return new Promise((resolve) => this.#waitingForRoom.push(resolve));
  }

  #wakeProducers(): void {
    if (this.#waitingForRoom.length === 0 || this.#bufferedLength >= this.#highWaterMark) return;
    const waiting = this.#waitingForRoom;
    this.#waitingForRoom = [];
    for (const resolve of waiting) resolve();
  }
}

interface Flight {
  stream: StreamWriter;
  run: Run;
}

/** What a stream asks of the writer it belongs to. */
interface WriterSide {
  buffered(stream: StreamWriter, length: number): void;
  dropped(stream: StreamWriter, events: number, length: number): void;
  flushSoon(): void;
  room(): Promise<void> | undefined;
  publishAhead(run: Run): void;
}

/** One run's hand on its stream. Made by `JournalWriter.open`. */
export class StreamWriter {
  readonly streamId: string;
  readonly fence: number;
  /** Events are published as they are emitted, before their commit. */
  readonly immediate: boolean;
  readonly #writer: WriterSide;
  readonly #onRefused: (error: OncefleetError) => void;
  #pending: string[] = [];
  #pendingLength = 0;
  /** Events taken for the flush in flight. */
  #taken: Run | undefined;
  #takenLength = 0;
  /** Seq of the first event that is neither committed nor in flight. */
  #pendingSeq: number;
  #committedSeq: number;
  #refused: OncefleetError | undefined;
  #sealed: Promise<SealedStream> | undefined;
  #waiters: { upTo: number; resolve(): void; reject(error: OncefleetError): void }[] = [];

  constructor(options: OpenStreamOptions, writer: WriterSide) {
    this.streamId = options.streamId;
    this.fence = options.fence;
    this.immediate = options.immediate ?? false;
    this.#pendingSeq = options.nextSeq;
    this.#committedSeq = options.nextSeq;
    this.#onRefused = options.onRefused;
    this.#writer = writer;
  }

  /** Seq the next emitted event gets. */
  get nextSeq(): number {
    return this.#pendingSeq + this.#pending.length;
  }

  get hasPending(): boolean {
    return this.#pending.length > 0;
  }

  /** Events are buffered or on their way. */
  get hasUncommitted(): boolean {
    return this.#pending.length > 0 || this.#taken !== undefined;
  }

  get refused(): OncefleetError | undefined {
    return this.#refused;
  }

  /**
   * Buffers a handler's event; resolves at once unless buffers are full.
   *
   * @throws OncefleetError EVENT_INVALID (this event alone), STREAM_CLOSED, LEASE_LOST, JOURNAL_REFUSED
   */
  async emit(event: JobEvent): Promise<void> {
    this.append(encodeEvent(event));
    const room = this.#writer.room();
    if (room === undefined) return;
    await room;
    if (this.#refused !== undefined) throw this.#refused;
  }

  /** Buffers an event that is encoded already (the fleet's own). */
  append(json: string): void {
    if (this.#refused !== undefined) throw this.#refused;
    if (this.#sealed !== undefined)
      throw new OncefleetError('STREAM_CLOSED', `The run that wrote stream ${this.streamId} is over`);
    const firstSeq = this.nextSeq;
    this.#pending.push(json);
    this.#pendingLength += json.length;
    this.#writer.buffered(this, json.length);
    if (this.immediate)
      this.#writer.publishAhead({ streamId: this.streamId, fence: this.fence, firstSeq, events: [json] });
  }

  /** Resolves when every event emitted so far is committed. @throws OncefleetError LEASE_LOST, JOURNAL_REFUSED */
  flush(): Promise<void> {
    if (this.#refused !== undefined) return Promise.reject(this.#refused);
    const upTo = this.nextSeq;
    if (this.#committedSeq >= upTo) return Promise.resolve();
    const done = this.#committed(upTo);
    this.#writer.flushSoon();
    return done;
  }

  /**
   * Ends writing through the group commit: waits for the flush in flight and hands over what
   * is left, to be committed together with the outcome. Later calls get the same.
   *
   * @throws LeaseLostError
   */
  seal(): Promise<SealedStream> {
    this.#sealed ??= this.#seal();
    return this.#sealed;
  }

  async #seal(): Promise<SealedStream> {
    const events = this.#pending;
    const length = this.#pendingLength;
    this.#pending = [];
    this.#pendingLength = 0;
    const firstSeq = this.#pendingSeq;
    this.#writer.dropped(this, events.length, length);
    if (this.#taken !== undefined) await this.#committed(firstSeq).catch(() => undefined);
    // An event refused as data ends the run, not its hold on the stream: the outcome goes where that event was.
    if (this.#refused?.code === 'JOURNAL_REFUSED') return { firstSeq: this.#committedSeq, events: [] };
    if (this.#refused !== undefined) throw this.#refused;
    return { firstSeq, events };
  }

  /** @internal Events for a flush, no more than `maxLength` characters unless the first is longer. */
  take(maxLength: number): Run {
    let count = 0;
    let length = 0;
    while (
      count < this.#pending.length &&
      (count === 0 || length + (this.#pending[count] as string).length <= maxLength)
    ) {
      length += (this.#pending[count] as string).length;
      count++;
    }
    const events = count === this.#pending.length ? this.#pending : this.#pending.slice(0, count);
    this.#pending = count === this.#pending.length ? [] : this.#pending.slice(count);
    this.#pendingLength -= length;
    this.#taken = { streamId: this.streamId, fence: this.fence, firstSeq: this.#pendingSeq, events };
    this.#takenLength = length;
    this.#pendingSeq += count;
    return this.#taken;
  }

  /** @internal A run, or the start of one, is durable. */
  committed(run: Run): void {
    this.#committedSeq = run.firstSeq + run.events.length;
    if (this.#taken !== undefined && this.#committedSeq >= this.#taken.firstSeq + this.#taken.events.length)
      this.#release();
    const ready = this.#waiters.filter((waiter) => waiter.upTo <= this.#committedSeq);
    this.#waiters = this.#waiters.filter((waiter) => waiter.upTo > this.#committedSeq);
    for (const waiter of ready) waiter.resolve();
  }

  /** @internal The journal takes nothing more from this run. */
  refuse(error: OncefleetError): void {
    if (this.#refused !== undefined) return;
    this.#refused = error;
    const { length } = this.#pending;
    const pendingLength = this.#pendingLength;
    this.#pending = [];
    this.#pendingLength = 0;
    this.#release();
    this.#writer.dropped(this, length, pendingLength);
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter.reject(error);
    this.#onRefused(error);
  }

  #release(): void {
    if (this.#taken === undefined) return;
    const { length } = this.#taken.events;
    this.#taken = undefined;
    this.#writer.dropped(this, length, this.#takenLength);
    this.#takenLength = 0;
  }

  #committed(upTo: number): Promise<void> {
    return new Promise((resolve, reject) => this.#waiters.push({ upTo, resolve, reject }));
  }
}
