/** What Redis refuses, on servers of the test's own. */
import { rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { Redis } from 'ioredis';
import { pino } from 'pino';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { z } from 'zod';
import { FaultProxy } from '../../chaos/proxy.ts';
import { defineJob, type Fleet } from '../../src/index.ts';
import { connectRedis } from '../../src/redis/connections.ts';
import { refusalOf } from '../../src/redis/refusals.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { type PrivateRedis, startTestRedis } from '../helpers/services.ts';

const file = useDatabase();

const echo = defineJob({ name: 'echo', input: z.number(), run: async (n) => n });

const result = async (fleet: Fleet, n: number) => (await fleet.enqueue(echo, n)).result({ timeoutMs: 25_000 });

async function ownRedis(): Promise<{ redis: PrivateRedis; admin: Redis }> {
  const { redis, stop } = await startTestRedis();
  const admin = new Redis(redis.url, { maxRetriesPerRequest: null });
  onTestFinished(async () => {
    admin.disconnect();
    await stop();
  });
  return { redis, admin };
}

/** A log, and its lines whose message begins so. */
function linesOf() {
  const all: { msg: string; refusal?: string }[] = [];
  const log = pino({ level: 'info' }, { write: (line: string) => void all.push(JSON.parse(line)) });
  return { log, lines: (start: string) => all.filter(({ msg }) => msg.startsWith(start)) };
}

describe('a primary that is demoted while connections are open', () => {
  it('and promoted again: jobs accepted meanwhile run, and the log has a line for each change', async () => {
    const { redis, admin } = await ownRedis();
    const { log, lines } = linesOf();
    const fleet = createTestFleet(file.url, [echo], { redisUrl: redis.url, log });
    await fleet.work();
    expect(await result(fleet, 1)).toBe(1);
    await admin.replicaof('127.0.0.1', 1);
    const handle = await fleet.enqueue(echo, 2);
    await expect.poll(() => lines('Redis refuses commands')).toHaveLength(1);
    await admin.replicaof('NO', 'ONE');
    expect(await handle.result({ timeoutMs: 25_000 })).toBe(2);
    await expect.poll(() => lines('Redis takes commands again')).toHaveLength(1);
    expect(lines('Redis refuses commands')).toHaveLength(1);
  });

  it('for another behind the same address: workers, clients and followers go there', async () => {
    const [old, next] = [await ownRedis(), await ownRedis()];
    await next.admin.config('SET', 'requirepass', new URL(old.redis.url).password);
    const target = new URL(old.redis.url);
    const proxy = await FaultProxy.start({ host: '127.0.0.1', port: Number(target.port) });
    onTestFinished(() => proxy.close());
    const gate = Promise.withResolvers<void>();
    const talk = defineJob({
      name: 'talk',
      input: z.null(),
      async run(_input, ctx) {
        await gate.promise;
        await ctx.emit({ type: 'said' });
      },
    });
    target.host = `127.0.0.1:${proxy.port}`;
    const fleet = createTestFleet(file.url, [echo, talk], { redisUrl: target.href });
    await fleet.work();
    const talking = await fleet.enqueue(talk, null);
    const events = Array.fromAsync(talking.events(), ({ event }) => event.type);
    // New connections lead to the other one; those that are open stay where they are.
    proxy.leadTo({ host: '127.0.0.1', port: Number(new URL(next.redis.url).port) });
    await old.admin.replicaof('127.0.0.1', new URL(next.redis.url).port);
    expect(await result(fleet, 3)).toBe(3);
    const ours = async () => ((await next.admin.client('LIST')) as string).match(/name=oncefleet-\w+/g)?.toSorted();
    await expect.poll(ours).toEqual(['name=oncefleet-publish', 'name=oncefleet-queue', 'name=oncefleet-subscribe']);
    gate.resolve();
    expect(await events).toEqual(['said', 'end']);
  });
});

describe('what Redis refuses for a while', () => {
  /** Imposed on a server and lifted again; what the log says it is. */
  const faults: readonly {
    kind: string;
    impose(admin: Redis, redis: PrivateRedis): Promise<unknown>;
    lift(admin: Redis): Promise<unknown>;
  }[] = [
    {
      kind: 'MISCONF',
      async impose(admin, redis) {
        await rm(dirname(redis.logFile), { recursive: true });
        await admin.config('SET', 'save', '900 1');
        await admin.bgsave();
        await expect.poll(() => admin.info('persistence')).toContain('rdb_last_bgsave_status:err');
      },
      // It would not stop either while it cannot save.
      lift: (admin) => admin.config('SET', 'save', ''),
    },
    {
      kind: 'OOM',
      impose: (admin) => admin.config('SET', 'maxmemory', '1'),
      lift: (admin) => admin.config('SET', 'maxmemory', '0'),
    },
    {
      kind: 'READONLY',
      impose: (admin) => admin.replicaof('127.0.0.1', 1),
      lift: (admin) => admin.replicaof('NO', 'ONE'),
    },
    {
      kind: 'NOREPLICAS',
      impose: (admin) => admin.config('SET', 'min-replicas-to-write', '1'),
      lift: (admin) => admin.config('SET', 'min-replicas-to-write', '0'),
    },
    {
      kind: 'BUSY',
      async impose(admin) {
        await admin.config('SET', 'busy-reply-threshold', '1');
        admin
          .duplicate({ maxRetriesPerRequest: 0, retryStrategy: () => null })
          .eval('while true do end', 0)
          .catch(() => undefined);
        await expect.poll(() => admin.ping().catch((err: Error) => err.message)).toContain('BUSY');
      },
      lift: (admin) => admin.script('KILL'),
    },
    {
      kind: 'DENIED',
      impose: (admin) => admin.call('ACL', 'SETUSER', 'default', '-xadd', '-bzpopmin'),
      lift: (admin) => admin.call('ACL', 'SETUSER', 'default', '+@all'),
    },
  ];

  it.each(faults)(
    '$kind: jobs are accepted, running ones finish, readers read; one line, no flood, nothing lost',
    async (fault) => {
      const { redis, admin } = await ownRedis();
      const { log, lines } = linesOf();
      const gate = Promise.withResolvers<void>();
      const running = Promise.withResolvers<void>();
      const talk = defineJob({
        name: 'talk',
        input: z.null(),
        async run(_input, ctx) {
          running.resolve();
          await gate.promise;
          await ctx.emit({ type: 'said' });
        },
      });
      const fleet = createTestFleet(file.url, [echo, talk], { redisUrl: redis.url, log });
      await fleet.work();
      const talking = await fleet.enqueue(talk, null);
      const events = Array.fromAsync(talking.events(), ({ event }) => event.type);
      await running.promise;
      await fault.impose(admin, redis);
      const waiting = await fleet.enqueue(echo, 7, { key: `during ${fault.kind}` });
      expect(waiting.outcome).toBe('created');
      const refusals = () => lines('Redis refuses').filter(({ refusal }) => refusal === fault.kind);
      await expect.poll(() => refusals().length).toBeGreaterThan(0);
      gate.resolve();
      expect(await events).toEqual(['said', 'end']);
      await fault.lift(admin);
      expect(await waiting.result({ timeoutMs: 25_000 })).toBe(7);
      expect(refusals().length).toBeLessThanOrEqual(fault.kind === 'DENIED' ? 4 : 1);
      expect(lines('Redis connection ended')).toEqual([]);
      const stats = /errorstat_(?:MISCONF|OOM|READONLY|NOREPLICAS|BUSY|NOPERM):count=(\d+)/.exec(
        await admin.info('errorstats'),
      );
      // Without pauses some thousands a second.
      expect(Number(stats?.[1] ?? 0)).toBeLessThan(150);
      if (fault.kind !== 'DENIED') await expect.poll(() => lines('Redis takes commands again')).toHaveLength(1);
    },
  );

  it('at the door: too many clients, or a changed password; one line, and jobs go on', async () => {
    const { redis, admin } = await ownRedis();
    const { log, lines } = linesOf();
    const fleet = createTestFleet(file.url, [echo], { redisUrl: redis.url, log });
    await fleet.work();
    const { password } = new URL(redis.url);
    const told = () => lines('Redis').filter(({ msg }) => msg.includes('trying again'));
    for (const [impose, lift] of [
      [
        ['maxclients', '1'],
        ['maxclients', '1000'],
      ],
      [
        ['requirepass', 'another'],
        ['requirepass', password],
      ],
    ] as const) {
      const before = told().length;
      await admin.config('SET', ...impose);
      await admin.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
      await expect.poll(() => told().length).toBeGreaterThan(before);
      const handle = await fleet.enqueue(echo, 5);
      await admin.config('SET', ...lift);
      expect(await handle.result({ timeoutMs: 25_000 })).toBe(5);
      // A line for each connection, the subscriber's apart: it was not killed.
      expect(told().length - before).toBeLessThanOrEqual(3);
    }
  });

  it('a question whether the connection lives: an error is an answer, and the connection stays', async () => {
    const { redis, admin } = await ownRedis();
    await admin.call('ACL', 'SETUSER', 'quiet', 'on', '>secret', '~*', '&*', '+@all', '-ping');
    const url = new URL(redis.url);
    url.username = 'quiet';
    url.password = 'secret';
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
    onTestFinished(() => void vi.useRealTimers());
    const { log, lines } = linesOf();
    const connection = connectRedis(url.href, { cluster: false, name: 'test', log }) as Redis;
    onTestFinished(() => connection.disconnect());
    await connection.get('any');
    for (let i = 0; i < 20; i++) {
      vi.advanceTimersByTime(1_000);
      // Answered after the question that the timer asked.
      await connection.get('any');
    }
    expect(lines('Redis connection ended')).toEqual([]);
    expect(connection.status).toBe('ready');
  });
});

describe('a queue', () => {
  it('that answers with an error each time is asked with pauses', async () => {
    const { redis, admin } = await ownRedis();
    const { log } = linesOf();
    const gate = Promise.withResolvers<void>();
    const running = Promise.withResolvers<void>();
    const slow = defineJob({
      name: 'slow',
      input: z.null(),
      async run() {
        running.resolve();
        await gate.promise;
      },
    });
    const fleet = createTestFleet(file.url, [slow], { redisUrl: redis.url, log, prefix: 'wrong', concurrency: 1 });
    await fleet.work();
    const first = await fleet.enqueue(slow, null);
    await running.promise;
    await admin.set('wrong:slow:wait', 'no list');
    gate.resolve();
    await first.result({ timeoutMs: 20_000 });
    const errors = async () => Number(/errorstat_WRONGTYPE:count=(\d+)/.exec(await admin.info('errorstats'))?.[1] ?? 0);
    await expect.poll(errors).toBeGreaterThan(2);
    const before = await errors();
    for (let i = 0; i < 500; i++) await admin.ping();
    // Without pauses as many as there are answers to them.
    expect((await errors()) - before).toBeLessThan(20);
    await admin.del('wrong:slow:wait');
    await (await fleet.enqueue(slow, null)).result({ timeoutMs: 20_000 });
  });
});

describe('the table of refusals', () => {
  it.each([
    ['READONLY', "READONLY You can't write against a read only replica."],
    ['READONLY', 'UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)'],
    ['READONLY', "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."],
    [
      'READONLY',
      "ERR Error running script (call to f_1b): @user_script:9: @user_script: 9: -READONLY You can't write against a read only replica.",
    ],
    ['MISCONF', 'MISCONF Redis is configured to save RDB snapshots, but it is currently unable to persist on disk.'],
    ['OOM', "OOM command not allowed when used memory > 'maxmemory'. script: 1b, on @user_script:1."],
    ['OOM', 'EXECABORT Transaction discarded because of: OOM command not allowed'],
    ['LOADING', 'LOADING Redis is loading the dataset in memory'],
    ['BUSY', 'BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.'],
    ['NOREPLICAS', 'NOREPLICAS Not enough good replicas to write.'],
    ['CLUSTERDOWN', 'CLUSTERDOWN Hash slot not served'],
    ['TRYAGAIN', 'TRYAGAIN Multiple keys request during rehashing of slot'],
    ['MAXCLIENTS', 'ERR max number of clients reached'],
    ['MAXCLIENTS', 'ERR max number of clients + cluster connections reached'],
    ['DENIED', 'NOAUTH Authentication required.'],
    ['DENIED', 'WRONGPASS invalid username-password pair or user is disabled.'],
    ['DENIED', "NOPERM this user has no permissions to run the 'info' command or its subcommand"],
    ['DENIED', 'ERR invalid password'],
    ['DENIED', "ERR ACL failure in script: User app has no permissions to run the 'xadd' command"],
    ['CLUSTER', 'MOVED 3999 127.0.0.1:6381'],
    ['CLUSTER', "CROSSSLOT Keys in request don't hash to the same slot"],
    ['NO CLUSTER', 'ERR This instance has cluster support disabled'],
    [undefined, 'WRONGTYPE Operation against a key holding the wrong kind of value'],
    [undefined, 'BUSYGROUP Consumer Group name already exists'],
    [undefined, 'NOSCRIPT No matching script. Please use EVAL.'],
    [undefined, 'Missing lock for job BUSYBODY. moveToFinished'],
    [undefined, 'connect ECONNREFUSED 127.0.0.1:6379'],
  ])('%s: %s', (kind, message) => {
    expect(refusalOf(new Error(message))?.kind).toBe(kind);
  });
});
