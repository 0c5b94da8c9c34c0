/**
 * A BullMQ worker that waits when Redis refuses to give it a job, and puts aside one that cannot be read.
 * BullMQ's own asks again in the same turn, and fetches what it cannot read once in every lease, for ever.
 */
import { Worker } from 'bullmq';
import type { RedisConnection } from '../redis/pubsub.ts';

/** The first pause after a refusal. It doubles with each one in a row. */
const FIRST_PAUSE_MS = 100;

const LONGEST_PAUSE_MS = 2_000;

/** Active jobs looked through for one that cannot be read. */
const MAX_ACTIVE = 10_000;

export class PatientWorker extends Worker {
  #refusals = 0;
  #wake: (() => void) | undefined;

  // BullMQ calls it in a loop that has no pause of its own after an error: at best that is a flood of
  // commands and log lines, and where the error comes without asking Redis it takes the event loop for good.
  protected override async moveToActive(
    ...args: Parameters<Worker['moveToActive']>
  ): ReturnType<Worker['moveToActive']> {
    try {
      const job = await super.moveToActive(...args);
      this.#refusals = 0;
      return job;
    } catch (error) {
      const removed = isUnreadable(error) ? await this.#remove(args[0]).catch(() => undefined) : undefined;
      if (removed !== undefined)
        throw new Error(`Job ${removed} was removed from BullMQ: what Redis has of it cannot be read`, {
          cause: error,
        });
      await this.#pause(Math.min(FIRST_PAUSE_MS * 2 ** this.#refusals++, LONGEST_PAUSE_MS));
      throw error;
    }
  }

  // BullMQ waits for 5 s where a read that blocks was refused.
  override delay(...[milliseconds, abort]: Parameters<Worker['delay']>): Promise<void> {
    return super.delay(milliseconds ?? LONGEST_PAUSE_MS, abort);
  }

  override close(force?: boolean): Promise<void> {
    const closed = super.close(force);
    this.#wake?.();
    return closed;
  }

  /**
   * Removes the job that was given out under a token. If it is one of the fleet, the reconciler adds it
   * again from its row. Left in a list, it would break each look at that list.
   *
   * @returns its BullMQ id
   */
  async #remove(token: string): Promise<string | undefined> {
    const redis = this.opts.connection as RedisConnection;
    for (const id of await redis.lrange(this.toKey('active'), 0, MAX_ACTIVE)) {
      const key = this.toKey(id);
      if ((await redis.get(`${key}:lock`)) !== token) continue;
      await redis.multi().lrem(this.toKey('active'), 1, id).del(key, `${key}:lock`, `${key}:logs`).exec();
      return id;
    }
    return undefined;
  }

  async #pause(ms: number): Promise<void> {
    if (this.closing !== undefined) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#wake = undefined;
  }
}

/** BullMQ got the job and could not make sense of it, or one of its fields or keys has another type. */
function isUnreadable(error: unknown): error is Error {
  if (error instanceof SyntaxError || error instanceof TypeError) return true;
  return error instanceof Error && /^WRONGTYPE|^ERR hash value is not an integer/.test(error.message);
}
