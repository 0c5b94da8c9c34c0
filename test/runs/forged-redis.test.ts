/** What a client that can write to Redis, and not to Postgres, can make a worker do. */
import { Queue, QueueEvents, Worker } from 'bullmq';
import { Redis } from 'ioredis';
import { pino } from 'pino';
import { describe, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { defineJob, withIdempotency } from '../../src/index.ts';
import { rowOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();

function openRedis(): Redis {
  const redis = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
  onTestFinished(() => redis.disconnect());
  return redis;
}

describe('a forged control message', () => {
  /** Jobs `wait` that run until they are released or aborted. */
  async function running(...keys: string[]) {
    const prefix = uniquePrefix();
    const release = new Map(keys.map((key) => [key, Promise.withResolvers<void>()]));
    const started = new Map(keys.map((key) => [key, Promise.withResolvers<AbortSignal>()]));
    const wait = defineJob({
      name: 'wait',
      input: z.object({}),
      async run(_input, ctx) {
        started.get(ctx.key as string)?.resolve(ctx.signal);
        const aborted = new Promise((resolve) => ctx.signal.addEventListener('abort', resolve));
        await Promise.race([release.get(ctx.key as string)?.promise, aborted]);
        return 'done';
      },
    });
    // Heartbeats, which find a cancel too, do not come in time.
    const fleet = createTestFleet(file.url, [wait], { prefix, leaseTtlMs: 600_000, heartbeatMs: 300_000 });
    await fleet.work();
    const jobs = await Promise.all(keys.map((key) => fleet.enqueue(wait, {}, { key })));
    const signals = await Promise.all(keys.map((key) => started.get(key)?.promise as Promise<AbortSignal>));
    return { prefix, fleet, jobs, signals, release };
  }

  it('cancels nothing: the row says whether a cancel was requested', async () => {
    const { prefix, jobs, signals, release } = await running('forged', 'true');
    const [forged, asked] = jobs as [(typeof jobs)[0], (typeof jobs)[0]];
    const redis = openRedis();
    for (let i = 0; i < 50; i++) await redis.publish(`${prefix}:control`, JSON.stringify({ cancel: forged.id }));
    // On the same channel, so it is heard after those.
    await asked.cancel();
    await expect(asked.result()).rejects.toMatchObject({ status: 'cancelled' });
    expect(signals[0]?.aborted).toBe(false);
    expect(await rowOf(file.db, forged.id)).toMatchObject({ status: 'running', cancel_requested_at: null });
    release.get('forged')?.resolve();
    expect(await forged.result()).toBe('done');
  });

  it('of any other shape does nothing either', async () => {
    const { prefix, jobs, signals, release } = await running('shapes', 'barrier');
    const redis = openRedis();
    const id = jobs[0]?.id;
    const texts = [
      '',
      'null',
      '[]',
      '7',
      '{"cancel":7}',
      `{"cancel":["${id}"]}`,
      '{"cancel":"\\u0000"}',
      '{"left":{}}',
    ];
    for (const text of texts) await redis.publish(`${prefix}:control`, text);
    await jobs[1]?.cancel();
    await expect(jobs[1]?.result()).rejects.toMatchObject({ status: 'cancelled' });
    expect(signals[0]?.aborted).toBe(false);
    release.get('shapes')?.resolve();
    expect(await jobs[0]?.result()).toBe('done');
  });
});

describe('a forged delivery', () => {
  const REFUSED = /under a name or tenant that is not its row's/;

  type Forged = { name: string; data: Record<string, unknown>; refused: boolean };

  const forgeries: Record<string, (id: string) => Forged> = {
    'with another tenant': () => ({ name: 'mine', data: { tenant: 'b' }, refused: true }),
    'with the default tenant': () => ({ name: 'mine', data: {}, refused: true }),
    'with the name of another job': () => ({ name: 'other', data: { tenant: 'a' }, refused: true }),
    'with both': () => ({ name: 'other', data: { tenant: 'b' }, refused: true }),
    'with another key and an input': () => ({
      name: 'mine',
      data: { tenant: 'a', key: 'forged', input: { n: 2, text: 'said by a forger' } },
      refused: false,
    }),
  };

  const cases = Object.entries(forgeries).flatMap(([what, forge]) =>
    (['id of its own', "row's id"] as const).map((id) => ({ what, forge, id })),
  );

  it.each(cases)('$what ($id) runs nothing but what the row says', async ({ what, forge, id: idOf }) => {
    const key = `${what}, ${idOf}`;
    const prefix = uniquePrefix();
    const ran: unknown[] = [];
    const lines: Record<string, unknown>[] = [];
    const log = pino({ level: 'warn' }, { write: (line: string) => void lines.push(JSON.parse(line)) });
    const define = (name: string) =>
      defineJob({
        name,
        queue: 'shared',
        input: z.object({ n: z.number() }),
        async run(input, ctx) {
          // A worker's reconciler finds jobs of other cases too.
          if (ctx.key === key) ran.push({ name, tenant: ctx.tenant, key, n: input.n });
          return input.n;
        },
      });
    const mine = define('mine');
    const fleet = createTestFleet(file.url, [mine, define('other')], { prefix, log, reconcileMs: 100 });
    const connection = openRedis();
    const queue = new Queue('shared', { connection, prefix });
    const events = new QueueEvents('shared', { connection: { url: testRedisUrl() }, prefix });
    onTestFinished(() => Promise.all([queue.close(), events.close()]).then(() => undefined));
    await events.waitUntilReady();
    const job = await fleet.enqueue(mine, { n: 1 }, { key, tenant: 'a' });
    await queue.remove(job.id);
    const { name, data, refused } = forge(job.id);
    const forged = await queue.add(
      name,
      { oncefleet: 1, key: null, jobId: job.id, ...data },
      { jobId: idOf === "row's id" ? job.id : 'forged', attempts: 3 },
    );
    await fleet.work();
    const ended = forged.waitUntilFinished(events, 20_000);
    if (refused) {
      await expect(ended).rejects.toThrow(REFUSED);
      expect(lines).toContainEqual(
        expect.objectContaining({ jobId: job.id, queue: 'shared', msg: expect.stringContaining('delivery refused') }),
      );
    } else await ended;
    // Refused, the row was left as it is: the reconciler has it delivered as it says.
    expect(await job.result({ timeoutMs: 20_000 })).toBe(1);
    expect(ran).toEqual([{ name: 'mine', tenant: 'a', key, n: 1 }]);
    expect(await rowOf(file.db, job.id)).toMatchObject({
      fence: 1,
      crash_count: 0,
      error_count: 0,
      interruption_count: 0,
    });
    expect(JSON.stringify(lines)).not.toContain('said by a forger');
  });

  it('of a job that has ended is refused as well, and tells its outcome to nobody', async () => {
    const prefix = uniquePrefix();
    const define = (name: string) =>
      defineJob({
        name,
        queue: 'shared',
        input: z.object({ fail: z.boolean() }),
        attempts: 1,
        async run({ fail }) {
          if (fail) throw new Error('a private failure');
          return { secret: 1 };
        },
      });
    const mine = define('mine');
    const fleet = createTestFleet(file.url, [mine, define('other')], { prefix });
    await fleet.work();
    const connection = openRedis();
    const queue = new Queue('shared', { connection, prefix });
    const events = new QueueEvents('shared', { connection: { url: testRedisUrl() }, prefix });
    onTestFinished(() => Promise.all([queue.close(), events.close()]).then(() => undefined));
    await events.waitUntilReady();
    for (const fail of [true, false]) {
      const job = await fleet.enqueue(mine, { fail }, { tenant: 'a' });
      await job.result().catch(() => undefined);
      const before = await rowOf(file.db, job.id);
      const forged = await queue.add('mine', { oncefleet: 1, key: null, jobId: job.id, tenant: 'b' });
      const failed = forged.waitUntilFinished(events, 20_000);
      await expect(failed).rejects.toThrow(REFUSED);
      expect(await rowOf(file.db, job.id)).toEqual(before);
    }
  });

  it.each([
    ['with a control character', 'a\n'],
    ['with NUL', 'a\0'],
    ['that is empty', ''],
    ['that is long', 'a'.repeat(256)],
    ['with half a character', 'a\ud800'],
  ])(
    'for a tenant %s gets no row; around a processor of its own the field means what it meant',
    async (_what, tenant) => {
      const prefix = uniquePrefix();
      const mine = defineJob({ name: 'mine', input: z.looseObject({}), run: async () => 'ran' });
      const fleet = createTestFleet(file.url, [mine], { prefix });
      await fleet.work();
      const queue = new Queue('mine', { connection: openRedis(), prefix });
      const events = new QueueEvents('mine', { connection: { url: testRedisUrl() }, prefix });
      const wrapped = withIdempotency(async (job) => job.data.tenant, { fleet });
      const theirs = new Queue('theirs', { connection: openRedis(), prefix });
      const theirEvents = new QueueEvents('theirs', { connection: { url: testRedisUrl() }, prefix });
      const worker = new Worker('theirs', wrapped, { connection: openRedis(), prefix });
      onTestFinished(async () => {
        await worker.close();
        await wrapped.close();
        await Promise.all([queue, events, theirs, theirEvents].map((each) => each.close()));
      });
      await Promise.all([events.waitUntilReady(), theirEvents.waitUntilReady()]);
      const key = `tenant ${JSON.stringify(tenant).slice(0, 50)}`;
      const refused = await queue.add('mine', { tenant, idempotencyKey: key });
      await expect(refused.waitUntilFinished(events, 20_000)).rejects.toThrow('tenant: expected 1 to 255 characters');
      const own = await theirs.add('any', { tenant, idempotencyKey: key });
      expect(await own.waitUntilFinished(theirEvents, 20_000)).toBe(tenant);
      const rows = await file.db.selectFrom('jobs').select('tenant').where('idempotency_key', '=', key).execute();
      expect(rows).toEqual([{ tenant: 'default' }]);
    },
  );
});
