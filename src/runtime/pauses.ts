/**
 * Pauses of queues: rows in Postgres, brought back to a Redis that has lost them.
 *
 * BullMQ keeps a pause in a field of the queue's `meta` hash. Beside it stands the id of the pause as
 * Postgres has it, in the same hash, so that a flush or an obliterate takes both and a resume by
 * another client takes BullMQ's own alone. What the two fields and the row say together decides:
 *
 * | row | BullMQ's field | our mark | what has happened | what is done |
 * | --- | --- | --- | --- | --- |
 * | yes | paused | its id | nothing | nothing |
 * | yes | paused | other, none | paused twice, or its owner died halfway | the mark is written |
 * | yes | – | its id | another client resumed the queue | the row goes |
 * | yes | – | other, none | Redis lost the pause | the queue is paused |
 * | no | paused | none | another client paused the queue | it gets a row |
 * | no | paused | any | it was resumed, and its owner died halfway | the queue is resumed |
 * | no | – | any | the same | the mark goes |
 *
 * One process at a time changes a queue's pause: all of it happens under a lock in Postgres.
 */
import type { Queue } from 'bullmq';
import type { Kysely } from 'kysely';
import { deletePause, findPause, findPauses, insertPause, lockPause, type Pause } from '../db/paused-queues.ts';
import type { Database } from '../db/schema.ts';
import { OncefleetError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { RedisConnection } from '../redis/pubsub.ts';
import { uuidV7 } from '../util/uuid.ts';
import { within } from '../util/with-timeout.ts';

/** The field of a queue's `meta` hash that has the id of its pause. */
const MARK = 'oncefleet:pause';

/** How long Redis may take for one queue while the lock is held. */
const REDIS_WAIT_MS = 5_000;

/** Postgres takes the lock from a process that has sent nothing for this long. */
const IDLE_LIMIT_MS = 10_000;

/** Pauses looked at; more queues than a fleet has. */
const MAX_PAUSES = 10_000;

/** Queues whose mark is read at once. */
const READ_AT_ONCE = 100;

export type PauseDifference = 'unmarked' | 'resumed-elsewhere' | 'lost' | 'paused-elsewhere' | 'not-resumed' | 'stale';

interface PausesOptions {
  db: Kysely<Database>;
  redis: RedisConnection;
  log: Logger;
  /** The queue that a pause is about. */
  queueAt(prefix: string, name: string): Queue;
}

interface QueueName {
  prefix: string;
  queue: string;
}

export class Pauses {
  readonly #options: PausesOptions;

  constructor(options: PausesOptions) {
    this.#options = options;
  }

  /** Idempotent. @param by what pauses it @throws OncefleetError SERVICE_MISSING Redis does not answer; nothing is paused then */
  async pause(queue: Queue, by: string): Promise<void> {
    await this.#locked(queue, async (db, name) => {
      if ((await findPause(db, name)) === undefined) await insertPause(db, { ...name, id: uuidV7(), by });
      await this.#bringInLine(db, queue);
    });
    this.#options.log.info({ queue: queue.name, by }, 'queue paused');
  }

  /** Idempotent. @throws OncefleetError SERVICE_MISSING Redis does not answer; the queue stays paused then */
  async resume(queue: Queue): Promise<void> {
    await this.#locked(queue, async (db, name) => {
      await deletePause(db, name);
      await queue.resume();
    });
    await this.#unmark(queue);
    this.#options.log.info({ queue: queue.name }, 'queue resumed');
  }

  /** Brings Postgres and Redis in line where they differ. @returns how they differed, of which queues */
  async align(queues: readonly Queue[]): Promise<{ queue: Queue; how: PauseDifference }[]> {
    const aligned = [];
    for (const { queue } of await this.findDifferences(queues)) {
      const how = await this.#locked(queue, (db) => this.#bringInLine(db, queue));
      if (how === undefined) continue;
      if (how === 'resumed-elsewhere') await this.#unmark(queue);
      aligned.push({ queue, how });
      this.#options.log.info({ queue: queue.name, how }, 'pause of a queue brought in line');
    }
    return aligned;
  }

  /** Of these queues, and of those that Postgres has as paused, the ones whose pause differs. */
  async findDifferences(queues: readonly Queue[]): Promise<{ queue: Queue; how: PauseDifference }[]> {
    const { db, queueAt } = this.#options;
    const pauses = new Map<string, Pause>();
    for (const pause of await findPauses(db, MAX_PAUSES)) pauses.set(keyOf(pause), pause);
    const all = new Map(queues.map((queue) => [keyOf(nameOf(queue)), queue]));
    for (const [key, { prefix, queue }] of pauses) if (!all.has(key)) all.set(key, queueAt(prefix, queue));
    const found: { queue: Queue; how: PauseDifference }[] = [];
    const entries = [...all];
    for (let i = 0; i < entries.length; i += READ_AT_ONCE) {
      const page = entries.slice(i, i + READ_AT_ONCE);
      const marks = await Promise.all(page.map(([, queue]) => this.#readRedis(queue)));
      for (const [at, [key, queue]] of page.entries()) {
        const how = compare(pauses.get(key), marks[at] as RedisPause);
        if (how !== undefined) found.push({ queue, how });
      }
    }
    return found;
  }

  /** After the commit: with the mark still there, a row that stays is known to be resumed. */
  async #unmark(queue: Queue): Promise<void> {
    await this.#options.redis.hdel(queue.toKey('meta'), MARK);
  }

  async #readRedis(queue: Queue): Promise<RedisPause> {
    const [paused, mark] = await this.#options.redis.hmget(queue.toKey('meta'), 'paused', MARK);
    return { paused: paused != null, mark: mark ?? undefined };
  }

  async #bringInLine(db: Kysely<Database>, queue: Queue): Promise<PauseDifference | undefined> {
    const name = nameOf(queue);
    const pause = await findPause(db, name);
    const how = compare(pause, await this.#readRedis(queue));
    const { redis } = this.#options;
    const meta = queue.toKey('meta');
    switch (how) {
      case 'lost':
        await queue.pause();
        await redis.hset(meta, MARK, (pause as Pause).id);
        break;
      case 'unmarked':
        await redis.hset(meta, MARK, (pause as Pause).id);
        break;
      case 'resumed-elsewhere':
        await deletePause(db, name);
        break;
      case 'paused-elsewhere': {
        const id = uuidV7();
        await insertPause(db, { ...name, id, by: 'bullmq' });
        await redis.hset(meta, MARK, id);
        break;
      }
      case 'not-resumed':
        await queue.resume();
        await redis.hdel(meta, MARK);
        break;
      case 'stale':
        await redis.hdel(meta, MARK);
        break;
      case undefined:
        break;
      default:
        how satisfies never;
    }
    return how;
  }

  async #locked<T>(queue: Queue, change: (db: Kysely<Database>, name: QueueName) => Promise<T>): Promise<T> {
    const name = nameOf(queue);
    return this.#options.db.transaction().execute(async (trx) => {
      await lockPause(trx, name, IDLE_LIMIT_MS);
      return within(REDIS_WAIT_MS, change(trx, name), () => {
        throw new OncefleetError('SERVICE_MISSING', `Redis has not answered for ${REDIS_WAIT_MS / 1_000} s; try again`);
      });
    });
  }
}

interface RedisPause {
  paused: boolean;
  mark: string | undefined;
}

/** The table above. */
function compare(row: Pause | undefined, { paused, mark }: RedisPause): PauseDifference | undefined {
  if (row !== undefined) {
    if (paused) return mark === row.id ? undefined : 'unmarked';
    return mark === row.id ? 'resumed-elsewhere' : 'lost';
  }
  if (paused) return mark === undefined ? 'paused-elsewhere' : 'not-resumed';
  return mark === undefined ? undefined : 'stale';
}

function nameOf(queue: Queue): QueueName {
  return { prefix: queue.opts.prefix ?? 'bull', queue: queue.name };
}

function keyOf({ prefix, queue }: QueueName): string {
  return `${prefix}\n${queue}`;
}
