/** What a follower leaves behind, and how it ends. */
import { getEventListeners } from 'node:events';
import { setImmediate as turn } from 'node:timers/promises';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { Following, StreamEvent } from '../../src/index.ts';
import { insertJob, useDatabase } from '../helpers/fixtures.ts';
import { startTestRedis } from '../helpers/services.ts';
import { type Stage, stage as stageOn, upTo } from './stage.ts';

const file = useDatabase();
const stage = (options: Parameters<typeof stageOn>[1] = {}) => stageOn(file, options);

const follow = (s: Stage, options: { after?: number; signal?: AbortSignal; types?: string[] } = {}): Following =>
  s.followers.follow({ streamId: s.id, tenant: 'default', after: -1, ...options });

async function subscribedChannels(s: Stage): Promise<string[]> {
  return (await s.publisher.pubsub('CHANNELS', `${s.prefix}:*`)) as string[];
}

const timers = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;

describe('a thousand followers that come and go', () => {
  it.each([
    ['by their signal', 'abort'],
    ['by return() while they wait', 'return'],
    ['by a break after an event', 'break'],
  ])('leave no subscription, listener or timer behind: %s', async (_name, how) => {
    const s = await stage();
    await s.append(s.batch(0, 1));
    const others = await Promise.all(Array.from({ length: 9 }, () => insertJob(file.db)));
    const ids = [s.id, ...others];
    // What lives as long as the hub does, and no listener of a connection that is being made.
    await follow(s).return();
    await expect.poll(() => s.subscriber.status).toBe('ready');
    await turn();
    const listeners = () => s.subscriber.eventNames().map((name) => [name, s.subscriber.listenerCount(name)]);
    const before = { listeners: listeners(), timers: timers() };
    const controller = new AbortController();
    for (let round = 0; round < 10; round++) {
      const cycles = Array.from({ length: 100 }, async (_, i) => {
        const own = new AbortController();
        const signal = how === 'abort' ? own.signal : controller.signal;
        const streamId = how === 'break' ? s.id : (ids[i % ids.length] as string);
        const following = s.followers.follow({ streamId, tenant: 'default', after: -1, signal });
        if (how === 'break') {
          for await (const event of following) if (event.seq === 0) break;
          return;
        }
        if (streamId === s.id) await following.next();
        const waiting = following.next();
        await expect.poll(() => s.hub.isLive(streamId)).toBe(true);
        if (how === 'abort') {
          own.abort(new Error('enough'));
          await expect(waiting).rejects.toThrow('enough');
          expect(getEventListeners(signal, 'abort')).toEqual([]);
        } else {
          await following.return();
          expect(await waiting).toEqual({ done: true, value: undefined });
        }
      });
      await Promise.all(cycles);
    }
    expect(s.hub.size).toBe(0);
    await expect.poll(() => subscribedChannels(s)).toEqual([]);
    expect(getEventListeners(controller.signal, 'abort')).toEqual([]);
    await turn();
    expect(listeners()).toEqual(before.listeners);
    // The pool has a timer for each idle connection; a leak would have a thousand.
    expect(timers()).toBeLessThan(before.timers + 50);
  });

  it('share one subscription of their stream, which the last of them ends', async () => {
    const s = await stage();
    const followings = Array.from({ length: 1_000 }, () => follow(s));
    const reading = followings.map(async (following) => {
      const events: StreamEvent[] = [];
      for await (const event of following) events.push(event);
      return events.length;
    });
    await s.live();
    // Its own, and the one where the ends of all eventless jobs are told.
    expect(await subscribedChannels(s)).toHaveLength(2);
    const [, subscribers] = (await s.publisher.pubsub('NUMSUB', `${s.prefix}:stream:${s.id}`)) as [string, number];
    expect(subscribers).toBe(1);
    await s.append(s.batch(0, 3));
    await s.publish(s.batch(0, 3));
    await s.publish(await s.end(3), true);
    expect(new Set(await Promise.all(reading))).toEqual(new Set([4]));
    await expect.poll(() => subscribedChannels(s)).toEqual([]);
  });
});

it('a follower that leaves takes nothing from another of its stream', async () => {
  const s = await stage();
  const leaving = follow(s);
  const following = s.follow();
  const first = leaving.next();
  await s.live();
  await s.append(s.batch(0, 1));
  await s.publish(s.batch(0, 1));
  expect((await first).value?.seq).toBe(0);
  await expect.poll(s.seqs).toEqual([0]);
  await leaving.return();
  expect(await subscribedChannels(s)).toContain(`${s.prefix}:stream:${s.id}`);
  // Only its message can bring this one: the next look at the head is a minute away.
  await s.append(s.batch(1, 1));
  await s.publish(s.batch(1, 1));
  await expect.poll(s.seqs).toEqual([0, 1]);
  await s.publish(await s.end(2), true);
  await following;
});

