/**
 * The journal writer: one per process, all streams share a group commit.
 *
 * A flush starts when none is in flight and the oldest buffered event is `lingerMs` old, or
 * when buffers reach `maxEvents` or `maxLength`, or on `flush()`. The timer is a real one,
 * so the last event of a quiet stream does not wait for company. While Postgres is unreachable the
 * flush in flight is retried as it is (same batches, same seqs) and buffers hold up to
 * `highWaterMark`; past it `emit` waits. `Appender` has the flush itself.
 *
 * The terminal event of a run does not come this way: it commits with the outcome (`StreamWriter.seal`).
 */
import type { Kysely } from 'kysely';
import type { Database } from '../db/schema.ts';
import type { Logger } from '../log.ts';
import { RANGES } from '../options.ts';
import type { Probes } from '../util/probes.ts';
import { Appender } from './appender.ts';
import type { Publisher } from './publisher.ts';
import { type OpenStreamOptions, StreamWriter, type StreamWriterHost } from './stream-writer.ts';

export interface JournalWriterOptions {
  db: Kysely<Database>;
  publisher: Pick<Publisher, 'publish'>;
  log: Logger;
  /** Told of flushes. */
  probes?: Probes | undefined;
  /** How long the oldest buffered event waits for company. Default 5. */
  lingerMs?: number;
  /** Buffered events that start a flush at once. Default 2,000. */
  maxEvents?: number;
  /** Buffered characters that start a flush at once, and the most one stream puts into one segment. Default 1 Mi. */
  maxLength?: number;
  /** Buffered characters of all streams past which `emit` waits. Default 16 Mi. */
  highWaterMark?: number;
}

export class JournalWriter {
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
  /** A flush is over, and the producers it woke have the rest of this turn of the event loop. */
  #turn: NodeJS.Immediate | undefined;
  #waitingForRoom: (() => void)[] = [];
  readonly #giveUp = new AbortController();
  #closed: Promise<void> | undefined;
  readonly #appender: Appender;
  /** What a stream asks of its writer; the same for all. */
  readonly #host: StreamWriterHost;

  constructor(options: JournalWriterOptions) {
    this.#log = options.log;
    this.#lingerMs = options.lingerMs ?? RANGES.lingerMs.default;
    this.#maxEvents = options.maxEvents ?? 2_000;
    this.#maxLength = options.maxLength ?? 1024 * 1024;
    this.#highWaterMark = options.highWaterMark ?? 16 * 1024 * 1024;
    const { db, publisher, log, probes } = options;
    this.#appender = new Appender({ db, publisher, log, probes, giveUp: this.#giveUp.signal });
    this.#host = {
      buffered: (stream, length) => this.#buffered(stream, length),
      dropped: (stream, events, length) => this.#dropped(stream, events, length),
      flushSoon: () => this.#flushNow(),
      room: () => this.#room(),
      publishAhead: (batch) => publisher.publish([{ batch, end: false, form: 'ahead' }]),
    };
  }

  /** Characters buffered and not yet committed, all streams together. */
  get bufferedLength(): number {
    return this.#bufferedLength;
  }

  /** Starts writing a stream at a fence. */
  open(options: OpenStreamOptions): StreamWriter {
    return new StreamWriter(options, this.#host);
  }

  /** Resolves when everything buffered at the call is committed or refused. */
  async flush(): Promise<void> {
    await Promise.all([...this.#uncommitted].map((stream) => stream.flush().catch(() => undefined)));
  }

  /**
   * Commits what is buffered and stops. Idempotent; safe before the first event.
   *
   * @param options.timeoutMs how long to wait for a Postgres that is unreachable; then what is
   *   buffered is given up and counted in the log (its runs have no outcome, so their jobs run again)
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
    const flights = [...this.#dirty].map((stream) => ({ stream, batch: stream.take(this.#maxLength) }));
    for (const { stream } of flights) if (!stream.hasPending) this.#dirty.delete(stream);
    await this.#appender.append(flights);
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
