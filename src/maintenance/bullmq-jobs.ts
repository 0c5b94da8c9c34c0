/**
 * Which jobs BullMQ has, and where: the doctor and the reconciler read its keys through this module alone.
 *
 * A job is in at most one list or sorted set, and these are read one after the other. So a job that
 * moves meanwhile may be found in none; a caller that would act on that asks `isNowhere` first, for
 * which BullMQ looks in all places at once.
 */
import type { Queue } from 'bullmq';
import type { DispatchRow } from '../db/jobs/unfinished.ts';
import { bullIdOf, isAnother, type MissingRow } from '../enqueue/dispatcher.ts';
import { isOwnData } from '../enqueue/job-data.ts';
import { isSharded, type RedisConnection } from '../redis/pubsub.ts';
import type { Runtime } from '../runtime/runtime.ts';

/** Keys or ids in one answer of Redis. */
const PAGE = 1_000;

/** Entries of a list in one answer: 400 kB of ids. */
const LIST_PAGE = 10_000;

/** A queue whose lists have more entries is not searched by the reconciler for a job that is in none. */
const MAX_LISTED = LIST_PAGE;

/** BullMQ's score of a delayed job is its time with room for 4,096 jobs a millisecond. @see addDelayedJob-6.lua */
const SCORE_PER_MS = 0x1000;

/** In this order: jobs go from waiting to active, so none is missed. */
const LISTS = [
  ['wait', 'waiting'],
  ['paused', 'waiting'],
  ['active', 'active'],
] as const;

/** The sorted sets that have jobs, by the state of a job in them. */
const SETS = ['delayed', 'prioritized', 'completed', 'failed', 'waiting-children'] as const;

type InSet = (typeof SETS)[number];

/** Where BullMQ has a job. */
type BullState =
  | InSet
  | 'absent'
  /** Its hash is there, and no list or set has it. */
  | 'lost'
  | 'waiting'
  | 'active'
  /** In the list of active jobs, with no worker's lock on it. */
  | 'deserted';

export interface BullJob {
  state: BullState;
  /** Of a delayed one: until it is due. */
  delayMs: number;
  /** It carries the fleet's mark and has the id of a row, so this fleet added it. */
  own: boolean;
  /** When its client added it, in milliseconds since 1970; 0 where its hash is gone. */
  timestamp: number;
}

/** The jobs in a queue's lists, by id. Redis has no look-up by id for lists, so they are read as a whole. */
export type ListedJobs = ReadonlyMap<string, 'waiting' | 'active'>;

/** What sorted sets and hashes have under an id. */
interface StoredJob {
  set: { name: InSet; score: number } | undefined;
  /** Undefined: its hash is gone. */
  timestamp: number | undefined;
  /** A worker has had it. */
  started: boolean;
  /** JSON text; null unless it was asked for. */
  data: string | null;
  /** A worker has its lock; false unless it was asked for. */
  locked: boolean;
}

/** @param onPage gets how many were read; may throw to stop the reading */
export async function readLists(
  redis: RedisConnection,
  queue: Queue,
  onPage: (count: number) => void = () => undefined,
): Promise<ListedJobs> {
  const listed = new Map<string, 'waiting' | 'active'>();
  for (const [list, state] of LISTS) {
    const length = await redis.llen(queue.toKey(list));
    for (let at = 0; at < length; at += LIST_PAGE) {
      for (const id of await redis.lrange(queue.toKey(list), at, at + LIST_PAGE - 1)) listed.set(id, state);
      onPage(listed.size);
    }
  }
  return listed;
}

/** Ids of all jobs of a queue, in pages; flows' waiting parents excepted. */
export async function* listBullIds(
  redis: RedisConnection,
  queue: Queue,
  listed: ListedJobs,
): AsyncGenerator<readonly string[]> {
  const waiting = [...listed.keys()];
  for (let i = 0; i < waiting.length; i += PAGE) yield waiting.slice(i, i + PAGE);
  for (const set of ['prioritized', 'delayed', 'failed', 'completed']) {
    for (let at = 0; ; at += PAGE) {
      const ids = await redis.zrange(queue.toKey(set), String(at), String(at + PAGE - 1));
      if (ids.length > 0) yield ids;
      if (ids.length < PAGE) break;
    }
  }
}