describe('a follower', () => {
  it('that returns before its first event was never there', async () => {
    const s = await stage();
    const following = follow(s);
    expect(await following.return()).toEqual({ done: true, value: undefined });
    expect(await following.next()).toEqual({ done: true, value: undefined });
    expect(s.hub.size).toBe(0);
  });

  it('asked several times at once answers in order, a batch after the other', async () => {
    const s = await stage();
    for (let i = 0; i < 9; i += 3) await s.append(s.batch(i, 3));
    await s.end(9);
    const following = follow(s);
    const steps = await Promise.all(Array.from({ length: 12 }, () => following.next()));
    expect(steps.map((step) => step.value?.seq)).toEqual([...upTo(10), undefined, undefined]);
  });

  it('aborted in the middle of a batch throws the reason, and is over', async () => {
    const s = await stage();
    await s.append(s.batch(0, 3));
    const controller = new AbortController();
    const following = follow(s, { signal: controller.signal });
    expect((await following.next()).value?.seq).toBe(0);
    controller.abort(new Error('enough'));
    await expect(following.next()).rejects.toThrow('enough');
    expect(await following.next()).toEqual({ done: true, value: undefined });
    expect(s.hub.size).toBe(0);
  });

  it('of some types alone moves its cursor past the others', async () => {
    const s = await stage();
    const events = ['{"type":"a"}', '{"type":"b"}', '{"type":"a"}', '{"type":"b"}', '{"type":"b"}'];
    await s.append({ ...s.batch(0, 5), events });
    const following = follow(s, { types: ['a'] });
    expect((await following.next()).value?.seq).toBe(0);
    expect(following.cursor).toBe(0);
    expect((await following.next()).value?.seq).toBe(2);
    const waiting = following.next();
    await expect.poll(() => following.cursor).toBe(4);
    await following.return();
    await waiting;
    const batch = { ...s.batch(5, 1), events: ['{"type":"a"}'] };
    await s.append(batch);
    await s.end(6);
    const rest: number[] = [];
    const later = follow(s, { after: following.cursor as number, types: ['a'] });
    for await (const event of later) rest.push(event.seq);
    expect(rest).toEqual([5]);
    expect(later.cursor).toBe(6);
  });

  it('that comes after the end reads the whole stream and ends', async () => {
    const s = await stage();
    await s.append(s.batch(0, 100));
    await s.end(100);
    const seqs: number[] = [];
    for await (const event of follow(s)) seqs.push(event.seq);
    expect(seqs).toEqual(upTo(101));
  });

  it('reads on from Postgres when what it hears is no event', async () => {
    const s = await stage();
    const following = s.follow();
    await s.live();
    await s.append(s.batch(0, 2));
    await s.say('{"first":0,"last":1,"fence":1,"end":false}\n{"type":"n","i":0}\nnot json');
    await expect.poll(s.seqs).toEqual(upTo(2));
    for (const text of ['', 'nonsense', '{"first":0}', '[1,2]', '{"first":9,"last":9,"fence":9,"end":true}\n3']) {
      await s.say(text);
    }
    await s.append(s.batch(2, 1));
    await s.publish(s.batch(2, 1));
    await expect.poll(s.seqs).toEqual(upTo(3));
    await s.publish(await s.end(3), true);
    await following;
    expect(s.seen.map(({ event }) => (event as { i?: number }).i)).toEqual([0, 1, 2, undefined]);
  });

  it('goes on from Postgres while Redis is down, and by the live bus when it is back', async () => {
    const own = await startTestRedis();
    onTestFinished(() => own.stop());
    const s = await stage({ redisUrl: own.redis.url, pollMs: 20 });
    await s.append(s.batch(0, 1));
    const following = s.follow();
    await s.live();
    await expect.poll(s.seqs).toEqual(upTo(1));
    await own.redis.stop('SIGKILL');
    await s.append(s.batch(1, 2));
    await expect.poll(s.seqs).toEqual(upTo(3));
    await own.redis.start();
    await expect.poll(() => s.hub.isLive(s.id), { timeout: 10_000 }).toBe(true);
    await expect.poll(() => s.publisher.status, { timeout: 10_000 }).toBe('ready');
    // Only its message can bring this one: the next look at the head is a minute away.
    await s.append(s.batch(3, 1));
    await s.publish(s.batch(3, 1));
    await expect.poll(s.seqs).toEqual(upTo(4));
    await s.publish(await s.end(4), true);
    await following;
  });
});
