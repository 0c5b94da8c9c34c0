/**
 * Whether a Redis can be used as it is, asked on a connection of its own before anything starts: BullMQ
 * asks a server that refuses it again and again, without a pause and without a word.
 */
import { randomUUID } from 'node:crypto';
import { Redis } from 'ioredis';
import { OncefleetError } from '../errors.ts';
import { refusalOf } from '../redis/refusals.ts';
import { parseRedisUrl } from '../redis-url.ts';
import { within } from '../util/with-timeout.ts';

/** How long all questions together may take. */
const ASK_LIMIT_MS = 5_000;

/** The oldest with everything that BullMQ and we send. */
const MIN_VERSION: readonly [number, number] = [6, 2];

/** `k` stands for a key of the fleet's. What follows the name is what makes Redis look at the command at all. */
const COMMANDS = [
  ...['get k', 'set k v', 'del k', 'unlink k', 'exists k', 'type k', 'rename k k', 'persist k', 'pttl k'],
  ...['pexpire k 1', 'pexpireat k 1', 'incr k', 'incrby k 1', 'time', 'ping'],
  ...['hget k f', 'hset k f v', 'hmset k f v', 'hmget k f', 'hgetall k', 'hdel k f', 'hexists k f', 'hlen k'],
  ...['hincrby k f 1', 'hscan k 0'],
  ...['lpush k v', 'rpush k v', 'lpop k', 'rpop k', 'rpoplpush k k', 'llen k', 'lrange k 0 0', 'lrem k 0 v'],
  ...['ltrim k 0 0', 'lpos k v', 'lindex k 0', 'lset k 0 v'],
  ...['sadd k v', 'srem k v', 'scard k', 'smembers k', 'sismember k v', 'sscan k 0'],
  ...['zadd k 1 v', 'zrem k v', 'zscore k v', 'zmscore k v', 'zcard k', 'zcount k 0 1', 'zlexcount k - +'],
  ...['zrange k 0 0', 'zrevrange k 0 0', 'zrangebyscore k 0 1', 'zrevrangebyscore k 1 0', 'zrangebylex k - +'],
  ...['zremrangebyscore k 0 1', 'zremrangebyrank k 0 0', 'zpopmin k', 'bzpopmin k 1'],
  ...['xadd k * f v', 'xtrim k maxlen 0', 'xrange k - +', 'xlen k', 'xread streams k 0', 'xdel k 0-0'],
  ...['eval return 0', 'evalsha 0 0'],
].map((line) => line.split(' '));

interface Needs {
  url: string;
  /** The URL is a node of a Cluster. */
  cluster: boolean;
  prefix: string;
  /** What BullMQ puts before the keys of the queues. */
  queuePrefixes: readonly string[];
}

interface Verdict {
  /** Why it cannot be used, each with what to do. */
  problems: string[];
  /** What costs something later. */
  warnings: string[];
}

/**
 * Throws where Redis is there and would refuse what the fleet needs. One that is not there, or does not
 * answer in time, may come back as after any outage: that is no reason not to start.
 *
 * @returns what costs something later, for the log
 * @throws OncefleetError REDIS_UNUSABLE with all that is wrong
 */
export async function requireRedis(needs: Needs): Promise<readonly string[]> {
  const redis = new Redis({
    ...parseRedisUrl(needs.url).options,
    // One round of the Sentinels.
    sentinelRetryStrategy: () => null,
    connectionName: 'oncefleet-check',
    lazyConnect: true,
    connectTimeout: ASK_LIMIT_MS / 2,
    // INFO, which ioredis would send, is what some users may not.
    enableReadyCheck: false,
    maxRetriesPerRequest: 0,
    retryStrategy: () => null,
  });
  let refused: Error | undefined;
  redis.on('error', (err) => {
    refused = err;
  });
  try {
    const asked = redis.connect().then(
      () => ask(redis, needs),
      (err: unknown) => toVerdict(refused ?? err, needs),
    );
    const { problems, warnings } = await within(
      ASK_LIMIT_MS,
      asked.catch((err) => toVerdict(refused ?? err, needs)),
      () => NONE,
    );
    if (problems.length > 0)
      throw new OncefleetError('REDIS_UNUSABLE', `Redis cannot be used as it is. ${problems.join(' ')}`, {
        details: { problems },
      });
    return warnings;
  } finally {
    redis.disconnect();
  }
}

const NONE: Verdict = { problems: [], warnings: [] };

/** The connection or a question failed: a problem only if it would fail again. */
function toVerdict(err: unknown, { url }: Needs): Verdict {
  const refusal = refusalOf(err);
  if (refusal === undefined || refusal.passes) return NONE;
  return { problems: [`${userOf(url)}: ${(err as Error).message}. ${refusal.remedy}`], warnings: [] };
}

