import { Redis } from 'ioredis';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { z } from 'zod';
import { settleJobs } from '../../src/db/jobs/settle.ts';
import type { EventBatch } from '../../src/db/streams/segments.ts';
import { defineJob, type StreamEvent } from '../../src/index.ts';
import type { FollowedBatch } from '../../src/journal/batches.ts';
import { Publisher } from '../../src/journal/publisher.ts';
import { silentLogger } from '../../src/log.ts';
import { uuidV7 } from '../../src/util/uuid.ts';
import { journalOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { testRedisUrl } from '../helpers/services.ts';
import { type Stage, stage as stageOn, upTo } from './stage.ts';

const file = useDatabase();

const stage = (options: Parameters<typeof stageOn>[1] = {}) => stageOn(file, options);

/** Makes Redis slow to confirm subscriptions, until the returned function is called. */
async function holdSubscription(s: Stage): Promise<() => void> {
  await expect.poll(() => s.hub.connected).toBe(true);
  const confirmed = Promise.withResolvers<void>();
  const subscribe = s.subscriber.subscribe.bind(s.subscriber) as (...channels: string[]) => Promise<number>;
  vi.spyOn(s.subscriber, 'subscribe').mockImplementation((async (...channels: string[]) => {
    await confirmed.promise;
    return subscribe(...channels);
  }) as never);
  return confirmed.resolve;
}

describe('a follower', () => {
  it('reads the snapshot, then the tail, and ends after the terminal event', async () => {
    const s = await stage();
    await s.append(s.batch(0, 3));
    const following = s.follow();
    await expect.poll(s.seqs).toEqual([0, 1, 2]);
    await s.append(s.batch(3, 2));
    await s.publish(s.batch(3, 2));
    await expect.poll(s.seqs).toEqual(upTo(5));
    await s.publish(await s.end(5), true);
    await following;
    expect(s.seqs()).toEqual(upTo(6));
    expect(s.hub.size).toBe(0);
  });

  it('of an eventless job hears of its end on the channel of all endings', async () => {
    const s = await stage();
    const following = s.follow();
    await s.live();
    const settlement = {
      id: s.id,
      fence: 1,
      status: 'completed',
      outcome: 'completed',
      result: '7',
      error: null,
    } as const;
    await settleJobs(file.db, [{ ...settlement, resultTtlMs: 1_000, delayMs: 0, delivery: 0, batch: undefined }]);
    const publisher = new Publisher({ redis: s.publisher, key: s.key, prefix: s.prefix, log: silentLogger() });
    publisher.publishEndings([uuidV7(), s.id, uuidV7()]);
    await following;
    expect(s.seen.map(({ event }) => event)).toEqual([{ type: 'end', result: 7 }]);
  });

  it('starts after its cursor', async () => {
    const s = await stage();
    await s.append(s.batch(0, 5));
    await s.end(5);
    await s.follow(2);
    expect(s.seqs()).toEqual([3, 4, 5]);
  });

  it('drops messages it has seen, whole and in part', async () => {
    const s = await stage();
    const following = s.follow();
    await s.live();
    await s.append(s.batch(0, 4));
    await s.publish(s.batch(0, 4));
    await s.publish(s.batch(0, 4));
    await s.publish(s.batch(1, 2));
    await s.append(s.batch(4, 2));
    await s.publish({ ...s.batch(2, 4) });
    await expect.poll(s.seqs).toEqual(upTo(6));
    await s.publish(await s.end(6), true);
    await following;
    expect(s.seqs()).toEqual(upTo(7));
  });

  it('fills a gap from Postgres and never skips it', async () => {
    const s = await stage();
    const following = s.follow();
    await s.live();
    await s.append(s.batch(0, 3));
    await s.append(s.batch(3, 3));
    await s.publish(s.batch(3, 3));
    await expect.poll(s.seqs).toEqual(upTo(6));
    await s.publish(await s.end(6), true);
    await following;
    expect(s.seqs()).toEqual(upTo(7));
  });

  it('finds a missed publish by its head check', async () => {
    const s = await stage({ headCheckMs: 30 });
    const following = s.follow();
    await s.live();
    await s.append(s.batch(0, 3));
    await s.end(3);
    await following;
    expect(s.seqs()).toEqual(upTo(4));
  });

  it('reads what a message only points at', async () => {
    const s = await stage();
    const following = s.follow();
    await s.live();
    const batch = { ...s.batch(0, 1), events: [JSON.stringify({ type: 'n', text: 'x'.repeat(300_000) })] };
    await s.append(batch);
    await s.publish(batch);
    await expect.poll(s.seqs).toEqual([0]);
    expect(s.seen[0]?.json).toBe(batch.events[0]);
    await s.publish(await s.end(1), true);
    await following;
  });

  it('with no Redis at all polls Postgres', async () => {
    const s = await stage({ pollMs: 20 });
    s.subscriber.disconnect();
    const following = s.follow();
    await s.append(s.batch(0, 3));
    await expect.poll(s.seqs).toEqual(upTo(3));
    await s.end(3);
    await following;
    expect(s.seqs()).toEqual(upTo(4));
  });

  it('polls from the moment Redis goes away for good', async () => {
    const s = await stage({ pollMs: 20 });
    await s.append(s.batch(0, 1));
    const following = s.follow();
    await s.live();
    await expect.poll(s.seqs).toEqual([0]);
    s.subscriber.disconnect();
    await s.append(s.batch(1, 2));
    await expect.poll(s.seqs).toEqual(upTo(3));
    await s.end(3);
    await following;
  });

  it('reads the snapshot only when its subscription stands', async () => {
    const s = await stage();
    const confirm = await holdSubscription(s);
    const state = vi.spyOn(s.followers, 'state');
    const following = s.follow();
    for (let i = 0; i < 5; i++) await file.pool.query('select 1');
    expect(state).not.toHaveBeenCalled();
    // Committed before the subscription stands, and published to nobody.
    await s.append(s.batch(0, 2));
    confirm();
    await expect.poll(s.seqs).toEqual([0, 1]);
    await s.publish(await s.end(2), true);
    await following;
  });

  it('whose subscription is confirmed late looks at the head then', async () => {
    const s = await stage({ pollMs: 60_000 });
    const confirm = await holdSubscription(s);
    const state = vi.spyOn(s.followers, 'state');
    const following = s.follow();
    // It waits a second for Redis, then reads without.
    await expect.poll(() => state.mock.settledResults[0]?.type).toBe('fulfilled');
    await s.append(s.batch(0, 2));
    confirm();
    await expect.poll(s.seqs).toEqual([0, 1]);
    await s.publish(await s.end(2), true);
    await following;
  });

  it('does not forget a gap that opens while it reads the head', async () => {
    const s = await stage({ maxInboxLength: 150 });
    const reading = Promise.withResolvers<void>();
    const held = Promise.withResolvers<void>();
    const heard: number[] = [];
    const read = s.followers.state.bind(s.followers);
    let hold = false;
    vi.spyOn(s.followers, 'state').mockImplementation(async (...args) => {
      const state = await read(...args);
      if (hold) {
        reading.resolve();
        await held.promise;
      }
      return state;
    });
    await s.append(s.batch(0, 1));
    const following = s.follow();
    await s.live();
    await expect.poll(s.seqs).toEqual([0]);
    onTestFinished(s.hub.subscribe(s.id, { onBatch: (batch) => heard.push(batch.lastSeq), onGap: () => undefined }));
    hold = true;
    // A hint that nothing stands behind yet: the head that it makes the follower read is the old one.
    await s.publish(s.batch(2, 1));
    await reading.promise;
    hold = false;
    // Together they are too much for the inbox.
    for (const batch of [s.batch(1, 1), s.batch(2, 1)]) {
      await s.append(batch);
      await s.publish(batch);
    }
    await expect.poll(() => heard).toEqual([2, 1, 2]);
    held.resolve();
    await expect.poll(s.seqs).toEqual(upTo(3));
    await s.publish(await s.end(3), true);
    await following;
  });

  it('ends at once when it read the terminal event before it knew that the stream was closed', async () => {
    const s = await stage();
    await s.append(s.batch(0, 1));
    const read = s.followers.state.bind(s.followers);
    let ended: EventBatch | undefined;
    vi.spyOn(s.followers, 'state').mockImplementation(async (...args) => {
      const state = await read(...args);
      if (ended === undefined) {
        await s.append(s.batch(1, 1));
        ended = await s.end(2);
      }
      return state;
    });
    const following = s.follow();
    await expect.poll(s.seqs).toEqual(upTo(3));
    // The next look at the head by itself is a minute away.
    await s.publish(ended as unknown as EventBatch, true);
    await following;
  });

  it('is not ended by a terminal message it has seen, from before a redrive', async () => {
    const s = await stage();
    await s.append(s.batch(0, 3));
    const following = s.follow();
    await s.live();
    await expect.poll(s.seqs).toEqual(upTo(3));
    await s.publish(s.batch(2, 1), true);
    await s.append(s.batch(3, 2));
    await s.publish(s.batch(3, 2));
    await expect.poll(s.seqs).toEqual(upTo(5));
    await s.publish(await s.end(5), true);
    await following;
  });

  it('catches up after its Redis connection was cut', async () => {
    const s = await stage();
    const following = s.follow();
    await s.live();
    const killer = new Redis(testRedisUrl());
    onTestFinished(() => killer.disconnect());
    await killer.client('KILL', 'ID', await s.subscriber.client('ID'));
    await s.append(s.batch(0, 2));
    await expect.poll(s.seqs).toEqual(upTo(2));
    await s.live();
    await s.publish(await s.end(2), true);
    await following;
  });

  it('whose reader is slow keeps bounded memory and still reads everything', async () => {
    const s = await stage({ maxInboxLength: 2_000 });
    const reader = s.followers.follow({ streamId: s.id, tenant: 'default', after: -1 });
    await s.append(s.batch(0, 1));
    expect((await reader.next()).value?.seq).toBe(0);
    for (let i = 1; i < 200; i++) {
      await s.append(s.batch(i, 1));
      await s.publish(s.batch(i, 1));
    }
    await s.publish(await s.end(200), true);
    const seqs: number[] = [0];
    for await (const event of reader) seqs.push(event.seq);
    expect(seqs).toEqual(upTo(201));
  });

  it('whose reader is slow keeps no more messages than its inbox holds', async () => {
    const s = await stage({ maxInboxLength: 2_000 });
    const reader = s.followers.follow({ streamId: s.id, tenant: 'default', after: -1 });
    await s.append(s.batch(0, 1));
    expect((await reader.next()).value?.seq).toBe(0);
    let heard = 0;
    onTestFinished(s.hub.subscribe(s.id, { onBatch: () => heard++, onGap: () => undefined }));
    for (let i = 1; i < 200; i++) {
      await s.append(s.batch(i, 1));
      // Marked, so that what came from a message differs from what came from Postgres.
      await s.publish({ ...s.batch(i, 1), events: ['{"type":"live"}'] });
    }
    await s.publish(await s.end(200), true);
    await expect.poll(() => heard).toBe(200);
    const types: string[] = [];
    for await (const { event } of reader) types.push(event.type);
    expect(types).toHaveLength(200);
    expect(types.filter((type) => type === 'live').length).toBeLessThanOrEqual(20);
  });

  it('whose process has no room keeps no live messages, and reads them from the journal', async () => {
    const KIB = 1024;
    const s = await stage();
    let room = true;
    const asked: number[] = [];
    const keep = (length: number) => {
      asked.push(length / KIB);
      return room || length === 0;
    };
    const reader = s.followers.followBatches({ streamId: s.id, tenant: 'default', after: -1, keep });
    const seen: string[] = [];
    const read = async () => {
      const { value } = await reader.next();
      for (const { event } of value ?? []) seen.push(event.type);
    };
    await s.append(s.batch(0, 1));
    await read();
    let heard = 0;
    onTestFinished(s.hub.subscribe(s.id, { onBatch: () => heard++, onGap: () => undefined }));
    const say = async (seq: number) => {
      await s.append(s.batch(seq, 1));
      await s.publish({ ...s.batch(seq, 1), events: [`{"type":"live","text":"${'x'.repeat(40 * KIB)}"}`] });
      await expect.poll(() => heard).toBe(seq);
    };
    for (let seq = 1; seq <= 4; seq++) await say(seq);
    // Of 160 KiB, two steps.
    expect(asked).toEqual([64, 128]);
    await read();
    await read();
    expect(asked).toEqual([64, 128, 64]);
    room = false;
    for (let seq = 5; seq <= 6; seq++) await say(seq);
    expect(asked).toEqual([64, 128, 64, 128, 0]);
    await s.publish(await s.end(7), true);
    while (seen.length < 8) await read();
    expect(seen.slice(0, 3)).toEqual(['n', 'live', 'live']);
    expect(seen.slice(3)).not.toContain('live');
    await reader.return();
  });

  it('stops with its signal and leaves no subscription behind', async () => {
    const s = await stage();
    const following = s.follow();
    await s.live();
    s.controller.abort(new Error('enough'));
    await expect(following).rejects.toThrow('enough');
    expect(s.hub.size).toBe(0);
  });

  it.each([
    ['beyond the end of an open stream', 7],
    ['below -1', -2],
    ['that is no integer', 1.5],
  ])('refuses a cursor %s', async (_name, after) => {
    const s = await stage();
    await s.append(s.batch(0, 3));
    await expect(s.follow(after)).rejects.toMatchObject({ code: 'CURSOR_INVALID' });
  });

  it.each([
    ['types: a string', { types: 'delta' }, 'types: expected an array'],
    ['types: a number in it', { types: ['delta', 7] }, 'types[1]: '],
    ['types: an empty one', { types: [''] }, 'types[0]: '],
    ['committed: a string', { committed: 'false' }, 'committed: '],
    ['signal: a controller', { signal: new AbortController() }, 'signal: '],
    ['a name that is none', { type: ['delta'] }, 'type: is not an option; did you mean types?'],
  ])('is refused options that would give other events than asked for: %s', async (_name, options, message) => {
    const job = defineJob({ name: 'followed', input: z.object({}), run: () => undefined });
    const fleet = createTestFleet(file.url, [job]);
    const handle = await fleet.enqueue(job, {});
    for (const following of [fleet.follow(handle.id, options as never), handle.events(options as never)]) {
      await expect(following.next()).rejects.toMatchObject({
        code: 'INPUT_INVALID',
        message: expect.stringContaining(message),
      });
    }
  });

  it('of batches may skip what another has read: both are given every event once, and what is none by the journal', async () => {
    const s = await stage();
    const made = new Map<object, number>();
    const skipped: number[] = [];
    const reading = Array.from({ length: 3 }, async () => {
      const seqs: number[] = [];
      let next = 0;
      for await (const batch of s.followers.followBatches({ streamId: s.id, tenant: 'default', after: -1 })) {
        // Gone once the batch is taken.
        const { source } = batch;
        const count = source && made.get(source);
        if (count !== undefined) {
          batch.skip(count);
          skipped.push(count);
          for (let i = 0; i < count; i++) seqs.push(next + i);
        } else {
          const before = seqs.length;
          for (const { seq } of batch) seqs.push(seq);
          if (source !== undefined) made.set(source, seqs.length - before);
        }
        next = seqs.length;
      }
      return seqs;
    });
    await s.live();
    for (let i = 0; i < 9; i += 3) {
      await s.append(s.batch(i, 3));
      const batch = s.batch(i, 3);
      // Of the second message the last event is none, of the third the first.
      const events = [...batch.events];
      if (i > 0) events[i === 3 ? 2 : 0] = 'null';
      await s.publish({ ...batch, events });
    }
    await s.publish(await s.end(9), true);
    expect(await Promise.all(reading)).toEqual([upTo(10), upTo(10), upTo(10)]);
    expect(skipped).toContain(3);
  });

  it('of batches that takes a part of one is given the rest, read or live', async () => {
    const s = await stage();
    await s.append(s.batch(0, 3));
    await s.append(s.batch(3, 2));
    const seqs: number[] = [];
    const reading = (async () => {
      for await (const batch of s.followers.followBatches({ streamId: s.id, tenant: 'default', after: -1 })) {
        for (const { seq } of batch) {
          seqs.push(seq);
          break;
        }
      }
    })();
    await expect.poll(() => seqs).toEqual(upTo(5));
    await s.live();
    await s.append(s.batch(5, 3));
    await s.publish(s.batch(5, 3));
    await s.publish(await s.end(8), true);
    await reading;
    expect(seqs).toEqual(upTo(9));
  });

  it.each<[string, (batch: FollowedBatch) => void]>([
    ['looks at none of them', () => undefined],
    ['skips none of one', (batch) => batch.skip(0)],
    ['asks for an iterator and leaves it', (batch) => void batch[Symbol.iterator]()],
  ])('of batches that %s passes over them, read or live, and ends', async (_, leave) => {
    const s = await stage();
    await s.append(s.batch(0, 3));
    await s.append(s.batch(3, 2));
    let batches = 0;
    const reading = (async () => {
      for await (const batch of s.followers.followBatches({ streamId: s.id, tenant: 'default', after: -1 })) {
        batches++;
        leave(batch);
      }
    })();
    await expect.poll(() => batches).toBeGreaterThan(0);
    await s.live();
    const before = batches;
    await s.append(s.batch(5, 3));
    await s.publish(s.batch(5, 3));
    await expect.poll(() => batches).toBeGreaterThan(before);
    await s.publish(await s.end(8), true);
    await reading;
    // A live batch of which none is skipped is read from the journal once more.
    expect(batches - before).toBeLessThanOrEqual(4);
  });

  it('of batches that skips more than there is misses nothing that comes later', async () => {
    const s = await stage();
    await s.append(s.batch(0, 3));
    const seen: number[] = [];
    const reading = (async () => {
      for await (const batch of s.followers.followBatches({ streamId: s.id, tenant: 'default', after: -1 })) {
        if (seen.length < 2) batch.skip(Number.POSITIVE_INFINITY);
        seen.push(...[...batch].map(({ seq }) => seq));
        if (seen.length === 0) seen.push(-1);
        else if (seen.length === 1) seen.push(-2);
      }
    })();
    await s.live();
    await s.append(s.batch(3, 2));
    await s.publish(s.batch(3, 2));
    await expect.poll(() => seen).toEqual([-1, -2]);
    await s.append(s.batch(5, 2));
    await s.publish(s.batch(5, 2));
    await s.publish(await s.end(7), true);
    await reading;
    expect(seen).toEqual([-1, -2, 5, 6, 7]);
  });

  it('gives nothing after it was left, though it was asked before', async () => {
    const s = await stage();
    await s.append(s.batch(0, 3));
    const follower = s.followers.follow({ streamId: s.id, tenant: 'default', after: -1 });
    const asked = follower.next();
    await follower.return();
    expect(await asked).toMatchObject({ done: true });
    expect(await follower.next()).toMatchObject({ done: true });
    expect(follower.cursor).toBe(-1);
  });

  it('of a job that never emitted reads the terminal event from its row', async () => {
    const job = defineJob({ name: 'silent', input: z.object({}), run: async () => ({ ok: true }) });
    const fleet = createTestFleet(file.url, [job]);
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    await handle.result({ timeoutMs: 10_000 });
    const events: StreamEvent[] = [];
    for await (const event of handle.events()) events.push(event);
    expect(events).toMatchObject([{ seq: 0, event: { type: 'end', result: { ok: true } } }]);
    expect(await journalOf(file.db, handle.id)).toEqual([]);
    expect(await fleet.readEvents(handle.id, { after: 0 })).toMatchObject({ events: [], finished: true });
  });

  it('reconnecting at every seq, in any pieces, reads what the journal holds', async () => {
    const s = await stage();
    for (let i = 0; i < 12; i += 3) await s.append(s.batch(i, 3));
    await s.end(12);
    const whole = (await journalOf(file.db, s.id)).map(({ event }) => JSON.stringify(event));
    for (let after = -1; after <= 12; after++) {
      const rest: string[] = [];
      for await (const event of s.followers.follow({ streamId: s.id, tenant: 'default', after })) rest.push(event.json);
      expect(rest).toEqual(whole.slice(after + 1));
    }
    let pieces: string[] = [];
    for (let after = -1; pieces.length < whole.length; after = pieces.length - 1) {
      for await (const event of s.followers.follow({ streamId: s.id, tenant: 'default', after })) {
        pieces = [...pieces, event.json];
        if (pieces.length % 2 === 0) break;
      }
    }
    expect(pieces).toEqual(whole);
  });
});
