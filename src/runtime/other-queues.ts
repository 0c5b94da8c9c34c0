/** Queues that rows name and no loaded definition has: guarded ones of other BullMQ clients, and those of jobs that only workers load. */
import { Queue } from 'bullmq';
import type { Kysely } from 'kysely';
import { findOtherQueues } from '../db/operator.ts';
import type { Database } from '../db/schema.ts';
import { queueErrorLevel } from '../enqueue/queue-errors.ts';
import type { Logger } from '../log.ts';
import type { RedisConnection } from '../redis/pubsub.ts';

/** Queues kept at most: each costs every look at the board some commands. */
const MAX_QUEUES = 100;

/** Rows read in one look, of the newest and of the unfinished: some 5 ms. */
const MAX_ROWS = 5_000;

/** Where another client's queue is looked for, if its row does not tell: BullMQ's own default. */
const DEFAULT_PREFIX = 'bull';

interface OtherQueuesOptions {
  db: Kysely<Database>;
  redis: RedisConnection;
  log: Logger;
  prefixOf(queue: string): string;
}

export class OtherQueues {
  readonly #options: OtherQueuesOptions;
  /** By prefix and name: every one that was made, so that none is made twice. */
  readonly #queues = new Map<string, Queue>();
  /** Of those, the ones that rows name. */
  readonly #named = new Map<string, Queue>();
  #lookedAt = Number.NEGATIVE_INFINITY;
  #looking: Promise<void> | undefined;

  constructor(options: OtherQueuesOptions) {
    this.#options = options;
  }

  /** A queue of any prefix. */
  at(prefix: string, name: string): Queue {
    const key = `${prefix}\n${name}`;
    let queue = this.#queues.get(key);
    if (queue === undefined) {
      // It is somebody else's: nothing is written that tells of us.
      queue = new Queue(name, { connection: this.#options.redis, prefix, skipMetasUpdate: true });
      queue.on('error', (err) => this.#options.log[queueErrorLevel(err)]({ err, queue: name }, 'BullMQ queue error'));
      this.#queues.set(key, queue);
    }
    return queue;
  }

  /**
   * What was found so far; looks for more from time to time. One that was found stays.
   *
   * @param known names of queues that are no others
   * @param everyMs pause between two looks
   */
  async find(known: readonly string[], everyMs: number): Promise<readonly Queue[]> {
    if (performance.now() - this.#lookedAt > everyMs && this.#options.redis.status === 'ready') {
      this.#looking ??= this.#look(known).finally(() => {
        this.#looking = undefined;
      });
      await this.#looking;
    }
    return [...this.#named.values()];
  }

  async close(): Promise<void> {
    await Promise.all(
      [...this.#queues.values()].map((queue) =>
        queue.close().catch((err: unknown) => this.#options.log.debug({ err }, 'queue did not close')),
      ),
    );
  }

  async #look(known: readonly string[]): Promise<void> {
    const { db } = this.#options;
    const found = await findOtherQueues(db, known, { rows: MAX_ROWS, queues: MAX_QUEUES });
    for (const { prefix, name } of found) {
      const prefixes = prefix === undefined ? await this.#prefixesOf(name) : [prefix];
      for (const one of prefixes) {
        if (this.#named.size >= MAX_QUEUES) return;
        this.#named.set(`${one}\n${name}`, this.at(one, name));
      }
    }
    this.#lookedAt = performance.now();
  }

  /** Those under which Redis has a queue of this name. */
  async #prefixesOf(name: string): Promise<string[]> {
    const { redis, prefixOf } = this.#options;
    const prefixes = [...new Set([prefixOf(name), DEFAULT_PREFIX])];
    const there = await Promise.all(prefixes.map((prefix) => redis.exists(`${prefix}:${name}:meta`)));
    return prefixes.filter((_, i) => there[i] === 1);
  }
}
