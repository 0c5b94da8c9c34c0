/**
 * How a flush reaches Postgres: it is retried while Postgres is unreachable, explained where a fence
 * refuses it, and taken apart where Postgres refuses one of its events.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { Kysely } from 'kysely';
import { crashPoint } from '../crash-points.ts';
import type { Database } from '../db/schema.ts';
import { appendBatches, type EventBatch, findHeads, lastSeq } from '../db/streams/segments.ts';
import { isTransient } from '../db/transient.ts';
import { LeaseLostError, OncefleetError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Probes } from '../util/probes.ts';
import type { Publisher } from './publisher.ts';
import type { StreamWriter } from './stream-writer.ts';

const RETRY_MIN_MS = 50;
const RETRY_MAX_MS = 2_000;

/** Events of one stream, on their way to Postgres. */
interface Flight {
  stream: StreamWriter;
  batch: EventBatch;
}

interface AppenderOptions {
  db: Kysely<Database>;
  publisher: Pick<Publisher, 'publish'>;
  log: Logger;
  probes?: Probes | undefined;
  /** Ends retries while Postgres is unreachable. */
  giveUp: AbortSignal;
}

export class Appender {
  readonly #db: Kysely<Database>;
  readonly #publisher: Pick<Publisher, 'publish'>;
  readonly #log: Logger;
  readonly #probes: Probes | undefined;
  readonly #giveUp: AbortSignal;

  constructor(options: AppenderOptions) {
    this.#db = options.db;
    this.#publisher = options.publisher;
    this.#log = options.log;
    this.#probes = options.probes;
    this.#giveUp = options.giveUp;
  }

  /** Appends until every batch is committed, refused or given up (`giveUp`). Never throws. */
  async append(taken: readonly Flight[]): Promise<void> {
    let retryMs = RETRY_MIN_MS;
    let flights = taken;
    while (flights.length > 0) {
      try {
        const batches = flights.map((flight) => flight.batch);
        crashPoint('append.before');
        const startedAt = performance.now();
        const accepted = await appendBatches(this.#db, batches);
        crashPoint('append.after');
        const committed = flights.filter((flight) => accepted.has(flight.batch));
        this.#tellFlush(committed, performance.now() - startedAt);
        this.#commit(committed);
        const refused = flights.filter((flight) => !accepted.has(flight.batch));
        flights = refused.length === 0 ? [] : await this.#explain(refused);
        retryMs = RETRY_MIN_MS;
      } catch (err) {
        if (!isTransient(err)) {
          await this.#isolate(flights, err);
          return;
        }
        if (this.#giveUp.aborted) {
          for (const { stream } of flights)
            stream.refuse(
              new OncefleetError('STORE_UNAVAILABLE', 'The journal closed while Postgres was unreachable', {
                cause: err,
              }),
            );
          return;
        }
        this.#probes?.listener?.flushFailed();
        this.#log.warn({ err, retryMs, streams: flights.length }, 'journal flush failed; retrying');
        await delay(retryMs * (0.5 + Math.random()), undefined, { signal: this.#giveUp }).catch(() => undefined);
        retryMs = Math.min(retryMs * 2, RETRY_MAX_MS);
      }
    }
  }

  #tellFlush(flights: readonly Flight[], ms: number): void {
    const listener = this.#probes?.listener;
    if (listener === undefined || flights.length === 0) return;
    let events = 0;
    let characters = 0;
    for (const { batch } of flights) {
      events += batch.events.length;
      for (const json of batch.events) characters += json.length;
    }
    listener.flushed({ ms, streams: flights.length, events, characters });
  }

  /** The fence of a stream has refused what its run wrote. */
  #refuse(stream: StreamWriter, { streamId, fence }: EventBatch, why: string): void {
    this.#probes?.listener?.writeRefused('append');
    stream.refuse(new LeaseLostError(streamId, fence, why));
  }

  #commit(flights: readonly Flight[]): void {
    this.#publisher.publish(
      flights.map(({ stream, batch }) => ({ batch, end: false, form: stream.immediate ? 'pointer' : 'events' })),
    );
    for (const { stream, batch } of flights) stream.committed(batch);
  }

  /**
   * Tells an earlier try of ours that did commit (its answer was lost) from a lost fence.
   * Only the holder of a fence moves a head at that fence, so a head at ours that stands
   * within or behind the batch was moved by us.
   *
   * @returns what is still to be appended
   */
  async #explain(refused: readonly Flight[]): Promise<Flight[]> {
    const heads = await findHeads(
      this.#db,
      refused.map(({ batch }) => batch.streamId),
    );
    const again: Flight[] = [];
    for (const { stream, batch } of refused) {
      const head = heads.get(batch.streamId);
      if (head === undefined || head.fence !== batch.fence || head.state === 'closed') {
        const why =
          head === undefined
            ? 'the stream has no head'
            : head.fence === batch.fence
              ? 'the stream is closed'
              : `the stream is at fence ${head.fence}`;
        this.#refuse(stream, batch, why);
      } else if (head.nextSeq > batch.firstSeq && head.nextSeq <= lastSeq(batch) + 1) {
        const done = head.nextSeq - batch.firstSeq;
        this.#commit([{ stream, batch: { ...batch, events: batch.events.slice(0, done) } }]);
        if (done < batch.events.length)
          again.push({ stream, batch: { ...batch, firstSeq: head.nextSeq, events: batch.events.slice(done) } });
      } else if (head.nextSeq === batch.firstSeq) {
        again.push({ stream, batch });
      } else {
        this.#refuse(stream, batch, `the stream stands at seq ${head.nextSeq}, not ${batch.firstSeq}`);
      }
    }
    return again;
  }

  /** Postgres refused something as data: finds what it was, so that everything else commits. */
  async #isolate(flights: readonly Flight[], error: unknown): Promise<void> {
    const [first] = flights;
    if (first === undefined) return;
    if (flights.length > 1) {
      const half = Math.ceil(flights.length / 2);
      await this.append(flights.slice(0, half));
      await this.append(flights.slice(half));
      return;
    }
    const { stream, batch } = first;
    if (batch.events.length > 1) {
      const half = Math.ceil(batch.events.length / 2);
      await this.append([{ stream, batch: { ...batch, events: batch.events.slice(0, half) } }]);
      if (stream.refused === undefined) {
        await this.append([
          { stream, batch: { ...batch, firstSeq: batch.firstSeq + half, events: batch.events.slice(half) } },
        ]);
      }
      return;
    }
    this.#log.error({ err: error, streamId: batch.streamId, seq: batch.firstSeq }, 'journal refused an event');
    stream.refuse(
      new OncefleetError(
        'JOURNAL_REFUSED',
        `Postgres refused event ${batch.firstSeq} of stream ${batch.streamId}: ${(error as Error).message}`,
        { cause: error },
      ),
    );
  }
}
