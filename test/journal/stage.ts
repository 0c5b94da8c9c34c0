/** A stream, its journal and its live bus, written and told separately, and followers of it. */
import { Redis } from 'ioredis';
import { expect, onTestFinished } from 'vitest';
import type { NewJob } from '../../src/db/jobs/insert.ts';
import { type Settlement, settleJobs } from '../../src/db/jobs/settle.ts';
import { appendBatches, type EventBatch } from '../../src/db/streams/segments.ts';
import type { Cursor, StreamEvent } from '../../src/index.ts';
import { ChannelHub, streamChannel } from '../../src/journal/channel.ts';
import { type FollowerOptions, Followers } from '../../src/journal/follower.ts';
import { type Announcement, encodeBatchMessage } from '../../src/journal/message.ts';
import { LiveKey, sealBatch } from '../../src/journal/seal.ts';
import { silentLogger } from '../../src/log.ts';
import { claimFree, insertJob, type useDatabase } from '../helpers/fixtures.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';

export type Stage = Awaited<ReturnType<typeof stage>>;

export const upTo = (n: number) => Array.from({ length: n }, (_, i) => i);

/** The options of a job whose events are published before they are committed. */
export const IMMEDIATE: Partial<NewJob> = {
  options: { priority: 0, attempts: 3, backoff: { type: 'fixed', delayMs: 0 }, publish: 'immediate' },
};

/** Followers on a hub of their own, and hands to write and publish separately. */
export async function stage(
  file: ReturnType<typeof useDatabase>,
  {
    job = {},
    redisUrl = testRedisUrl(),
    ...options
  }: Partial<FollowerOptions> & { job?: Partial<NewJob>; redisUrl?: string } = {},
) {
  const prefix = uniquePrefix();
  const subscriber = new Redis(redisUrl, { autoResubscribe: false, maxRetriesPerRequest: null });
  const publisher = new Redis(redisUrl);
  for (const redis of [subscriber, publisher]) redis.on('error', () => undefined);
  const key = new LiveKey(file.db);
  const hub = new ChannelHub({ redis: subscriber, key, prefix, log: silentLogger() });
  onTestFinished(() => {
    subscriber.disconnect();
    publisher.disconnect();
  });
  const followers = new Followers({ db: file.db, hub, log: silentLogger(), headCheckMs: 60_000, ...options });
  const secret = await key.load();
  const id = await insertJob(file.db, job);
  await claimFree(file.db, id);
  const seen: StreamEvent[] = [];
  const controller = new AbortController();
  /** As a process of the fleet publishes it. */
  const sealed = (text: string) => sealBatch(secret, streamChannel(prefix, id), text);
  const message = (batch: EventBatch, end = false, form?: Announcement['form']) =>
    sealed(encodeBatchMessage(batch, end, form));
  return {
    id,
    hub,
    key,
    message,
    subscriber,
    seen,
    controller,
    follow(after: Cursor = -1) {
      return (async () => {
        for await (const event of followers.follow({
          streamId: id,
          tenant: 'default',
          after,
          signal: controller.signal,
        }))
          seen.push(event);
      })();
    },
    followers,
    async live() {
      await expect.poll(() => hub.isLive(id)).toBe(true);
    },
    batch: (firstSeq: number, count: number, fence = 1): EventBatch => ({
      streamId: id,
      fence,
      firstSeq,
      events: Array.from({ length: count }, (_, i) => JSON.stringify({ type: 'n', i: firstSeq + i })),
    }),
    append: async (batch: EventBatch) => expect(await appendBatches(file.db, [batch])).toHaveProperty('size', 1),
    publish: (batch: EventBatch, end = false, form?: Announcement['form']) =>
      publisher.publish(streamChannel(prefix, id), message(batch, end, form)),
    /** Anything at all on the stream's channel, by whoever can read the key. */
    say: (text: string) => publisher.publish(streamChannel(prefix, id), sealed(text)),
    /** The same by whoever cannot. */
    forge: (text: string) => publisher.publish(streamChannel(prefix, id), text),
    async end(firstSeq: number, fence = 1) {
      const batch = { streamId: id, fence, firstSeq, events: ['{"type":"end"}'] };
      const settlement: Settlement = {
        id,
        fence,
        status: 'completed',
        outcome: 'completed',
        result: null,
        error: null,
        resultTtlMs: 1_000,
        delayMs: 0,
        delivery: 0,
        batch,
      };
      expect(await settleJobs(file.db, [settlement])).toHaveProperty('size', 1);
      return batch;
    },
    prefix,
    publisher,
    seqs: () => seen.map((event) => event.seq),
  };
}
