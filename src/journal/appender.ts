/**
 * How a flush reaches Postgres: it is retried while Postgres is unreachable, explained where a fence
 * refuses it, and taken apart where Postgres refuses one of its events.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { Kysely } from 'kysely';
import { crashPoint } from '../crash-points.ts';
import type { Database } from '../db/schema.ts';
import { appendRuns, findHeads, lastSeq, type Run } from '../db/streams/segments.ts';
import { isTransient } from '../db/transient.ts';
import { LeaseLostError, OncefleetError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Publisher } from './publisher.ts';
import type { StreamWriter } from './stream-writer.ts';

const RETRY_MIN_MS = 50;
const RETRY_MAX_MS = 2_000;

/** Events of one stream, on their way to Postgres. */
export interface Flight {
  stream: StreamWriter;
  run: Run;
}

export interface AppenderOptions {
  db: Kysely<Database>;
  publisher: Pick<Publisher, 'publish'>;
  log: Logger;
  /** Ends retries while Postgres is unreachable. */
  giveUp: AbortSignal;
}

export class Appender {
  readonly #db: Kysely<Database>;
  readonly #publisher: Pick<Publisher, 'publish'>;
  readonly #log: Logger;
  readonly #giveUp: AbortSignal;

  constructor(options: AppenderOptions) {
    this.#db = options.db;
    this.#publisher = options.publisher;
    this.#log = options.log;
    this.#giveUp = options.giveUp;
  }

  /** Appends until every run is committed, refused or given up (`giveUp`). Never throws. */
  async append(taken: readonly Flight[]): Promise<void> {
    let retryMs = RETRY_MIN_MS;
    let flights = taken;
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
        if (this.#giveUp.aborted) {
          for (const { stream } of flights)
            stream.refuse(
              new OncefleetError('STORE_UNAVAILABLE', 'The journal closed while Postgres was unreachable', {
                cause: err,
              }),
            );
          return;
        }
        this.#log.warn({ err, retryMs, streams: flights.length }, 'journal flush failed; retrying');
        await delay(retryMs * (0.5 + Math.random()), undefined, { signal: this.#giveUp }).catch(() => undefined);
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
   *
   * @returns what is still to be appended
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
    const { stream, run } = first;
    if (run.events.length > 1) {
      const half = Math.ceil(run.events.length / 2);
      await this.append([{ stream, run: { ...run, events: run.events.slice(0, half) } }]);
      if (stream.refused === undefined) {
        await this.append([{ stream, run: { ...run, firstSeq: run.firstSeq + half, events: run.events.slice(half) } }]);
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
}
