/** The lines that Redis keeps of what a handler logs are bounded in number and in bytes, whatever is logged. */
import { Queue } from 'bullmq';
import { Redis } from 'ioredis';
import pino from 'pino';
import { afterAll, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { defineJob } from '../../src/index.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const file = useDatabase();

const connection = new Redis(testRedisUrl(), { maxRetriesPerRequest: null });
afterAll(() => connection.disconnect());

/** The lines of a job that logs these messages, added by another client with these options. */
async function linesOf(messages: readonly string[], options: string): Promise<string[]> {
  const prefix = uniquePrefix();
  const job = defineJob({
    name: 'talks',
    input: z.object({}),
    async run(_input, ctx) {
      for (const message of messages) ctx.log.info(message);
    },
  });
  const log = pino({ level: 'info' }, { write: () => undefined });
  const fleet = createTestFleet(file.url, [job], { prefix, log });
  const queue = new Queue('talks', { connection, prefix });
  onTestFinished(() => queue.close());
  await queue.pause();
  const { id } = await queue.add('talks', { idempotencyKey: prefix });
  await connection.hset(`${prefix}:talks:${id}`, 'opts', options);
  await queue.resume();
  await fleet.work();
  const last = messages.at(-1) as string;
  let lines: string[] = [];
  // Lines are sent one after the other, and nobody waits for them.
  await expect
    .poll(async () => {
      lines = await connection.lrange(`${prefix}:talks:${id}:logs`, 0, -1);
      return lines.at(-1)?.slice(0, 20);
    })
    .toBe(`info: ${last}`.slice(0, 20));
  return lines;
}

const MANY = Array.from({ length: 1_100 }, (_, i) => `line ${i}`);

it.each([
  ['{}', 200],
  ['{"kl":7}', 7],
  ['{"kl":0}', 200],
  ['{"kl":-5}', 1],
  ['{"kl":1e400}', 1_000],
  ['{"kl":"many"}', 200],
  ['{"kl":"7"}', 7],
  ['{"keepLogs":7}', 7],
])('with the options %s the newest lines are kept: %d', async (options, count) => {
  const lines = await linesOf(MANY, options);
  expect(lines).toHaveLength(count);
  expect(lines.at(-1)).toBe('info: line 1099');
});

it.each([
  ['letters', 'x'.repeat(10_000)],
  ['letters of three bytes', '€'.repeat(10_000)],
  ['pairs', '😀'.repeat(10_000)],
  ['just too many letters', 'é'.repeat(600)],
])('a line is cut to a kibibyte: %s', async (_what, message) => {
  const [line = ''] = await linesOf([message], '{}');
  expect(Buffer.byteLength(line)).toBeLessThanOrEqual(1_024);
  expect(Buffer.byteLength(line)).toBeGreaterThan(1_000);
  expect(line).toMatch(/^info: .+…$/u);
  expect(line).not.toContain('\uFFFD');
});

it('a short line stays as it is', async () => {
  expect(await linesOf(['said €'], '{}')).toEqual(['info: said €']);
});
