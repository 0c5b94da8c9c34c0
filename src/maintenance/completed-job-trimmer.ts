/**
 * Keeps BullMQ's list of completed jobs short: it serves Bull Board alone, the truth is in Postgres.
 *
 * BullMQ's own `removeOnComplete` removes a job at every completion, with the six keys it may
 * have; in batches a script call in a thousand does it, and one that knows our jobs have two.
 */
import type { Worker } from 'bullmq';
import type { Logger } from '../log.ts';
import type { RedisConnection } from '../redis/pubsub.ts';

/** Completed jobs that stay visible, and for how long. */
const KEEP = 5_000;
const KEEP_MS = 24 * 3600 * 1000;

/** Completions between two trims: a list is at most this much too long, for each process. */
const TRIM_EVERY = 1_000;

/** How often an idle queue is trimmed of jobs past their time. */
const IDLE_TRIM_MS = 60_000;

/** Removed at once; Redis does nothing else meanwhile (measured: 2 µs a job of ours, 3 to 4 of others). */
const BATCH = 1_000;

/**
 * KEYS: the set of completed jobs. ARGV: the queue's key prefix, how many to keep, the oldest
 * time to keep (ms), how many to remove at most. Returns how many were removed.
 *
 * A job is its hash, its log, and what a flow hangs onto it; no flow hangs onto a job of
 * ours. Checking four keys that do not exist takes as long as removing the two.
 */
const TRIM = `
local excess = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[2])
local old = redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. ARGV[3])
local count = math.min(math.max(excess, old), tonumber(ARGV[4]))
if count <= 0 then return 0 end
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, count - 1)) do
  local key = ARGV[1] .. id
  local data = redis.call('HGET', key, 'data')
  if data and string.sub(data, 1, 13) == '{"oncefleet":' then
    redis.call('UNLINK', key, key .. ':logs')
  else
    redis.call('UNLINK', key, key .. ':logs', key .. ':dependencies', key .. ':processed', key .. ':failed', key .. ':unsuccessful')
  end
end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, count - 1)
return count`;

export class FinishedJobs {
  readonly #redis: RedisConnection;
  readonly #log: Logger;
  readonly #workers: readonly Worker[];
  readonly #timer: NodeJS.Timeout;
  readonly #trimming = new Set<Worker>();

  constructor(options: { redis: RedisConnection; workers: readonly Worker[]; log: Logger }) {
    this.#redis = options.redis;
    this.#workers = options.workers;
    this.#log = options.log;
    for (const worker of options.workers) {
      let completions = 0;
      worker.on('completed', () => {
        completions = (completions + 1) % TRIM_EVERY;
        if (completions === 0) void this.#trim(worker);
      });
    }
    this.#timer = setInterval(() => this.trim(), IDLE_TRIM_MS);
    this.#timer.unref();
  }

  /** Removes what is past its number or time, of every queue. */
  async trim(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => this.#trim(worker)));
  }

  close(): void {
    clearInterval(this.#timer);
  }

  async #trim(worker: Worker): Promise<void> {
    if (this.#trimming.has(worker)) return;
    this.#trimming.add(worker);
    try {
      for (let removed = BATCH; removed === BATCH && this.#redis.status === 'ready'; ) {
        const args = [worker.toKey(''), KEEP, Date.now() - KEEP_MS, BATCH];
        removed = (await this.#redis.eval(TRIM, 1, worker.toKey('completed'), ...args)) as number;
      }
    } catch (err) {
      this.#log.debug({ err, queue: worker.name }, 'completed jobs not removed from BullMQ; the next trim will');
    } finally {
      this.#trimming.delete(worker);
    }
  }
}
