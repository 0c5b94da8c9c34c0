/** Redis as it may be when a process starts: rights, role, version, mode. */
import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { connect, createServer } from 'node:net';
import { Redis } from 'ioredis';
import pino from 'pino';
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { defineJob } from '../../src/index.ts';
import { requireRedis } from '../../src/runtime/require-redis.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { startTestRedis, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();
const server: { url: URL; admin: Redis } = {} as never;

beforeAll(async () => {
  const { redis, stop } = await startTestRedis();
  server.url = new URL(redis.url);
  server.admin = new Redis(redis.url);
  return async () => {
    server.admin.disconnect();
    await stop();
  };
});

const echo = defineJob({
  name: 'echo',
  input: z.number(),
  async run(n, ctx) {
    await ctx.emit({ type: 'said' });
    return n;
  },
});

let users = 0;

/** A user with these rules, and the URL that it connects with. */
async function userWith(...rules: string[]): Promise<string> {
  const name = `user${users++}`;
  await server.admin.call('ACL', 'SETUSER', name, 'on', '>secret', ...rules);
  return `redis://${name}:secret@${server.url.host}`;
}

const check = (url: string, prefix = 'fleet') =>
  requireRedis({ url, cluster: false, prefix, queuePrefixes: [prefix] }).then(
    () => 'ok',
    (err: { code: string; message: string }) => `${err.code}: ${err.message}`,
  );

