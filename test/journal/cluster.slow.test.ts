/** On a Redis Cluster: BullMQ's keys in one slot a queue, the live bus by sharded pub/sub. */
import { Redis } from 'ioredis';
import pino from 'pino';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { createFleet, defineJob, type FleetOptions, type StreamEvent } from '../../src/index.ts';
import { journalOf, useDatabase } from '../helpers/fixtures.ts';
import { startTestRedisCluster, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();
let cluster: Awaited<ReturnType<typeof startTestRedisCluster>>;
beforeAll(async () => {
  cluster = await startTestRedisCluster();
}, 60_000);
afterAll(() => cluster?.stop());

/** Holds its run until it is told to go on. */
function heldJob(name: string) {
  const started = Promise.withResolvers<void>();
  const go = Promise.withResolvers<void>();
  const job = defineJob({
    name,
    input: z.object({}),
    async run(_input, ctx) {
      await ctx.emit({ type: 'first' });
      await ctx.flush();
      started.resolve();
      await Promise.race([
        go.promise,
        new Promise((_, reject) => ctx.signal.addEventListener('abort', () => reject(ctx.signal.reason))),
      ]);
      await ctx.emit({ type: 'second' });
      return name;
    },
  });
  return { job, started: started.promise, go: go.resolve };
}

function clusterFleet(jobs: FleetOptions['jobs'], prefix = uniquePrefix(), overrides: Partial<FleetOptions> = {}) {
  const fleet = createFleet({
    databaseUrl: file.url,
    redisUrl: cluster.url,
    redisCluster: true,
    prefix,
    jobs,
    databasePoolSize: 5,
    leaseTtlMs: 5_000,
    heartbeatMs: 500,
    reconcileMs: 300,
    shutdownMs: 100,
    ...overrides,
  });
  onTestFinished(() => fleet.close());
  return fleet;
}

/** What a node says, asked on a connection of its own. */
async function ask(node: number, ...command: [string, ...string[]]): Promise<unknown> {
  const redis = new Redis(cluster.nodes[node]?.url as string);
  try {
    return await redis.call(...command);
  } finally {
    redis.disconnect();
  }
}

const everyNode = [0, 1, 2];

describe('a fleet that was not told of the Cluster', () => {
  it('has no worker that starts, and is told which setting to change', async () => {
    const { job } = heldJob('untold');
    const fleet = clusterFleet([job], uniquePrefix(), { redisCluster: false });
    await expect(fleet.work()).rejects.toMatchObject({
      code: 'REDIS_UNUSABLE',
      message: expect.stringMatching(/node of a Cluster: set `redisCluster` \(REDIS_CLUSTER=1\)/),
    });
  });

  it('accepts jobs, and its log names the setting', async () => {
    const lines: string[] = [];
    const log = pino({ level: 'info' }, { write: (line: string) => lines.push(line) });
    const { job } = heldJob('untold');
    const fleet = clusterFleet([job], uniquePrefix(), { redisCluster: false, log });
    // Some of their keys are of slots that the node has.
    for (let n = 0; n < 20; n++) expect((await fleet.enqueue(job, {})).outcome).toBe('created');
    await expect.poll(() => lines.join('')).toContain('set `redisCluster` (REDIS_CLUSTER=1)');
  });
});

describe('on a Redis Cluster', () => {
  it('jobs of several queues run, each queue in a slot of its own', async () => {
    const jobs = ['alpha', 'beta', 'gamma', 'delta'].map((name) =>
      defineJob({
        name,
        input: z.object({ n: z.number() }),
        run: async ({ n }, ctx) => {
          await ctx.emit({ type: 'n', n });
          return { name, n };
        },
      }),
    );
    const prefix = uniquePrefix();
    const fleet = clusterFleet(jobs, prefix);
    await fleet.work();
    const handles = await Promise.all(
      jobs.flatMap((job) =>
        Array.from({ length: 5 }, (_, n) => fleet.enqueue(job, { n }, { key: `${job.name}-${n}` })),
      ),
    );
    const results = await Promise.all(handles.map((handle) => handle.result({ timeoutMs: 60_000 })));
    expect(results).toEqual(jobs.flatMap(({ name }) => Array.from({ length: 5 }, (_, n) => ({ name, n }))));
    const keys = (await Promise.all(everyNode.map((node) => ask(node, 'KEYS', `{${prefix}:*`)))) as string[][];
    expect(keys.filter((found) => found.length > 0).length).toBeGreaterThan(1);
    const again = await fleet.enqueue('alpha', { n: 0 }, { key: 'alpha-0' });
    expect(again.outcome).toBe('replayed');
  });

  it('followers hear of events by sharded pub/sub, on the node that has the slot', async () => {
    const { job, started, go } = heldJob('sharded');
    const prefix = uniquePrefix();
    const fleet = clusterFleet([job], prefix);
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    await started;
    const seen: StreamEvent[] = [];
    const following = (async () => {
      for await (const event of handle.events()) seen.push(event);
    })();
    await expect.poll(() => seen.length).toBe(1);
    const channel = `${prefix}:stream:${handle.id}`;
    const shards = await Promise.all(everyNode.map((node) => ask(node, 'PUBSUB', 'SHARDCHANNELS', channel)));
    expect(shards.filter((found) => (found as string[]).length > 0)).toEqual([[channel]]);
    const broadcast = await Promise.all(everyNode.map((node) => ask(node, 'PUBSUB', 'CHANNELS', channel)));
    expect(broadcast).toEqual([[], [], []]);
    const told = performance.now();
    go();
    await following;
    // Its next look at the head is seconds away.
    expect(performance.now() - told).toBeLessThan(3_000);
    expect(seen.map(({ json }) => json)).toEqual(
      (await journalOf(file.db, handle.id)).map(({ event }) => JSON.stringify(event)),
    );
    const left = () => Promise.all(everyNode.map((node) => ask(node, 'PUBSUB', 'SHARDCHANNELS', channel)));
    await expect.poll(left).toEqual([[], [], []]);
  });

  it('a cancel reaches the worker that runs the job', async () => {
    const { job, started } = heldJob('cancelled');
    const prefix = uniquePrefix();
    // The next heartbeat, which would tell it too, is minutes away.
    const fleet = clusterFleet([job], prefix, { leaseTtlMs: 900_000, heartbeatMs: 300_000 });
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    await started;
    const channels = () =>
      Promise.all(everyNode.map((node) => ask(node, 'PUBSUB', 'SHARDCHANNELS', `${prefix}:control`)));
    await expect.poll(async () => (await channels()).flat()).toEqual([`${prefix}:control`]);
    await handle.cancel();
    await expect(handle.result({ timeoutMs: 60_000 })).rejects.toMatchObject({ code: 'CANCELLED' });
  });

  it('the doctor finds a queue that nobody registers any more, on whichever node it is', async () => {
    const prefix = uniquePrefix();
    const names = Array.from({ length: 8 }, (_, i) => `left-${i}`);
    const leftJobs = names.map((name) => defineJob({ name, input: z.object({}), run: async () => name }));
    const before = clusterFleet(leftJobs, prefix);
    const ids: string[] = [];
    for (const job of leftJobs) ids.push((await before.enqueue(job, {})).id);
    await file.db.deleteFrom('jobs').where('id', 'in', ids).execute();
    const keys = (await Promise.all(
      everyNode.map((node) => ask(node, 'KEYS', `{${prefix}:left-*:meta`)),
    )) as string[][];
    expect(keys.filter((found) => found.length > 0).length).toBeGreaterThan(1);
    const { findings } = await clusterFleet([], prefix).doctor({ lookAgainMs: 50 });
    const without = findings.find(({ kind }) => kind === 'without-row');
    expect(without?.jobs.map(({ queue }) => queue).sort()).toEqual(names);
  });

  it.each([
    ['a node', 1],
    ['every node', 3],
  ])('%s that is killed and comes back loses no job and no event', { timeout: 240_000 }, async (_name, count) => {
    const warned: Error[] = [];
    const onWarning = (warning: Error) => warned.push(warning);
    process.on('warning', onWarning);
    onTestFinished(() => void process.off('warning', onWarning));
    const { job, started, go } = heldJob('survivor');
    const fleet = clusterFleet([job]);
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    await started;
    const seen: StreamEvent[] = [];
    const following = (async () => {
      for await (const event of handle.events()) seen.push(event);
    })();
    await expect.poll(() => seen.length).toBe(1);
    const killed = cluster.nodes.slice(-count);
    for (const node of killed) await node.stop('SIGKILL');
    const during = await fleet.enqueue(job, {});
    go();
    await expect.poll(() => seen.length, { timeout: 20_000 }).toBe(3);
    await following;
    for (const node of killed) await node.start();
    expect(await handle.result({ timeoutMs: 100_000 })).toBe('survivor');
    expect(await during.result({ timeoutMs: 100_000 })).toBe('survivor');
    const after = await fleet.enqueue(job, {});
    const events: string[] = [];
    for await (const { event } of after.events()) events.push(event.type);
    expect(events).toEqual(['first', 'second', 'end']);
    // Listeners that pile up while no node is there (MaxListenersExceededWarning).
    expect(warned).toEqual([]);
  });
});
