/**
 * The order of a queue in which several tenants wait: start-time fair queueing, as priorities of BullMQ.
 *
 * As long as few jobs wait, they wait in BullMQ's list, as without this: no priority, no cost. Beyond that each job
 * gets a tag, and BullMQ's set of prioritised jobs is served by tags. A tenant's tags go up by a step a job, smaller for
 * a larger weight; one that has nothing waiting starts just before the tag that is served now. So a tenant with 50,000
 * waiting jobs and one with a single job are served in turns, and within a tenant the order stays.
 *
 * The tags are in Redis beside the queue. A flush takes both, and whatever dispatches the rows again tags them anew.
 * Rejected: to leave a backlog in Postgres and to keep BullMQ's lists short, because then each start of a job would
 * wait for a refill, and Bull Board would not show what waits.
 *
 * @see https://doi.org/10.1145/248157.248171 (Goyal, Vin and Cheng, Start-time Fair Queuing)
 */
import type { Queue } from 'bullmq';
import type { DispatchRow } from '../db/jobs/unfinished.ts';
import type { RedisConnection } from '../redis/pubsub.ts';

/** Jobs that may wait without tags: a tenant that comes after them waits for no more. */
const PLAIN_JOBS = 100;

/** Jobs that a process gives to a short queue before it asks again how short it is, and for how long it believes that. */
const UNASKED_JOBS = 32;
const UNASKED_MS = 250;

/** Jobs of a tenant of weight 1 that share a tag. More would make others wait longer; fewer would use up the tags sooner. */
const JOBS_PER_TAG = 4;

/** BullMQ's, which leaves room for 8 million jobs of one tenant until the queue is empty for once; later ones share the last tag. */
const MAX_TAG = 2 ** 21 - 1;

/** Jobs with a priority of their own say the order of their queue for this time, in seconds. */
const PRIORITIES_FOR_S = 86_400;
const NOTE_AGAIN_MS = 60_000;

const WEIGHTS_FRESH_MS = 5_000;

/**
 * KEYS: wait, paused, prioritized, tags, priorities. ARGV: the most that wait without tags, then tenant, count and step of
 * each. Returns whether few wait, then the first tag of each tenant; an empty text: none.
 *
 * A tag that was given within the last second may belong to a job that is on its way here.
 */
const GIVE_TAGS = `
  local given = {0}
  local tenants = (#ARGV - 1) / 3
  for i = 1, tenants do given[i + 1] = '' end
  if redis.call('EXISTS', KEYS[5]) == 1 then return given end
  local waiting = redis.call('LLEN', KEYS[1]) + redis.call('LLEN', KEYS[2])
  local head = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local start = 2
  if head[2] then
    start = math.floor(tonumber(head[2]) / 4294967296) - 1
  elseif now - tonumber(redis.call('HGET', KEYS[4], '') or '0') > 1000 then
    redis.call('DEL', KEYS[4])
    local count = waiting
    for i = 1, tenants do count = count + tonumber(ARGV[i * 3]) end
    if count <= tonumber(ARGV[1]) then
      if count <= ARGV[1] / 2 then given[1] = 1 end
      return given
    end
  end
  for i = 1, tenants do
    local tenant = 't' .. ARGV[i * 3 - 1]
    local first = math.max(tonumber(redis.call('HGET', KEYS[4], tenant) or '0'), start, 1)
    given[i + 1] = string.format('%.6f', first)
    redis.call('HSET', KEYS[4], tenant, string.format('%.6f', first + ARGV[i * 3] * ARGV[i * 3 + 1]), '', now)
  end
  return given`;

interface FairOrderOptions {
  redis: RedisConnection;
  /** Of tenants that have another than 1. */
  findWeights(): Promise<ReadonlyMap<string, number>>;
}

/** What a process knows of a queue. */
interface Known {
  /** Jobs that it may give without asking, and until when. */
  left: number;
  until: number;
  /** When it last noted that the queue has jobs with priorities. */
  notedAt: number;
}

export class FairOrder {
  readonly #options: FairOrderOptions;
  readonly #known = new WeakMap<Queue, Known>();
  #weights: ReadonlyMap<string, number> = new Map();
  #weightsAt = Number.NEGATIVE_INFINITY;

  constructor(options: FairOrderOptions) {
    this.#options = options;
  }

  /** The priorities with which BullMQ is to have rows: their own, tags, or 0. */
  async prioritiesOf(queue: Queue, rows: readonly DispatchRow[]): Promise<number[]> {
    const own = rows.map(({ options }) => options.priority);
    if (own.some((priority) => priority !== 0)) {
      await this.#noteOwnPriorities(queue);
      return own;
    }
    // BullMQ puts a job that becomes due where its priority says; a tag would be of the past by then.
    const byTenant = Map.groupBy(
      rows.keys().filter((i) => (rows[i] as DispatchRow).delayMs < 0.5),
      (i) => (rows[i] as DispatchRow).tenant,
    );
    const known = this.#knownOf(queue);
    const now = performance.now();
    if (known.left >= rows.length && now < known.until) {
      known.left -= rows.length;
      return own;
    }
    if (byTenant.size === 0) return own;
    const [few, ...firsts] = await this.#giveTags(queue, byTenant);
    known.left = few === 1 ? UNASKED_JOBS : 0;
    known.until = now + UNASKED_MS;
    let at = 0;
    for (const [tenant, places] of byTenant) {
      const first = firsts[at++] as string;
      if (first === '') continue;
      const step = this.#stepOf(tenant);
      for (const [n, place] of places.entries())
        own[place] = Math.min(MAX_TAG, Math.max(1, Math.floor(Number(first) + n * step)));
    }
    return own;
  }

  async #giveTags(queue: Queue, byTenant: ReadonlyMap<string, readonly number[]>): Promise<(number | string)[]> {
    await this.#readWeights();
    const keys = ['wait', 'paused', 'prioritized', 'oncefleet-tags', 'oncefleet-priorities'].map((key) =>
      queue.toKey(key),
    );
    const given = [...byTenant].flatMap(([tenant, places]) => [tenant, places.length, this.#stepOf(tenant)]);
    return (await this.#options.redis.eval(GIVE_TAGS, keys.length, ...keys, PLAIN_JOBS, ...given)) as (
      | number
      | string
    )[];
  }

  #stepOf(tenant: string): number {
    return 1 / (JOBS_PER_TAG * (this.#weights.get(tenant) ?? 1));
  }

  /** Weights of some seconds ago do: nothing waits for Postgres here but the first dispatch. */
  async #readWeights(): Promise<void> {
    const now = performance.now();
    const first = this.#weightsAt === Number.NEGATIVE_INFINITY;
    if (now - this.#weightsAt < WEIGHTS_FRESH_MS) return;
    this.#weightsAt = now;
    const read = this.#options.findWeights().then(
      (weights) => {
        this.#weights = weights;
      },
      () => undefined,
    );
    if (first) await read;
  }

  async #noteOwnPriorities(queue: Queue): Promise<void> {
    const known = this.#knownOf(queue);
    const now = performance.now();
    if (now - known.notedAt < NOTE_AGAIN_MS) return;
    await this.#options.redis.set(queue.toKey('oncefleet-priorities'), '1', 'EX', PRIORITIES_FOR_S);
    known.notedAt = now;
  }

  #knownOf(queue: Queue): Known {
    let known = this.#known.get(queue);
    if (known === undefined) {
      known = { left: 0, until: 0, notedAt: Number.NEGATIVE_INFINITY };
      this.#known.set(queue, known);
    }
    return known;
  }
}