/** Commands that BullMQ's scripts call, read from the package. */
function scriptCommands(): string[] {
  const folder = new URL('./scripts/', `file://${createRequire(import.meta.url).resolve('bullmq')}`);
  const commands = new Set<string>();
  for (const name of readdirSync(folder)) {
    if (!name.endsWith('.js')) continue;
    const text = readFileSync(new URL(name, folder), 'utf8');
    for (const [, command] of text.matchAll(/r?call\(\s*["'](\w+)["']/gi))
      commands.add((command as string).toLowerCase());
  }
  return [...commands];
}

describe('a user of Redis', () => {
  it('without INFO (-@dangerous) runs jobs, and what a flush took is dispatched again', async () => {
    const prefix = uniquePrefix();
    const url = await userWith(`~${prefix}:*`, `&${prefix}:*`, '+@all', '-@dangerous');
    const fleet = createTestFleet(file.url, [echo], { redisUrl: url, prefix });
    await fleet.work();
    expect(await (await fleet.enqueue(echo, 1)).result({ timeoutMs: 20_000 })).toBe(1);
    const delayed = await fleet.enqueue(echo, 2, { delayMs: 1_500 });
    await server.admin.flushall();
    expect(await delayed.result({ timeoutMs: 20_000 })).toBe(2);
    expect((await fleet.doctor()).findings.map(({ kind }) => kind)).not.toContain('redis-old');
  });

  it('without a command that BullMQ or we need is refused, and the command is named', async () => {
    const commands = scriptCommands();
    expect(commands.length).toBeGreaterThan(40);
    for (const command of [
      ...commands,
      'bzpopmin',
      'evalsha',
      'publish',
      'subscribe',
      'multi',
      'exec',
      'discard',
      'hscan',
    ]) {
      const said = await check(await userWith('~*', '&*', '+@all', `-${command}`));
      expect(said, command).toMatch(
        new RegExp(`^REDIS_UNUSABLE: .* may not run ${command}\\b.*ACL SETUSER user\\d+ .*\\+${command}\\b`),
      );
    }
  });

  it.each([
    {
      title: 'limited to the prefix, with -@dangerous',
      rules: ['~fleet:*', '&fleet:*', '+@all', '-@dangerous'],
      says: /^ok$/,
    },
    { title: 'with keys of others', rules: ['~other:*', '&*', '+@all'], says: /ACL SETUSER user\d+ ~fleet:\*\.$/ },
    { title: 'without channels', rules: ['~*', 'resetchannels', '+@all'], says: /ACL SETUSER user\d+ &fleet:\*\.$/ },
    { title: 'that may only read', rules: ['~*', '&*', '+@read', '+@connection'], says: /REDIS_UNUSABLE: .*\+multi/ },
  ])('$title', async ({ rules, says }) => {
    expect(await check(await userWith(...rules))).toMatch(says);
  });

  it('with a wrong password, or none, is refused by work(), which names what to look at', async () => {
    for (const login of ['default:wrong@', '']) {
      const fleet = createTestFleet(file.url, [echo], { redisUrl: `redis://${login}${server.url.host}` });
      await expect(fleet.work()).rejects.toMatchObject({
        code: 'REDIS_UNUSABLE',
        message: expect.stringMatching(/default: (?:WRONGPASS|NOAUTH).*REDIS_URL/),
      });
    }
  });

  it('leaves nothing behind in Redis, nor a connection', async () => {
    const prefix = uniquePrefix();
    expect(await check(server.url.href, prefix)).toBe('ok');
    expect(await server.admin.keys(`${prefix}*`)).toEqual([]);
    await expect.poll(async () => String(await server.admin.client('LIST'))).not.toContain('oncefleet-check');
  });
});

describe('a server', () => {
  it('that is a replica is refused', async () => {
    const { redis, stop } = await startTestRedis();
    onTestFinished(stop);
    const admin = new Redis(redis.url);
    onTestFinished(() => admin.disconnect());
    await admin.replicaof('127.0.0.1', 1);
    expect(await check(redis.url)).toMatch(/REDIS_UNUSABLE: .*replica/);
  });

  it('that may evict keys is warned of', async () => {
    const { redis, stop } = await startTestRedis();
    onTestFinished(stop);
    const admin = new Redis(redis.url);
    onTestFinished(() => admin.disconnect());
    await admin.config('SET', 'maxmemory-policy', 'allkeys-lru');
    const warnings = await requireRedis({ url: redis.url, cluster: false, prefix: 'fleet', queuePrefixes: [] });
    expect(warnings).toEqual([expect.stringContaining('allkeys-lru')]);
  });

  it('of another mode than was said is refused', async () => {
    await expect(
      requireRedis({ url: server.url.href, cluster: true, prefix: 'fleet', queuePrefixes: [] }),
    ).rejects.toThrow(/REDIS_CLUSTER/);
  });

  it('that is no Cluster is named by the setting, to a worker that starts and in the log', async () => {
    const lines: string[] = [];
    const log = pino({ level: 'info' }, { write: (line: string) => lines.push(line) });
    const fleet = createTestFleet(file.url, [echo], { redisUrl: server.url.href, redisCluster: true, log });
    await expect(fleet.work()).rejects.toMatchObject({
      code: 'REDIS_UNUSABLE',
      message: expect.stringContaining('leave `redisCluster` (REDIS_CLUSTER) out'),
    });
    await expect.poll(() => lines.join('')).toContain('leave `redisCluster` (REDIS_CLUSTER) out');
  });

  it('that is older than 6.2 is refused', async () => {
    // The same length, so that the reply stays one.
    const url = await relayed((text) => text.replaceAll(/redis_version:\d\.\d\.\d\d/g, 'redis_version:4.0.14'));
    expect(await check(url)).toMatch(/REDIS_UNUSABLE: .*4\.0\.14.*6\.2/);
  });

  it('that answers the first question alone holds nobody up for long', async () => {
    let asked = 0;
    const url = await relayed((text) => (asked++ === 0 ? text : ''));
    expect(await check(url)).toBe('ok');
  });
});

/** The server through a proxy that changes what it says. @returns the URL */
async function relayed(change: (text: string) => string): Promise<string> {
  const relay = createServer((client) => {
    const upstream = connect(Number(server.url.port), '127.0.0.1');
    client.pipe(upstream);
    upstream.on('data', (chunk) => client.write(change(chunk.toString('latin1')), 'latin1'));
    for (const [one, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      one.on('error', () => other.destroy());
      one.on('close', () => other.destroy());
    }
  });
  await new Promise<void>((resolve) => relay.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => void relay.close());
  const url = new URL(server.url);
  url.port = String((relay.address() as { port: number }).port);
  return url.href;
}
