import { Queue } from 'bullmq';
import { Redis } from 'ioredis';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import type { DispatchRow } from '../../src/db/jobs/unfinished.ts';
import { FairOrder } from '../../src/enqueue/fair-order.ts';
import { uuidV7 } from '../../src/util/uuid.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const redis = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
afterAll(() => redis.disconnect());

const row = (tenant: string, { delayMs = 0, priority = 0 } = {}): DispatchRow => ({
  id: uuidV7(),
  tenant,
  name: 'job',
  queue: 'job',
  key: null,
  options: { priority, attempts: 1, backoff: { type: 'fixed', delayMs: 0 } },
  delayMs,
});

let queue: Queue;
let weights: Map<string, number>;
let order: FairOrder;
beforeEach(() => {
  queue = new Queue('fair', { connection: redis, prefix: uniquePrefix() });
  weights = new Map();
  order = newOrder();
});

/** As another process has it. */
function newOrder(): FairOrder {
  return new FairOrder({ redis, findWeights: async () => weights });
}

/** Adds jobs as the dispatcher does, in one batch. */
async function add(rows: readonly DispatchRow[], by = order): Promise<number[]> {
  const priorities = await by.prioritiesOf(queue, rows);
  await queue.addBulk(
    rows.map(({ tenant, delayMs, id }, i) => ({
      name: tenant,
      data: {},
      opts: {
        jobId: id,
        ...(delayMs > 0 ? { delay: delayMs } : {}),
        ...(priorities[i] === 0 ? {} : { priority: priorities[i] as number }),
      },
    })),
  );
  return priorities;
}

const many = (tenant: string, count: number) => Array.from({ length: count }, () => row(tenant));

/** The next jobs in the order in which BullMQ starts them. */
async function next(count: number): Promise<{ tenant: string; id: string }[]> {
  const listed = (await redis.lrange(queue.toKey('wait'), 0, -1)).reverse();
  const set = await redis.zrange(queue.toKey('prioritized'), '0', '-1');
  const ids = [...listed, ...set].slice(0, count);
  const tenants = await Promise.all(ids.map((id) => redis.hget(queue.toKey(id), 'name')));
  return ids.map((id, i) => ({ id, tenant: tenants[i] as string }));
}

/** Takes jobs as a worker does. */
async function take(count: number): Promise<string[]> {
  const taken = await next(count);
  for (const { id } of taken) {
    await redis.lrem(queue.toKey('wait'), '1', id);
    await redis.zrem(queue.toKey('prioritized'), id);
  }
  return taken.map(({ tenant }) => tenant);
}

describe('the order of tenants in a queue', () => {
  it('as long as few jobs wait is the order of enqueues, without priorities', async () => {
    expect(new Set(await add([...many('a', 40), ...many('b', 40)]))).toEqual(new Set([0]));
    expect(new Set(await add(many('a', 10)))).toEqual(new Set([0]));
  });

  it('starts a job of a tenant that has nothing waiting next, however many another has', async () => {
    await add(many('a', 5_000));
    await take(300);
    await add(many('a', 100));
    await add([row('b')]);
    expect((await next(1))[0]?.tenant).toBe('b');
    await add([row('b'), row('c')], newOrder());
    expect((await take(3)).sort()).toEqual(['b', 'b', 'c']);
  });

  it('serves tenants in turns by weight', async () => {
    weights.set('b', 3);
    await add(many('a', 1_000));
    await add(many('b', 1_000));
    await take(40);
    const taken = await take(400);
    const ofB = taken.filter((tenant) => tenant === 'b').length;
    expect(ofB).toBeGreaterThan(280);
    expect(ofB).toBeLessThan(320);
  });

  it('stays that of enqueues within a tenant', async () => {
    const rows = many('a', 700);
    const others = many('b', 300);
    await add(rows.slice(0, 50));
    await add(rows.slice(50, 400));
    await add(others);
    const first = await next(200);
    await take(200);
    await add(rows.slice(400), newOrder());
    const rest = await next(1_000);
    const ids = [...first, ...rest].filter(({ tenant }) => tenant === 'a').map(({ id }) => id);
    expect(ids).toEqual(rows.map(({ id }) => id));
  });

  it('a tenant that never has nothing waiting, or a hundred small ones, cannot keep a large one from its turn', async () => {
    await add(many('large', 2_000));
    let taken: string[] = [];
    for (let round = 0; round < 40; round++) {
      await add(Array.from({ length: 20 }, (_, i) => row(`small-${i}`)));
      taken = taken.concat(await take(20));
    }
    const turns = taken.filter((tenant) => tenant === 'large').length;
    expect(turns).toBeGreaterThan(20);
  });

  it('is that of enqueues again when the queue was empty', async () => {
    await add(many('a', 500));
    await take(500);
    await redis.hset(queue.toKey('oncefleet-tags'), '', 0);
    expect(await add([row('a')], newOrder())).toEqual([0]);
    expect(await redis.exists(queue.toKey('oncefleet-tags'))).toBe(0);
  });

  it('while tagged jobs may be on their way is that of their tags', async () => {
    await order.prioritiesOf(queue, many('a', 500));
    const [later] = await newOrder().prioritiesOf(queue, [row('a')]);
    expect(later).toBeGreaterThanOrEqual(125);
  });

  it('is made anew after a flush', async () => {
    await add(many('a', 500));
    await redis.del(...(await redis.keys(`${queue.toKey('')}*`)));
    await add(many('a', 500), newOrder());
    await add([row('b')], newOrder());
    expect((await next(1))[0]?.tenant).toBe('b');
  });

  it('is left to priorities where jobs have some', async () => {
    expect(await add([row('a', { priority: 7 })])).toEqual([7]);
    expect(new Set(await add(many('b', 500), newOrder()))).toEqual(new Set([0]));
  });

  it('leaves out what is not due', async () => {
    await add(many('a', 500));
    expect(await add([row('b', { delayMs: 60_000 })])).toEqual([0]);
  });

  it('asks Redis once for many small batches', async () => {
    let asked = 0;
    const counting = new Proxy(redis, {
      get: (target, name) =>
        name === 'eval'
          ? (...args: Parameters<Redis['eval']>) => {
              asked++;
              return target.eval(...args);
            }
          : Reflect.get(target, name),
    });
    const own = new FairOrder({ redis: counting, findWeights: async () => weights });
    for (let i = 0; i < 33; i++) await own.prioritiesOf(queue, [row('a')]);
    expect(asked).toBe(1);
  });
});
