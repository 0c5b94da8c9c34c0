import { once } from 'node:events';
import { type AddressInfo, connect, createServer } from 'node:net';
import { createTestFleet as createOwnTestFleet, torture } from 'oncefleet/testing';
import { describe, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { CONFIG_VARIABLES, fleetSettings, loadConfig } from '../src/config.ts';
import type { InputInvalidError } from '../src/errors.ts';
import { createFleet, defineJob, type Fleet, withIdempotency } from '../src/index.ts';
import { databaseUrl, RANGES, redisUrl } from '../src/options.ts';
import { useDatabase } from './helpers/fixtures.ts';
import { createTestFleet } from './helpers/fleet.ts';

const file = useDatabase();
const job = defineJob({ name: 'work', input: z.object({ n: z.number() }), run: async ({ n }) => n });
const URLS = { databaseUrl: 'postgres://127.0.0.1:1/none', redisUrl: 'redis://127.0.0.1:1' };

/** `path: message` of every problem; fails where the call does not refuse. */
async function problemsOf(call: () => unknown): Promise<string[]> {
  let error: unknown;
  try {
    await call();
  } catch (thrown) {
    error = thrown;
  }
  expect(error).toMatchObject({ name: 'InputInvalidError', code: 'INPUT_INVALID' });
  return (error as InputInvalidError).issues.map(({ path, message }) => `${path}: ${message}`);
}

async function pathsOf(call: () => unknown): Promise<string[]> {
  return (await problemsOf(call)).map((problem) => problem.slice(0, problem.indexOf(':')));
}

// biome-ignore lint/suspicious/noExplicitAny: what JavaScript callers may give.
type Anything = any;

describe('createFleet', () => {
  it.each<[Anything, string[]]>([
    [undefined, ['']],
    [{}, ['databaseUrl', 'redisUrl', 'jobs']],
    [{ ...URLS, jobs: 'x' }, ['jobs']],
    [{ ...URLS, jobs: [{}] }, ['jobs[0].name', 'jobs[0].input', 'jobs[0].run', 'jobs[0].queue', 'jobs[0].policy']],
    [{ ...URLS, jobs: [job, undefined] }, ['jobs[1]']],
    [{ ...URLS, jobs: [{ ...job, run: 5 }] }, ['jobs[0].run']],
    [{ ...URLS, jobs: [job, { ...job }] }, ['jobs[1].name']],
    [{ ...URLS, jobs: [], databaseUrl: 'nope' }, ['databaseUrl']],
    [{ ...URLS, jobs: [], databaseUrl: 'postgres://user:%zz@127.0.0.1/x' }, ['databaseUrl']],
    [{ ...URLS, jobs: [], redisUrl: 'http://127.0.0.1' }, ['redisUrl']],
    [{ ...URLS, jobs: [], redisCluster: 'yes' }, ['redisCluster']],
    [{ ...URLS, jobs: [], prefix: 'a b' }, ['prefix']],
    [{ ...URLS, jobs: [], tenant: '' }, ['tenant']],
    [{ ...URLS, jobs: [], tenant: 'a\u0000' }, ['tenant']],
    [{ ...URLS, jobs: [], log: console.log }, ['log']],
    [{ ...URLS, jobs: [], leaseTtlMs: -1 }, ['leaseTtlMs']],
    [{ ...URLS, jobs: [], leaseTtlMs: 6_000, heartbeatMs: 6_000 }, ['heartbeatMs']],
    [{ ...URLS, jobs: [], heartbeatMs: 30_001 }, ['heartbeatMs']],
    [{ ...URLS, jobs: [], concurrency: 0 }, ['concurrency']],
    [{ ...URLS, jobs: [], concurrency: 1.5 }, ['concurrency']],
    [{ ...URLS, jobs: [], shutdownMs: Number.NaN, sweepMs: '5' }, ['sweepMs', 'shutdownMs']],
    [{ ...URLS, jobs: [], jobRetentionMs: 0, streamRetentionMs: null }, ['streamRetentionMs', 'jobRetentionMs']],
    [{ ...URLS, jobs: [], databasePoolSize: 1 }, ['databasePoolSize']],
  ])('refuses %j by the path of each option', async (options, paths) => {
    expect(await pathsOf(() => createFleet(options))).toEqual(paths);
  });

  it('tells of every problem at once', async () => {
    const found = await problemsOf(() =>
      createFleet({
        databaseUrl: 'mysql://secret@x',
        redisUrl: URLS.redisUrl,
        jobs: [job, { ...job, queue: 'a:b' }],
        leaseTtlMs: 1_000,
        heartbeatMs: 900,
        maxCrashes: -1,
        concurency: 5,
      } as Anything),
    );
    expect(found).toEqual([
      'databaseUrl: expected a URL that starts with postgres:// or postgresql://',
      'maxCrashes: expected a whole number from 0 to 100000',
      'jobs[1].queue: expected a queue name: 1 to 100 of A-Za-z0-9_.-, the first a letter or digit',
      'concurency: is not an option; did you mean concurrency?',
      'heartbeatMs: must fit twice into leaseTtlMs (1000)',
      'jobs[1].name: another job is named "work"',
    ]);
    expect(found.join()).not.toContain('secret');
  });

  it('opens no connection for options that it refuses', async () => {
    let connections = 0;
    const server = createServer((socket) => {
      connections++;
      socket.on('error', () => undefined);
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    onTestFinished(() => void server.close());
    const { port } = server.address() as AddressInfo;
    const servers = { databaseUrl: `postgres://127.0.0.1:${port}/x`, redisUrl: `redis://127.0.0.1:${port}` };
    await problemsOf(() => createFleet({ ...servers, jobs: [job, job] }));
    await problemsOf(() => createFleet({ ...servers, jobs: [], concurrency: 0 }));
    await problemsOf(() => withIdempotency(async () => 1, { ...servers, attempts: 0 }));
    await problemsOf(() => withIdempotency(5 as Anything, servers));
    // Connections are accepted in their order: whatever one of those had begun came before this one.
    const last = connect(port, '127.0.0.1');
    onTestFinished(() => void last.destroy());
    await expect.poll(() => connections).toBeGreaterThan(0);
    expect(connections).toBe(1);
  });

  it('takes undefined for what is not given, and Infinity for what is kept for good', async () => {
    const fleet = createFleet({
      ...URLS,
      jobs: [],
      ...({ concurrency: undefined, log: undefined, heartbeatMs: undefined } as Anything),
      jobRetentionMs: Number.POSITIVE_INFINITY,
    });
    await fleet.close();
  });

  it('takes what fleetSettings gives of a configuration, and no more of it', async () => {
    const config = loadConfig({ DATABASE_URL: URLS.databaseUrl, REDIS_URL: URLS.redisUrl });
    const settings = fleetSettings(config);
    expect(Object.keys(settings)).toEqual(expect.arrayContaining(Object.keys(RANGES)));
    const fleet = createFleet({ ...settings, jobs: [job] });
    await fleet.close();
    expect(await pathsOf(() => createFleet({ ...config, jobs: [] } as Anything))).toContain('port');
  });

  it('has the defaults and limits of the environment', async () => {
    const config = loadConfig({ DATABASE_URL: URLS.databaseUrl, REDIS_URL: URLS.redisUrl });
    for (const [name, range] of Object.entries(RANGES)) {
      expect({ [name]: config[name as keyof typeof RANGES] }).toEqual({ [name]: range.default });
      const variable = Object.entries(CONFIG_VARIABLES).find(
        ([key]) =>
          key
            .replace(/^ONCEFLEET_/, '')
            .replaceAll('_', '')
            .toLowerCase() === name.toLowerCase(),
      );
      const bounds = `a whole number from ${range.min} to ${range.max}`;
      expect(variable?.[1].schema.safeParse('x').error?.issues[0]?.message).toContain(bounds);
      const [problem] = await problemsOf(() => createFleet({ ...URLS, jobs: [], [name]: Number.NaN }));
      expect(problem).toContain(bounds);
      for (const allowed of [range.min, range.max]) {
        const more = name === 'heartbeatMs' ? { leaseTtlMs: RANGES.leaseTtlMs.max } : {};
        await createFleet({ ...URLS, jobs: [], ...more, [name]: allowed }).close();
      }
    }
  });
});

describe('defineJob', () => {
  const fine = { name: 'x', input: z.object({}), run: async () => 1 };

  it.each<[Anything, string[]]>([
    [undefined, ['']],
    [{}, ['name', 'input', 'run']],
    [{ ...fine, name: 'a b' }, ['name']],
    [{ ...fine, queue: '' }, ['queue']],
    [{ ...fine, input: { n: 'number' } }, ['input']],
    [{ ...fine, output: 5, events: 'x' }, ['output', 'events']],
    [{ ...fine, run: 'x' }, ['run']],
    [{ ...fine, onPoison: 5 }, ['onPoison']],
    [{ ...fine, attempts: 0, timeoutMs: Number.NaN, deadlineMs: -1 }, ['attempts', 'timeoutMs', 'deadlineMs']],
    [{ ...fine, backoff: { type: 'linear', delayMs: -1 } }, ['backoff.type', 'backoff.delayMs']],
    [{ ...fine, backoff: { type: 'fixed', delayMs: 1, maxDelay: 5 } }, ['backoff.maxDelay']],
    [{ ...fine, lease: { ttlMs: 10 } }, ['lease.ttlMs']],
    [{ ...fine, lease: { leaseTtlMs: 10_000 } }, ['lease.ttlMs', 'lease.leaseTtlMs']],
    [{ ...fine, onStoreOutage: 'ignore', onFailedKey: 'again' }, ['onFailedKey', 'onStoreOutage']],
    [{ ...fine, timeout: 5 }, ['timeout']],
  ])('refuses %j by the path of each setting', async (options, paths) => {
    expect((await pathsOf(() => defineJob(options))).toSorted()).toEqual(paths.toSorted());
  });

  it('suggests what a misspelt setting means, in an object too', async () => {
    expect(
      await problemsOf(() =>
        defineJob({ ...fine, timeOutMs: 5, backoff: { type: 'fixed', delayMs: 1, jiter: 0 } } as Anything),
      ),
    ).toEqual([
      'backoff.jiter: is not an option; did you mean jitter?',
      'timeOutMs: is not an option; did you mean timeoutMs?',
    ]);
  });
});

describe('withIdempotency', () => {
  it.each<[Anything, Anything, string[]]>([
    [undefined, URLS, ['processor']],
    [async () => 1, undefined, ['']],
    [async () => 1, {}, ['databaseUrl', 'redisUrl']],
    [async () => 1, { ...URLS, key: 'x', onPoison: 1 }, ['key', 'onPoison']],
    [async () => 1, { ...URLS, backoff: { type: 'x', delayMs: 1 }, leaseTtlMs: 5 }, ['leaseTtlMs', 'backoff.type']],
    [async () => 1, { ...URLS, leaseTtlMs: 5_000, heartbeatMs: 4_000 }, ['heartbeatMs']],
    [async () => 1, { ...URLS, concurrency: 5 }, ['concurrency']],
  ])('refuses %o with %j', async (processor, options, paths) => {
    expect(await pathsOf(() => withIdempotency(processor, options))).toEqual(paths);
  });
});

describe('a fleet', () => {
  const id = '01900000-0000-7000-8000-000000000000';
  it.each<[string, (fleet: Fleet) => unknown, string[]]>([
    ['enqueue of nothing', (fleet) => fleet.enqueue(undefined as Anything, {}), ['job']],
    ['enqueue with null', (fleet) => fleet.enqueue(job, { n: 1 }, null as Anything), ['']],
    [
      'enqueue',
      (fleet) =>
        fleet.enqueue(job, { n: 1 }, {
          key: 5,
          delayMs: Number.NaN,
          priority: 1.5,
          tenant: '',
          idempotencyKey: 'k',
        } as Anything),
      ['tenant', 'key', 'delayMs', 'priority', 'idempotencyKey'],
    ],
    ['enqueue too late', (fleet) => fleet.enqueue(job, { n: 1 }, { delayMs: 1e300 }), ['delayMs']],
    ['enqueue of bad input', (fleet) => fleet.enqueue(job, { n: 'x' } as Anything), ['n']],
    ['work', (fleet) => fleet.work({ jobs: 'work', concurrency: 0 } as Anything), ['jobs', 'concurrency']],
    ['work misspelt', (fleet) => fleet.work({ job: ['work'] } as Anything), ['job']],
    ['get', (fleet) => fleet.get(id, { tenant: 5 } as Anything), ['tenant']],
    ['cancel', (fleet) => fleet.cancel(id, { tenants: 'a' } as Anything), ['tenants']],
    ['redrive', (fleet) => fleet.redrive(id, { tenant: '' }), ['tenant']],
    ['find', (fleet) => fleet.find({ limit: 101, status: 'done', name: 5 } as Anything), ['name', 'status', 'limit']],
    ['find of a control character', (fleet) => fleet.find({ name: 'a\u0000b' }), ['name']],
    ['readEvents', (fleet) => fleet.readEvents(id, { limit: -1, after: {} } as Anything), ['after', 'limit']],
    ['result', (fleet) => fleet.result(id, { timeoutMs: -1, signal: {} } as Anything), ['signal', 'timeoutMs']],
    [
      'follow',
      (fleet) => fleet.follow(id, { after: null, types: 'end', committed: 1, signal: 5 } as Anything).next(),
      ['after', 'signal', 'types', 'committed'],
    ],
    ['follow with null', (fleet) => fleet.follow(id, null as Anything).next(), ['']],
    [
      'redriveMany',
      (fleet) => fleet.redriveMany({ limit: 0, canary: -1, withinMs: Number.NaN, code: 'TIMEOUTS' } as Anything),
      ['code', 'withinMs', 'limit', 'canary'],
    ],
    [
      'redriveMany of a control character',
      (fleet) => fleet.redriveMany({ name: 'a\u0000b', code: 'a\u0000b' }),
      ['name', 'code'],
    ],
    ['redriveMany misspelt', (fleet) => fleet.redriveMany({ names: 'x' } as Anything), ['names']],
    ['enqueueMany', (fleet) => fleet.enqueueMany(job, 5 as Anything), ['items']],
    ['enqueueMany of too much', (fleet) => fleet.enqueueMany(job, new Array(100_001) as Anything), ['items']],
    [
      'enqueueMany, its options',
      (fleet) => fleet.enqueueMany(job, [], { tenant: '', signal: 1, onProgress: 1, key: 'k' } as Anything),
      ['tenant', 'signal', 'onProgress', 'key'],
    ],
    [
      'cancelMany',
      (fleet) =>
        fleet.cancelMany({ status: 'failed', name: 5, keyPrefix: 'a\u0000', olderThanMs: -1, limit: 0 } as Anything),
      ['name', 'status', 'keyPrefix', 'olderThanMs', 'limit'],
    ],
    ['cancelMany misspelt', (fleet) => fleet.cancelMany({ names: 'x' } as Anything), ['names']],
    ['sweep', (fleet) => fleet.sweep({ signal: 1 } as Anything), ['signal']],
    [
      'setRetention',
      (fleet) => fleet.setRetention('', { jobMs: 5, streamMs: 'never' } as Anything),
      ['tenant', 'streamMs', 'jobMs'],
    ],
    [
      'setTenantLimits',
      (fleet) => fleet.setTenantLimits('', { concurrency: 0, weight: 0, rate: { max: 0, perMs: -1 } }),
      ['tenant', 'concurrency', 'rate.max', 'rate.perMs', 'weight'],
    ],
    [
      'setTenantLimits of no number',
      (fleet) => fleet.setTenantLimits('a', { concurrency: Number.NaN, weight: Number.POSITIVE_INFINITY }),
      ['concurrency', 'weight'],
    ],
    ['setTenantLimits misspelt', (fleet) => fleet.setTenantLimits('a', { wait: 1 } as Anything), ['wait']],
    ['setTenantLimits of nothing', (fleet) => fleet.setTenantLimits('a', null as Anything), ['']],
    ['setRetention of nothing', (fleet) => fleet.setRetention('a', null as Anything), ['']],
    ['doctor', (fleet) => fleet.doctor({ fix: 'yes', lookAgainMs: -1 } as Anything), ['fix', 'lookAgainMs']],
    ['close of a worker', async (fleet) => (await fleet.work()).close({ timeoutMs: Number.NaN }), ['timeoutMs']],
    [
      'result of a handle',
      async (fleet) => (await fleet.enqueue(job, { n: 1 })).result({ timeoutMs: Number.NaN }),
      ['timeoutMs'],
    ],
    [
      'result, misspelt',
      async (fleet) => (await fleet.enqueue(job, { n: 1 })).result({ timeout: 5 } as Anything),
      ['timeout'],
    ],
    [
      'events of a handle',
      async (fleet) => (await fleet.enqueue(job, { n: 1 })).events({ from: 5 } as Anything).next(),
      ['from'],
    ],
  ])('refuses options of %s that do not make sense', async (_call, call, paths) => {
    const fleet = createTestFleet(file.url, [job]);
    expect(await pathsOf(() => call(fleet))).toEqual(paths);
    if (paths.includes('idempotencyKey')) expect((await fleet.find()).jobs).toEqual([]);
  });

  it.each<[string, (fleet: Fleet, id: Anything) => unknown]>([
    ['cancel', (fleet, id) => fleet.cancel(id)],
    ['redrive', (fleet, id) => fleet.redrive(id)],
    ['result', (fleet, id) => fleet.result(id)],
    ['readEvents', (fleet, id) => fleet.readEvents(id)],
    ['follow', (fleet, id) => fleet.follow(id).next()],
  ])('knows no job whose id is no id: %s', async (_call, call) => {
    const fleet = createTestFleet(file.url, [job]);
    for (const id of [undefined, null, 5, 'x', ['01900000-0000-7000-8000-000000000000']])
      await expect(Promise.resolve().then(() => call(fleet, id))).rejects.toMatchObject({ code: 'JOB_NOT_FOUND' });
  });

  it('refuses a search for a key that no job can have', async () => {
    const fleet = createTestFleet(file.url, [job]);
    for (const key of ['', 'a\u0000b'])
      await expect(fleet.find({ key })).rejects.toMatchObject({ code: 'KEY_INVALID' });
  });

  it('waits for a result for ever, for no time and for a part of a millisecond', async () => {
    const fleet = createTestFleet(file.url, [job]);
    const handle = await fleet.enqueue(job, { n: 7 });
    await expect(handle.result({ timeoutMs: 0 })).rejects.toMatchObject({ code: 'WAIT_TIMEOUT' });
    await expect(handle.result({ timeoutMs: 0.5 })).rejects.toMatchObject({ code: 'WAIT_TIMEOUT' });
    await fleet.work();
    expect(await handle.result({ timeoutMs: Number.POSITIVE_INFINITY })).toBe(7);
  });
});

describe('createTestFleet', () => {
  it.each<[Anything, string[]]>([
    [null, ['']],
    [{ jobs: 'x' }, ['jobs']],
    [{ databaseUrl: 'nope', concurrency: 0 }, ['databaseUrl', 'concurrency']],
    [{ leaseTtlMs: 1_000, heartbeatMs: 900 }, ['heartbeatMs']],
    [{ prefix: 'mine' }, ['prefix']],
    [{ timeout: 5 }, ['timeout']],
  ])('refuses %j before it starts anything', async (options, paths) => {
    expect(await pathsOf(() => createOwnTestFleet(options))).toEqual(paths);
  });
});

describe('torture', () => {
  it.each<[Anything, Anything, string[]]>([
    [undefined, undefined, ['job']],
    [{}, {}, ['job.name', 'job.input', 'job.run', 'job.queue', 'job.policy']],
    ['work', { cheque: 1 }, ['cheque', 'job']],
    [job, null, ['']],
    [job, { fleet: {}, maxCalls: Number.NaN, only: 5 }, ['fleet', 'only', 'maxCalls']],
  ])('refuses %o with %j before it starts anything', async (handler, options, paths) => {
    expect(await pathsOf(() => torture(handler, options))).toEqual(paths);
  });
});

it.each([
  'postgres://u:p@/db?host=/var/run/postgresql',
  'postgresql://u@/db?host=%2Fvar%2Frun&port=5433',
  'postgres:///db?host=/var/run/postgresql',
  'postgres://u:p@%2Fvar%2Frun/db',
])('%s, a socket, is a URL of Postgres, and not of Redis', (url) => {
  expect(databaseUrl.safeParse(url).success).toBe(true);
  expect(redisUrl.safeParse(url).success).toBe(false);
});

it.each(['redis://u:p@/0', 'redis://@/'])('%s is no URL of Redis', (url) => {
  expect(redisUrl.safeParse(url).success).toBe(false);
});
