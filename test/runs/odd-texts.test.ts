/**
 * Texts that Postgres stores nowhere (NUL), or that UTF-8 has no bytes for (halves of surrogate pairs), wherever
 * somebody may give one: refused with its path, or stored and read as it was. Never a job without an end.
 */
import { randomUUID } from 'node:crypto';
import { type Job, Queue, Worker } from 'bullmq';
import { Redis } from 'ioredis';
import { afterAll, describe, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { defineJob, type JobContext, RetryAfterError, withIdempotency } from '../../src/index.ts';
import { journalOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();
const WAIT = { timeout: 20_000, interval: 10 };

const connection = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
afterAll(() => connection.disconnect());

const ODD = ['a\u0000b', '\u0000', 'a\ud800b', '\udfff', '\ud800\u0000', '\u0001\u007f\u0085\u2028\ufffe\uffff'];

const REFUSED =
  /^(?:INPUT_INVALID|KEY_INVALID|CURSOR_INVALID|JOB_NAME_UNKNOWN|JOB_NOT_FOUND|COLLECTION_NOT_FOUND|EVENT_INVALID)$/;

/** Resolves, or is refused by one of our codes. */
async function refusedOrFine(what: string, call: () => Promise<unknown>): Promise<void> {
  try {
    await call();
  } catch (error) {
    expect(`${what}: ${(error as { code?: string }).code}`).toMatch(
      new RegExp(`: (?:${REFUSED.source.slice(1, -1)})$`),
    );
  }
}

describe.each(ODD)('the text %j', (text) => {
  it('in a call is refused by a code, or taken', async () => {
    const job = defineJob({ name: 'calls', input: z.unknown(), run: async () => 'done' });
    const fleet = createTestFleet(file.url, [job]);
    const { id } = await fleet.enqueue(job, {});
    const calls: Record<string, () => Promise<unknown>> = {
      'enqueue tenant': () => fleet.enqueue(job, {}, { tenant: text }),
      'enqueue key': () => fleet.enqueue(job, {}, { key: text }),
      'enqueue name': () => fleet.enqueue(text as 'calls', {}),
      'get id': () => fleet.get(text),
      'get tenant': () => fleet.get(id, { tenant: text }),
      'find key': () => fleet.find({ key: text }),
      'find name': () => fleet.find({ name: text }),
      'find cursor': () => fleet.find({ cursor: text }),
      'find tenant': () => fleet.find({ tenant: text }),
      'events id': () => fleet.readEvents(text),
      'events after': () => fleet.readEvents(id, { after: text }),
      cancel: () => fleet.cancel(text),
      'cancel tenant': () => fleet.cancel(id, { tenant: text }),
      redrive: () => fleet.redrive(text),
      'redrive name': () => fleet.redriveMany({ name: text }),
      'redrive tenant': () => fleet.redriveMany({ tenant: text }),
      follow: async () => {
        for await (const _ of fleet.follow(text)) break;
      },
      'follow types': async () => {
        await fleet.cancel(id);
        for await (const _ of fleet.follow(id, { types: [text] })) break;
      },
      'collections get': () => fleet.collections.get(text),
      'collections list': () => fleet.collections.list({ after: text } as never),
      documents: () => fleet.collections.documents(text),
    };
    for (const [what, call] of Object.entries(calls)) await refusedOrFine(what, call);
    expect((await fleet.get(id))?.id).toBe(id);
    expect((await fleet.find({ limit: 100 })).jobs.map((found) => found.id)).toContain(id);
  });

  it('of a handler ends its job, which can be read and redriven', async () => {
    const handlers: [string, (ctx: JobContext) => Promise<unknown>][] = [
      ['result', async () => ({ text, [text]: text })],
      ['event', async (ctx) => ctx.emit({ type: 'said', text, [text]: 1 })],
      ['type of an event', async (ctx) => ctx.emit({ type: text })],
      ['progress', async (ctx) => ctx.progress({ done: 1, message: text })],
      ['checkpoint', async (ctx) => ctx.checkpoint({ [text]: text })],
      ['step', async (ctx) => ctx.keyFor(text)],
      ['log', async (ctx) => ctx.log.info({ [text]: text }, text)],
      ['error', async () => Promise.reject(new Error(text))],
      ['name of an error', async () => Promise.reject(Object.assign(new Error('x'), { name: text }))],
      ['code of an error', async () => Promise.reject(Object.assign(new Error('x'), { code: text }))],
      ['thrown text', async () => Promise.reject(text)],
      ['RetryAfterError', async () => Promise.reject(new RetryAfterError(text, 1))],
      ['completion', async (ctx) => ctx.transaction((trx) => ctx.complete(trx, text))],
    ];
    const runs = new Map<string, number>();
    const jobs = handlers.map(([, run], n) =>
      defineJob({
        name: `says-${n}`,
        input: z.unknown(),
        attempts: 2,
        backoff: { type: 'fixed', delayMs: 0 },
        run: async (_input, ctx) => {
          runs.set(ctx.jobId, (runs.get(ctx.jobId) ?? 0) + 1);
          return run(ctx);
        },
      }),
    );
    const fleet = createTestFleet(file.url, jobs, { tenant: randomUUID() });
    await fleet.work();
    const handles = await Promise.all(jobs.map((job) => fleet.enqueue(job, { text, [text]: text })));
    for (const [n, { id }] of handles.entries()) {
      const message = handlers[n]?.[0] as string;
      const status = async () => (await fleet.get(id))?.status;
      await expect.poll(status, { ...WAIT, message }).toMatch(/^(?:completed|failed)$/);
      expect(runs.get(id), message).toBeLessThanOrEqual(2);
      expect((await fleet.get(id))?.input).toEqual({ text, [text]: text });
      await journalOf(file.db, id);
      const types: string[] = [];
      for await (const { event } of fleet.follow(id)) types.push(event.type);
      expect(types.at(-1), message).toMatch(/^(?:end|error)$/);
      if ((await status()) === 'completed') continue;
      await fleet.redrive(id);
      await expect.poll(status, { ...WAIT, message }).toMatch(/^(?:completed|failed)$/);
    }
    const found = await fleet.find({ limit: 100 });
    expect(found.jobs.map(({ id }) => id).toSorted()).toEqual(handles.map(({ id }) => id).toSorted());
    expect((await fleet.doctor({ lookAgainMs: 0 })).findings).toBeDefined();
  });

  it('in a job of another BullMQ client ends it, and a neighbour runs', async () => {
    const prefix = uniquePrefix();
    const job = defineJob({ name: 'foreign', input: z.unknown(), run: async () => 'done' });
    const fleet = createTestFleet(file.url, [job], { prefix });
    const queue = new Queue('foreign', { connection, prefix });
    onTestFinished(() => queue.close());
    await queue.pause();
    const added: Job[] = [
      await queue.add('foreign', { idempotencyKey: text }),
      await queue.add('foreign', { idempotencyKey: `k-${randomUUID()}`, [text]: text }),
      await queue.add('foreign', text),
      await queue.add('foreign', {}, { jobId: `x${text}` }),
      await queue.add('foreign', {}, { [text]: text } as never),
      await queue.add('foreign', { oncefleet: 1, key: text, tenant: text }, { jobId: randomUUID() }),
      await queue.add('foreign', { oncefleet: 1, key: null, tenant: 'default', jobId: text }),
    ];
    const neighbour = await queue.add('foreign', { idempotencyKey: `n-${randomUUID()}` });
    await queue.resume();
    await fleet.work();
    for (const bull of [...added, neighbour])
      await expect.poll(() => bull.getState(), WAIT).toMatch(/^(?:completed|failed|unknown)$/);
    expect(await neighbour.getState()).toBe('completed');
    expect((await fleet.find({ limit: 100 })).jobs.length).toBeGreaterThan(0);
  });

  it('in a job of a guarded queue ends it, and the processor has it as it was', async () => {
    const prefix = uniquePrefix();
    const names: string[] = [];
    const data: unknown[] = [];
    const guarded = withIdempotency(
      async (job: Job) => {
        names.push(job.name);
        data.push(job.data);
        if ((job.data as { fails?: boolean }).fails === true) throw new Error(text);
        return { text };
      },
      { databaseUrl: file.url, redisUrl: testRedisUrl(), prefix, databasePoolSize: 3 },
    );
    const queue = new Queue('guarded', { connection, prefix });
    const worker = new Worker('guarded', guarded, { connection: { url: testRedisUrl() }, prefix });
    worker.on('error', () => undefined);
    onTestFinished(async () => {
      await worker.close();
      await guarded.close();
      await queue.close();
    });
    const added = [
      await queue.add(text, { n: 1 }),
      await queue.add(text, { n: 2, idempotencyKey: `k-${randomUUID()}` }),
      await queue.add('plain', { [text]: text }),
      // BullMQ alone never finishes one whose id has half of a pair.
      await queue.add('plain', { n: 3 }, { jobId: `y${text.toWellFormed()}` }),
      await queue.add('plain', { n: 4, fails: true }),
      await queue.add(text, { n: 5, fails: true }, { attempts: 2 }),
    ];
    for (const bull of added) await expect.poll(() => bull.getState(), WAIT).toMatch(/^(?:completed|failed)$/);
    for (const bull of added.slice(0, 4)) expect(await bull.getState()).toBe('completed');
    // What BullMQ makes of half a pair is its own.
    const expected = text.isWellFormed() ? text : expect.stringContaining('\ufffd');
    expect(names.filter((name) => name !== 'plain')).toEqual(expect.arrayContaining([expected, expected]));
  });
});

describe('around a processor of a queue', () => {
  it.each<[what: string, queue: string, prefix: string, path: RegExp]>([
    ['with NUL in its name', 'a\u0000b', '', /queue: expected a text without NUL/],
    ['with a name of 600 bytes', 'q'.repeat(600), '', /queue: expected at most 512 bytes, got 600/],
    ['with NUL in its prefix', 'plain', '\u0000', /prefix: expected a text without NUL/],
    ['with a prefix of 3,000 bytes', 'plain', 'p'.repeat(3_000), /prefix: expected at most 512 bytes/],
  ])(
    '%s, a job fails with the path, and is not run',
    async (_what, name, odd, path) => {
      const prefix = `${uniquePrefix()}${odd}`;
      let runs = 0;
      const guarded = withIdempotency(async () => ++runs, {
        databaseUrl: file.url,
        redisUrl: testRedisUrl(),
        prefix: uniquePrefix(),
      });
      const worker = new Worker(name, guarded, { connection: connection.duplicate(), prefix });
      const queue = new Queue(name, { connection, prefix });
      onTestFinished(async () => {
        await worker.close();
        await guarded.close();
        await queue.obliterate({ force: true });
        await queue.close();
      });
      const { id } = await queue.add('work', {});
      const failedReason = async () => (await queue.getJob(id as string))?.failedReason;
      await expect.poll(failedReason, { timeout: 60_000 }).toMatch(path);
      expect(await failedReason()).toContain('INPUT_INVALID');
      expect(runs).toBe(0);
    },
    120_000,
  );
});
