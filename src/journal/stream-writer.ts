import type { EventBatch } from '../db/streams/segments.ts';
import { OncefleetError } from '../errors.ts';
import { encodeEvent, type JobEvent } from './event.ts';

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
interface SealedStream {
  firstSeq: number;
  events: string[];
}

/** What a stream asks of the writer it belongs to. */
export interface StreamWriterHost {
  buffered(stream: StreamWriter, length: number): void;
  dropped(stream: StreamWriter, events: number, length: number): void;
  flushSoon(): void;
  room(): Promise<void> | undefined;
  publishAhead(batch: EventBatch): void;
}

/** Characters of events that an outcome takes along; more of them are committed before it. */
const MAX_SEALED_LENGTH = 1024 * 1024;

/** What one run writes into its stream: buffered here, committed by the `JournalWriter` that opened it. */
export class StreamWriter {
  readonly streamId: string;
  readonly fence: number;
  /** Events are published as they are emitted, before their commit. */
  readonly immediate: boolean;
  readonly #host: StreamWriterHost;
  readonly #onRefused: (error: OncefleetError) => void;
  #pending: string[] = [];
  #pendingLength = 0;
  /** Events taken for the flush in flight. */
  #taken: EventBatch | undefined;
  #takenLength = 0;
  /** Seq of the first event that is neither committed nor in flight. */
  #pendingSeq: number;
  #committedSeq: number;
  #refused: OncefleetError | undefined;
  #sealed: Promise<SealedStream> | undefined;
  #waiters: { upTo: number; resolve(): void; reject(error: OncefleetError): void }[] = [];

  constructor(options: OpenStreamOptions, host: StreamWriterHost) {
    this.streamId = options.streamId;
    this.fence = options.fence;
    this.immediate = options.immediate ?? false;
    this.#pendingSeq = options.nextSeq;
    this.#committedSeq = options.nextSeq;
    this.#onRefused = options.onRefused;
    this.#host = host;
  }

  /** Seq the next emitted event gets. */
  get nextSeq(): number {
    return this.#pendingSeq + this.#pending.length;
  }

  get hasPending(): boolean {
    return this.#pending.length > 0;
  }

  /** Events are buffered or in flight. */
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
    await this.write(event);
  }

  /** The same, without a promise where there is room. @throws at once what `emit` rejects with */
  write(event: JobEvent): Promise<void> | undefined {
    this.append(encodeEvent(event));
    return this.#host.room()?.then(() => {
      if (this.#refused !== undefined) throw this.#refused;
    });
  }

  /** Buffers an event that is encoded already (the fleet's own). */
  append(json: string): void {
    if (this.#refused !== undefined) throw this.#refused;
    if (this.#sealed !== undefined)
      throw new OncefleetError('STREAM_CLOSED', `The run that wrote stream ${this.streamId} is over`);
    const firstSeq = this.nextSeq;
    this.#pending.push(json);
    this.#pendingLength += json.length;
    this.#host.buffered(this, json.length);
    if (this.immediate)
      this.#host.publishAhead({ streamId: this.streamId, fence: this.fence, firstSeq, events: [json] });
  }

  /** Resolves when every event emitted so far is committed. @throws OncefleetError LEASE_LOST, JOURNAL_REFUSED */
  flush(): Promise<void> {
    if (this.#refused !== undefined) return Promise.reject(this.#refused);
    const upTo = this.nextSeq;
    if (this.#committedSeq >= upTo) return Promise.resolve();
    const done = this.#committed(upTo);
    this.#host.flushSoon();
    return done;
  }

  /**
   * Ends writing through the group commit: waits for the flush in flight and returns what is
   * left, to be committed together with the outcome. Later calls get the same.
   *
   * @throws LeaseLostError
   */
  seal(): Promise<SealedStream> {
    this.#sealed ??= this.#seal();
    return this.#sealed;
  }

  async #seal(): Promise<SealedStream> {
    // What is left becomes one segment, which every reader of any event in it reads.
    if (this.#pendingLength > MAX_SEALED_LENGTH) await this.flush().catch(() => undefined);
    const events = this.#pending;
    const length = this.#pendingLength;
    this.#pending = [];
    this.#pendingLength = 0;
    const firstSeq = this.#pendingSeq;
    this.#host.dropped(this, events.length, length);
    if (this.#taken !== undefined) await this.#committed(firstSeq).catch(() => undefined);
    // An event refused as data ends the run, not its hold on the stream: the outcome goes where that event was.
    if (this.#refused?.code === 'JOURNAL_REFUSED') return { firstSeq: this.#committedSeq, events: [] };
    if (this.#refused !== undefined) throw this.#refused;
    return { firstSeq, events };
  }

  /** Takes events for a flush: no more than `maxLength` characters, unless the first is longer. */
  take(maxLength: number): EventBatch {
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

  /** A batch, or the start of one, is durable. */
  committed(batch: EventBatch): void {
    this.#committedSeq = batch.firstSeq + batch.events.length;
    if (this.#taken !== undefined && this.#committedSeq >= this.#taken.firstSeq + this.#taken.events.length)
      this.#release();
    const ready = this.#waiters.filter((waiter) => waiter.upTo <= this.#committedSeq);
    this.#waiters = this.#waiters.filter((waiter) => waiter.upTo > this.#committedSeq);
    for (const waiter of ready) waiter.resolve();
  }

  /** The journal takes nothing more from this run. */
  refuse(error: OncefleetError): void {
    if (this.#refused !== undefined) return;
    this.#refused = error;
    const { length } = this.#pending;
    const pendingLength = this.#pendingLength;
    this.#pending = [];
    this.#pendingLength = 0;
    this.#release();
    this.#host.dropped(this, length, pendingLength);
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter.reject(error);
    this.#onRefused(error);
  }

  #release(): void {
    if (this.#taken === undefined) return;
    const { length } = this.#taken.events;
    this.#taken = undefined;
    this.#host.dropped(this, length, this.#takenLength);
    this.#takenLength = 0;
  }

  #committed(upTo: number): Promise<void> {
    return new Promise((resolve, reject) => this.#waiters.push({ upTo, resolve, reject }));
  }
}