/** @param listed what `readLists` found a moment ago */
export async function findBullJobs(
  redis: RedisConnection,
  queue: Queue,
  ids: readonly string[],
  listed: ListedJobs,
): Promise<BullJob[]> {
  const stored = await readStored(redis, queue, ids, { data: true, locks: (id) => listed.get(id) === 'active' });
  return stored.map(({ set, timestamp, data, locked }, i) => {
    const id = ids[i] as string;
    const stateOf = (): BullState => {
      if (set !== undefined) return set.name;
      const list = listed.get(id);
      if (list === 'active') return locked ? 'active' : 'deserted';
      return list ?? (timestamp === undefined ? 'absent' : 'lost');
    };
    return {
      state: stateOf(),
      delayMs: set?.name === 'delayed' ? set.score / SCORE_PER_MS - Date.now() : 0,
      own: isOwnData(id, data),
      timestamp: timestamp ?? 0,
    };
  });
}

/** A worker that leaves a job to others, or that Postgres does not answer, has BullMQ keep it for up to 30 s. */
const KEPT_MS = 60_000;

/** A job that became due this long ago BullMQ should have given to a worker. */
const OVERDUE_MS = 1_000;

/**
 * Rows that wait to run, and that BullMQ does not run. None while Redis is unreachable, which gets them later.
 *
 * @returns `missing`: it does not have them, has them as finished, or has their hash and no place in any list or
 *   set (a list was evicted or lost); `late`: it keeps them for later although they are due by Postgres's clock, because the
 *   clock of whoever gave them to it is ahead, or those of its workers are behind
 */
export async function findUndelivered(
  { redis, dispatcher }: Runtime,
  rows: readonly DispatchRow[],
): Promise<{ missing: MissingRow[]; late: DispatchRow[] }> {
  const missing: MissingRow[] = [];
  const late: DispatchRow[] = [];
  if (rows.length === 0 || redis.status !== 'ready') return { missing, late };
  for (const [queue, group] of Map.groupBy(rows, (row) => dispatcher.queueOf(row))) {
    const stored = await readStored(redis, queue, group.map(bullIdOf));
    const unplaced: DispatchRow[] = [];
    for (const [i, row] of group.entries()) {
      const { set, timestamp, started } = stored[i] as StoredJob;
      if (timestamp === undefined || isAnother(row, timestamp)) missing.push({ ...row, absent: true });
      else if (set?.name === 'completed' || set?.name === 'failed') missing.push(row);
      else if (set === undefined) unplaced.push(row);
      // Of another client's job BullMQ says when it is due.
      else if (set.name === 'delayed' && row.source === undefined && row.delayMs < -OVERDUE_MS) {
        const keptMs = set.score / SCORE_PER_MS - Date.now();
        if (!started || Math.abs(keptMs) > KEPT_MS) late.push(row);
      }
    }
    if (unplaced.length > 0) missing.push(...(await findLost(redis, queue, unplaced)));
  }
  return { missing, late };
}

/** Of rows that no sorted set has, those that no list has either. */
async function findLost(redis: RedisConnection, queue: Queue, rows: readonly DispatchRow[]): Promise<DispatchRow[]> {
  // A longer queue is the doctor's matter; once it has become shorter, it is searched here.
  if ((await countListed(redis, queue)) > MAX_LISTED) return [];
  const listed = await readLists(redis, queue);
  const lost: DispatchRow[] = [];
  for (const row of rows) {
    const id = bullIdOf(row);
    if (!listed.has(id) && (await isNowhere(queue, id))) lost.push(row);
  }
  return lost;
}

