import type { Job } from 'bullmq';
import { describe, expect, it, vi } from 'vitest';
import { z } from 'zod';
import { defineJob } from '../../src/index.ts';
import { type Logger, silentLogger } from '../../src/log.ts';
import { UnknownNames } from '../../src/runtime/unknown-names.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();

function stage() {
  const log = { warn: vi.fn(), error: vi.fn() };
  const unknown = new UnknownNames(log as unknown as Logger);
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

  it('runs soon where another worker of its queue knows it, and spends no attempt', async () => {
    const prefix = uniquePrefix();
    const known = defineJob({ name: 'known', queue: 'shared', input: z.object({}), run: async () => 'known' });
    const later = defineJob({ name: 'later', queue: 'shared', input: z.object({}), run: async () => 'later' });
    await createTestFleet(file.url, [known], { prefix, log: silentLogger() }).work();
    const client = createTestFleet(file.url, [known, later], { prefix });
    const handle = await client.enqueue(later, {});
    const queue = client.queues.find(({ name }) => name === 'shared');
    await expect.poll(async () => (await queue?.getJob(handle.id))?.attemptsStarted ?? 0).toBeGreaterThan(0);
    await client.work();
    expect(await handle.result({ timeoutMs: 60_000 })).toBe('later');
    expect(await client.get(handle.id)).toMatchObject({ errorCount: 0, crashCount: 0 });
  });
});