async function ask(redis: Redis, needs: Needs): Promise<Verdict> {
  const about = await describe(redis);
  const problems: string[] = [];
  const { version, mode, role, policy } = about;
  const [major = 0, minor = 0] = (version ?? '').split('.').map(Number);
  if (major > 0 && (major < MIN_VERSION[0] || (major === MIN_VERSION[0] && minor < MIN_VERSION[1])))
    problems.push(`It is version ${version}: ${MIN_VERSION.join('.')} or newer is needed. Upgrade it.`);
  if (mode === 'cluster' && !needs.cluster)
    problems.push('It is a node of a Cluster: set `redisCluster` (REDIS_CLUSTER=1).');
  if (needs.cluster && parseRedisUrl(needs.url).server === undefined)
    problems.push('A Cluster has no Sentinels: give the address of one of its nodes, as redis://host:port.');
  else if (mode === 'standalone' && needs.cluster)
    problems.push('It is no node of a Cluster: leave `redisCluster` (REDIS_CLUSTER) out.');
  // A node of a Cluster may be a replica: ioredis asks it for the primaries.
  if ((role === 'replica' || role === 'slave') && !needs.cluster)
    problems.push('It is a replica, which takes no writes: give the address of its primary.');
  problems.push(...(await findDenied(redis, needs)));
  const evicts = policy !== undefined && policy !== 'noeviction';
  return {
    problems,
    warnings: evicts
      ? [
          `Redis may evict what BullMQ keeps: its maxmemory-policy is ${policy}. Jobs are found again, but late. Set it to noeviction.`,
        ]
      : [],
  };
}

interface About {
  version: string | undefined;
  mode: string | undefined;
  role: string | undefined;
  policy: string | undefined;
}

async function describe(redis: Redis): Promise<About> {
  const info = await redis.info().catch(() => '');
  const field = (name: string) => new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1];
  // No ACL forbids HELLO; before Redis 6 there is none, and no ACL either.
  const hello = await redis.call('HELLO').then(
    (reply) => (Array.isArray(reply) ? reply.map(String) : []),
    (): string[] => [],
  );
  const said = (name: string): string | undefined =>
    hello.includes(name) ? hello[hello.indexOf(name) + 1] : undefined;
  return {
    version: field('valkey_version') ?? field('redis_version') ?? said('version'),
    mode: said('mode') ?? field('redis_mode'),
    role: said('role') ?? field('role'),
    policy: field('maxmemory_policy'),
  };
}

/**
 * What the ACL of the user forbids. Redis checks a command when a transaction takes it in, so each is
 * asked for in one that is discarded: nothing is run, and nothing is written.
 */
async function findDenied(redis: Redis, needs: Needs): Promise<string[]> {
  const user = userOf(needs.url);
  const probe = `probe:${randomUUID()}`;
  const [key, ...otherKeys] = [needs.prefix, ...needs.queuePrefixes].map((prefix) => `${prefix}:${probe}`) as [string];
  const channel = `${needs.prefix}:stream:${probe}`;
  const pubsub = needs.cluster ? ['spublish', 'ssubscribe', 'sunsubscribe'] : ['publish', 'subscribe', 'unsubscribe'];
  // Outside of a transaction first: without one, what follows would be run.
  for (const [name] of [['multi'], ['exec'], ['multi'], ['discard']] as const) {
    const denied = await deny(redis, [name]);
    if (denied !== undefined) return [`${user} may not run ${name}: ACL SETUSER ${user} +multi +exec +discard.`];
  }
  const questions = [
    ...COMMANDS.map((words) => words.map((word) => (word === 'k' ? key : word))),
    ...otherKeys.map((other) => ['exists', other]),
    ...pubsub.map((name) => (name.endsWith('publish') ? [name, channel, ''] : [name, channel])),
  ];
  // All in one turn, so that nothing comes between.
  const [, ...answers] = await Promise.all([['multi'], ...questions, ['discard']].map((words) => deny(redis, words)));
  const commands = new Set<string>();
  let keys = false;
  let channels = false;
  questions.forEach(([name = ''], i) => {
    const denied = answers[i];
    if (denied === undefined) return;
    if (/channel/.test(denied)) channels = true;
    else if (/access .*keys?/.test(denied)) keys = true;
    else commands.add(name);
  });
  const rules = [
    ...[...commands].map((name) => `+${name}`),
    ...(keys ? [needs.prefix, ...needs.queuePrefixes].map((prefix) => `~${escapeGlob(prefix)}:*`) : []),
    ...(channels ? [`&${escapeGlob(needs.prefix)}:*`] : []),
  ];
  if (rules.length === 0) return [];
  const what = [
    ...(commands.size > 0 ? [`run ${[...commands].join(', ')}`] : []),
    ...(keys ? ['use the keys of the fleet'] : []),
    ...(channels ? ['use the channels of the fleet'] : []),
  ].join(', nor ');
  return [`${user} may not ${what}: ACL SETUSER ${user} ${[...new Set(rules)].join(' ')}.`];
}

/** @returns what Redis says if the ACL forbids it */
async function deny(redis: Redis, [name = '', ...args]: readonly string[]): Promise<string | undefined> {
  try {
    await redis.call(name, ...args);
    return undefined;
  } catch (error) {
    if (refusalOf(error)?.kind === 'DENIED') return (error as Error).message;
    // A connection that was lost answers nothing.
    if (redis.status !== 'ready') throw error;
    return undefined;
  }
}

function userOf(url: string): string {
  return parseRedisUrl(url).node.username ?? 'default';
}

function escapeGlob(text: string): string {
  return text.replace(/[[\]*?\\]/g, '\\$&');
}