async function countListed(redis: RedisConnection, queue: Queue): Promise<number> {
  const lengths = await Promise.all(LISTS.map(([list]) => redis.llen(queue.toKey(list))));
  return lengths.reduce((sum, length) => sum + length, 0);
}

/** Ids of jobs that wait for a time later than `afterMs` from now: a page. */
export async function findDelayed(
  redis: RedisConnection,
  queue: Queue,
  options: { afterMs: number; offset: number; limit: number },
): Promise<string[]> {
  if (redis.status !== 'ready') return [];
  const { afterMs, offset, limit } = options;
  const from = (Date.now() + afterMs) * SCORE_PER_MS;
  return redis.zrange(queue.toKey('delayed'), from, '+inf', 'BYSCORE', 'LIMIT', offset, limit);
}

/** Of jobs without a row, or whose row has ended, those that this fleet added: others get their row when they run. */
export async function keepOwn(redis: RedisConnection, queue: Queue, ids: readonly string[]): Promise<string[]> {
  const stored = await readStored(redis, queue, ids, { data: true });
  return ids.filter((id, i) => isOwnData(id, stored[i]?.data));
}

/** Whether BullMQ finds a job in no list or set, though its hash may be there. */
export async function isNowhere(queue: Queue, id: string): Promise<boolean> {
  return (await queue.getJobState(id)) === 'unknown';
}

/** Names of all queues under the fleet's prefix, also of those that nobody registers any more. */
export async function* findQueueNames(runtime: Runtime): AsyncGenerator<string> {
  const { redis, settings } = runtime;
  const pattern = `${runtime.queuePrefix('*')}:*:meta`;
  // A cursor is valid on the node that gave it.
  for (const node of isSharded(redis) ? redis.nodes('master') : [redis]) {
    let cursor = '0';
    do {
      const [next, keys] = await node.scan(cursor, 'MATCH', pattern, 'COUNT', PAGE);
      for (const key of keys) {
        // On a Cluster the name is there twice: `{prefix:name}:name:meta`.
        const start = `${settings.prefix}:`.length + (settings.redisCluster ? 1 : 0);
        const rest = key.slice(start, -':meta'.length);
        yield settings.redisCluster ? rest.slice(0, (rest.length - '}:'.length) / 2) : rest;
      }
      cursor = next;
    } while (cursor !== '0');
  }
}

/** @param options.locks of which jobs the lock is read */
async function readStored(
  redis: RedisConnection,
  queue: Queue,
  ids: readonly string[],
  options: { data?: boolean; locks?: (id: string) => boolean } = {},
): Promise<StoredJob[]> {
  if (ids.length === 0) return [];
  const { data = false, locks = () => false } = options;
  const locking = ids.filter(locks);
  const pipeline = redis.pipeline();
  for (const id of ids) pipeline.hmget(queue.toKey(id), 'timestamp', 'ats', ...(data ? ['data'] : []));
  for (const id of locking) pipeline.exists(`${queue.toKey(id)}:lock`);
  for (const set of SETS) pipeline.zmscore(queue.toKey(set), [...ids]);
  const values = valuesOf(await pipeline.exec());
  const hashes = values.splice(0, ids.length) as (string | null)[][];
  const held = values.splice(0, locking.length);
  const locked = new Set(locking.filter((_, i) => held[i] === 1));
  const scores = values as (string | null)[][];
  return ids.map((id, i) => {
    const [timestamp = null, starts = null, json = null] = hashes[i] ?? [];
    const name = SETS.find((_, set) => scores[set]?.[i] != null);
    return {
      set: name === undefined ? undefined : { name, score: Number(scores[SETS.indexOf(name)]?.[i]) },
      timestamp: timestamp === null ? undefined : Number(timestamp),
      started: starts !== null,
      data: json,
      locked: locked.has(id),
    };
  });
}

/** What a pipeline answered. @throws the first error of it */
function valuesOf(answers: [error: Error | null, result: unknown][] | null): unknown[] {
  return (answers ?? []).map(([error, value]) => {
    if (error) throw error;
    return value;
  });
}
