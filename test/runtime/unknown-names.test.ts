import type { Job, Queue } from 'bullmq';
import { Redis } from 'ioredis';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { z } from 'zod';
import { defineJob } from '../../src/index.ts';
import { type Logger, silentLogger } from '../../src/log.ts';
import type { LeftJob } from '../../src/runtime/control.ts';
import { LeftJobs } from '../../src/runtime/left-jobs.ts';
import { Runtime } from '../../src/runtime/runtime.ts';
import { UnknownNames } from '../../src/runtime/unknown-names.ts';
import { insertJob, rowOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();

function stage() {
  const log = { warn: vi.fn(), error: vi.fn() };
  const leave = vi.fn();
  const unknown = new UnknownNames({ log: log as unknown as Logger, control: { leave } });
  const waits: number[] = [];
  const bounce = async (job: { name?: string; starts: number; ageMs?: number }) => {
    const now = Date.now();
    const delivery = {
      id: '1',
      name: job.name ?? 'later',
      queueName: 'shared',
      attemptsStarted: job.starts,
      timestamp: now - (job.ageMs ?? 0),
      moveToDelayed: async (at: number) => void waits.push(at - now),
    };
    await expect(unknown.leave(delivery as unknown as Job, 't')).rejects.toMatchObject({ name: 'DelayedError' });
  };
  return { log, waits, bounce };
}

describe('a job of a name that a worker does not know', () => {
  it('waits for another worker: a moment at first, never longer than half a minute, and is told of once', async () => {
    const { log, waits, bounce } = stage();
    for (let starts = 1; starts <= 40; starts++) await bounce({ starts });
    expect(waits[0]).toBeLessThan(300);
    expect(Math.max(...waits)).toBeLessThanOrEqual(30_100);
    expect(waits.at(-1)).toBeGreaterThan(20_000);
    expect(log.warn).toHaveBeenCalledOnce();
    await bounce({ name: 'another', starts: 1 });
    expect(log.warn).toHaveBeenCalledTimes(2);
    expect(log.error).not.toHaveBeenCalled();
  });

  it('is an alert after a day, once for its name', async () => {
    const { log, bounce } = stage();
    for (let i = 0; i < 3; i++) await bounce({ starts: 100, ageMs: 25 * 3_600_000 });
    expect(log.error).toHaveBeenCalledExactlyOnceWith(
      expect.objectContaining({ alert: 'job_name_unknown', jobName: 'later', queue: 'shared' }),
      expect.any(String),
    );
  });

  describe('beside a worker that knows it', () => {
    const FAR_MS = 600_000;

    function stageFleets() {
      const prefix = uniquePrefix();
      const known = defineJob({ name: 'known', queue: 'shared', input: z.object({}), run: async () => 'known' });
      const later = defineJob({ name: 'later', queue: 'shared', input: z.object({}), run: async () => 'later' });
      const ignorant = createTestFleet(file.url, [known], { prefix, log: silentLogger() });
      const client = createTestFleet(file.url, [known, later], { prefix });
      const queue = client.queues.find(({ name }) => name === 'shared') as Queue;
      return { prefix, ignorant, client, known, later, queue };
    }

    it('runs, also where that worker comes when it waits for long, and spends no attempt', async () => {
      const { ignorant, client, later, queue } = stageFleets();
      await ignorant.work();
      const handle = await client.enqueue(later, {});
      const isLeft = async () => (await queue.getJob(handle.id))?.attemptsStarted ?? 0;
      await expect.poll(isLeft, { timeout: 10_000 }).toBeGreaterThan(0);
      // As after many such pauses.
      const delay = async () =>
        (await queue.getJob(handle.id))?.changeDelay(FAR_MS).then(
          () => true,
          () => false,
        );
      await expect.poll(delay, { timeout: 10_000 }).toBe(true);
      await client.work();
      expect(await handle.result({ timeoutMs: 30_000 })).toBe('later');
      expect(await client.get(handle.id)).toMatchObject({ errorCount: 0, crashCount: 0 });
    });

    it('runs when another worker leaves it', async () => {
      const { prefix, client, later, queue } = stageFleets();
      await client.work();
      const id = await insertJob(file.db, { name: later.name, queue: 'shared' });
      await queue.add(later.name, { oncefleet: 1, key: null }, { jobId: id, delay: FAR_MS });
      const runtime = new Runtime({ databaseUrl: file.url, redisUrl: testRedisUrl(), prefix });
      onTestFinished(() => runtime.close());
      const isDone = async () => {
        runtime.control.leave({ queue: 'shared', name: later.name, id });
        return (await rowOf(file.db, id)).status;
      };
      await expect.poll(isDone, { timeout: 20_000 }).toBe('completed');
    });

    it('waits for its backoff all the same', async () => {
      const { client, known, later, queue } = stageFleets();
      const id = await insertJob(file.db, { name: later.name, queue: 'shared', delayMs: FAR_MS });
      const bull = await queue.add(later.name, { oncefleet: 1, key: null }, { jobId: id, delay: FAR_MS });
      const redis = new Redis(testRedisUrl());
      onTestFinished(() => redis.disconnect());
      // As BullMQ has a job that was tried before.
      await redis.hset(queue.toKey(id), 'ats', 1);
      await client.work();
      await (await client.enqueue(known, {})).result({ timeoutMs: 20_000 });
      expect(await bull.getState()).toBe('delayed');
    });
  });
});

describe('jobs that were left', () => {
  function stageLeft(hasRoom: boolean) {
    let leave: (job: LeftJob) => void = () => undefined;
    const promote = vi.fn(async (_queue: unknown, ids: readonly string[]) => ids.length);
    const runtime = {
      log: silentLogger(),
      db: { kysely: file.db },
      control: {
        listenForLeft(listener: typeof leave) {
          leave = listener;
          return () => undefined;
        },
      },
      dispatcher: { promote, queue: () => ({ getDelayed: async () => [] }) },
    } as unknown as Runtime;
    const left = new LeftJobs({
      runtime,
      names: new Set(['job']),
      queues: new Set(['job']),
      hasRoom: () => hasRoom,
    });
    left.start();
    onTestFinished(() => left.close());
    return { leave: (id: string) => leave({ queue: 'job', name: 'job', id }), promote };
  }

  it('are promoted together, as many as the bound allows, however many are left at once', async () => {
    const ids = await Promise.all(Array.from({ length: 1_200 }, () => insertJob(file.db)));
    const { leave, promote } = stageLeft(true);
    for (const id of ids) leave(id);
    await expect.poll(() => promote.mock.calls.length).toBe(1);
    expect(promote.mock.calls[0]?.[1]).toHaveLength(1_000);
  });

  it('are left where they are by a worker without room', async () => {
    const busy = stageLeft(false);
    const idle = stageLeft(true);
    const id = await insertJob(file.db);
    busy.leave(id);
    idle.leave(id);
    // By then the other one has had its turn too.
    await expect.poll(() => idle.promote.mock.calls.length).toBe(1);
    expect(busy.promote).not.toHaveBeenCalled();
  });
});
