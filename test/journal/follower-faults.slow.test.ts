/** Followers whose connections are cut, held and late, and whose producers die or freeze. */
import { Redis } from 'ioredis';
import { sql } from 'kysely';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { z } from 'zod';
import { createDb } from '../../src/db/client.ts';
import { type Cursor, defineJob, fold, type StreamEvent } from '../../src/index.ts';
import { streamChannel } from '../../src/journal/channel.ts';
import { Followers } from '../../src/journal/follower.ts';
import { silentLogger } from '../../src/log.ts';
import type { Fleet } from '../../src/workers/fleet.ts';
import { aheadJob, stepsJob } from '../helpers/crash-process.ts';
import { LONG_LEASE, proxied, startDoomed, takeOver } from '../helpers/doomed.ts';
import { expireLease, journalOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';
import { IMMEDIATE, stage as stageOn, upTo } from './stage.ts';

const file = useDatabase();
const WAIT = { timeout: 20_000, interval: 20 };

/** A stage whose followers reach Redis through a proxy, and look at the head by themselves once a minute. */
async function stage(options: Parameters<typeof stageOn>[1] = {}) {
  const { proxy, url } = await proxied(testRedisUrl());
  const s = await stageOn(file, { redisUrl: url, ...options });
  await expect.poll(() => s.hub.connected).toBe(true);
  return { ...s, proxy, seqs: () => s.seen.map(({ seq }) => seq) };
}

/** Publishes on a connection that no proxy holds. */
function createPublisher(url = testRedisUrl()): Redis {
  const redis = new Redis(url);
  redis.on('error', () => undefined);
  onTestFinished(() => redis.disconnect());
  return redis;
}

describe('while Postgres is unreachable', () => {
  it('a follower waits, is told everything once afterwards, and can still be stopped', async () => {
    const prefix = uniquePrefix();
    const worker = createTestFleet(file.url, [stepsJob], { prefix });
    await worker.work();
    const { id } = await worker.enqueue(stepsJob, { how: 'return' });
    await worker.result(id, { timeoutMs: 60_000 });
    const { proxy, url } = await proxied(file.url);
    const reader = createTestFleet(url, [], { prefix });
    const whole = (await journalOf(file.db, id)).map(({ seq }) => seq);
    const first = await reader.follow(id).next();
    expect(first.value?.seq).toBe(whole[0]);
    proxy.set({ kind: 'cut' });
    const waiting = (async () => {
      const seqs: number[] = [];
      for await (const { seq } of reader.follow(id)) seqs.push(seq);
      return seqs;
    })();
    waiting.catch(() => undefined);
    const stopped = reader.follow(id);
    const last = stopped.next();
    const tries = proxy.refused;
    // Each was refused more than once.
    await expect.poll(() => proxy.refused, WAIT).toBeGreaterThan(tries + 4);
    await stopped.return();
    expect(await last).toEqual({ done: true, value: undefined });
    const aborting = new AbortController();
    const aborted = reader.follow(id, { signal: aborting.signal }).next();
    aborting.abort(new Error('enough'));
    await expect(aborted).rejects.toThrow('enough');
    proxy.set({ kind: 'open' });
    expect(await waiting).toEqual(whole);
  });

  it('a follower that has read something continues behind it', async () => {
    const prefix = uniquePrefix();
    const go = Promise.withResolvers<void>();
    const job = defineJob({
      name: 'held',
      input: z.object({}),
      async run(_input, ctx) {
        await ctx.emit({ type: 'first' });
        await go.promise;
        await ctx.emit({ type: 'second' });
      },
    });
    const worker = createTestFleet(file.url, [job], { prefix });
    await worker.work();
    const { id } = await worker.enqueue(job, {});
    const { proxy, url } = await proxied(file.url);
    const { events, done } = reading(createTestFleet(url, [], { prefix }), id);
    await expect.poll(() => events.length, WAIT).toBe(1);
    proxy.set({ kind: 'cut' });
    await expect.poll(() => proxy.refused, WAIT).toBeGreaterThan(1);
    proxy.set({ kind: 'open' });
    go.resolve();
    await done;
    expect(events.map(({ event }) => event.type)).toEqual(['first', 'second', 'end']);
  });
});

describe('a follower', () => {
  it('whose connection to Redis is cut looks at the head, and hears again when it is repaired', async () => {
    const s = await stage({ pollMs: 20 });
    await s.append(s.batch(0, 1));
    const following = s.follow();
    await s.live();
    await expect.poll(s.seqs).toEqual([0]);
    s.proxy.set({ kind: 'cut' });
    await s.append(s.batch(1, 2));
    await expect.poll(s.seqs).toEqual(upTo(3));
    s.proxy.set({ kind: 'open' });
    await expect.poll(() => s.hub.isLive(s.id), WAIT).toBe(true);
    const publisher = createPublisher();
    await s.append(s.batch(3, 1));
    await publisher.publish(streamChannel(s.prefix, s.id), s.message(s.batch(3, 1), false));
    await expect.poll(s.seqs).toEqual(upTo(4));
    await publisher.publish(streamChannel(s.prefix, s.id), s.message(await s.end(4), true));
    await following;
  });

  it('whose connection was cut for a moment misses nothing that was published meanwhile', async () => {
    const s = await stage({ pollMs: 60_000 });
    const following = s.follow();
    await s.live();
    s.proxy.set({ kind: 'cut' });
    await expect.poll(() => s.hub.isLive(s.id)).toBe(false);
    // It has looked at the head because of the cut.
    const state = vi.spyOn(s.followers, 'state');
    await s.append(s.batch(0, 1));
    await createPublisher().publish(streamChannel(s.prefix, s.id), s.message(s.batch(0, 1), false));
    s.proxy.set({ kind: 'open' });
    await expect.poll(s.seqs).toEqual([0]);
    expect(state).toHaveBeenCalled();
    s.controller.abort(new Error('enough'));
    await expect(following).rejects.toThrow('enough');
  });

  it('whose subscription is late looks at the head once it stands', async () => {
    const s = await stage({ pollMs: 60_000 });
    const state = vi.spyOn(s.followers, 'state');
    s.proxy.set({ kind: 'hold' });
    const following = s.follow();
    // It waits a second for Redis, then reads without.
    await expect.poll(() => state.mock.settledResults[0]?.type).toBe('fulfilled');
    await s.append(s.batch(0, 2));
    s.proxy.set({ kind: 'open' });
    await expect.poll(s.seqs).toEqual([0, 1]);
    s.controller.abort(new Error('enough'));
    await expect(following).rejects.toThrow('enough');
  });

  it('that Redis does not answer polls', async () => {
    const s = await stage({ pollMs: 20 });
    s.proxy.set({ kind: 'hold' });
    const following = s.follow();
    for (const seq of [0, 1, 2]) {
      await s.append(s.batch(seq, 1));
      await expect.poll(s.seqs).toEqual(upTo(seq + 1));
    }
    await s.end(3);
    await following;
  });

  it('misses nothing that is committed while it subscribes', async () => {
    const s = await stage({ pollMs: 60_000 });
    s.proxy.set({ kind: 'hold' });
    const following = s.follow();
    // One that did not wait for its subscription would have read by now.
    await file.pool.query('select pg_sleep(0.2)');
    // Published to nobody.
    await s.append(s.batch(0, 2));
    s.proxy.set({ kind: 'open' });
    await expect.poll(s.seqs).toEqual([0, 1]);
    s.controller.abort(new Error('enough'));
    await expect(following).rejects.toThrow('enough');
  });

  it('whose Postgres answers late does not forget what it was too slow to take meanwhile', async () => {
    const s = await stageOn(file);
    const { proxy, url } = await proxied(file.url);
    const db = createDb({ url, maxConnections: 2, applicationName: 'slow follower', onError: () => undefined });
    onTestFinished(() => db.close());
    const followers = new Followers({
      db: db.kysely,
      hub: s.hub,
      log: silentLogger(),
      headCheckMs: 60_000,
      pollMs: 60_000,
      maxInboxLength: 150,
    });
    const seqs: number[] = [];
    const { id: streamId, controller } = s;
    await s.append(s.batch(0, 1));
    const following = (async () => {
      for await (const { seq } of followers.follow({
        streamId,
        tenant: 'default',
        after: -1,
        signal: controller.signal,
      }))
        seqs.push(seq);
    })();
    await s.live();
    await expect.poll(() => seqs).toEqual([0]);
    const { rows } = await sql<{ at: Date }>`select clock_timestamp() as at`.execute(file.db);
    const asked = async () => {
      const found = await sql<{ n: number }>`select count(*)::int as n from pg_stat_activity
        where application_name = 'slow follower' and state = 'idle' and query_start > ${rows[0]?.at}`.execute(file.db);
      return found.rows[0]?.n;
    };
    let heard = 0;
    onTestFinished(s.hub.subscribe(s.id, { onBatch: () => heard++, onGap: () => undefined }));
    proxy.set({ kind: 'mute' });
    // A hint that nothing stands behind yet: the head that it makes the follower read is the old one.
    await s.publish(s.batch(2, 1));
    await expect.poll(asked, WAIT).toBe(1);
    for (const batch of [s.batch(1, 1), s.batch(2, 1)]) {
      await s.append(batch);
      await s.publish(batch);
    }
    await expect.poll(() => heard).toBe(3);
    proxy.set({ kind: 'open' });
    await expect.poll(() => seqs).toEqual(upTo(3));
    controller.abort(new Error('enough'));
    await expect(following).rejects.toThrow('enough');
  });

  it('is not ended by the end of an earlier run that comes late, from a connection that was held', async () => {
    const s = await stageOn(file);
    const { proxy, url } = await proxied(testRedisUrl());
    const late = createPublisher(url);
    await late.ping();
    await s.append(s.batch(0, 3));
    const following = s.follow();
    await s.live();
    await expect.poll(s.seqs).toEqual(upTo(3));
    let heard = 0;
    onTestFinished(s.hub.subscribe(s.id, { onBatch: () => heard++, onGap: () => undefined }));
    proxy.set({ kind: 'hold' });
    const sent = late.publish(streamChannel(s.prefix, s.id), s.message(s.batch(2, 1), true));
    // The job was redriven, and goes on.
    await s.append(s.batch(3, 2));
    await s.publish(s.batch(3, 2));
    await expect.poll(s.seqs).toEqual(upTo(5));
    proxy.set({ kind: 'open' });
    await sent;
    await expect.poll(() => heard).toBe(2);
    await s.append(s.batch(5, 1));
    await s.publish(s.batch(5, 1));
    await expect.poll(s.seqs).toEqual(upTo(6));
    await s.publish(await s.end(6), true);
    await following;
    expect(s.seqs()).toEqual(upTo(7));
  });
});

describe('a follower of a stream that is published ahead of its commits', () => {
  /** What it has heard first lies behind a message that a connection holds. */
  async function hearLaterFirst(pollMs: number) {
    const s = await stageOn(file, { job: IMMEDIATE, pollMs });
    const { proxy, url } = await proxied(testRedisUrl());
    const late = createPublisher(url);
    await late.ping();
    const following = s.follow();
    await s.live();
    let heard = 0;
    onTestFinished(s.hub.subscribe(s.id, { onBatch: () => heard++, onGap: () => undefined }));
    proxy.set({ kind: 'hold' });
    const sent = late.publish(streamChannel(s.prefix, s.id), s.message(s.batch(0, 1), false, 'ahead'));
    sent.catch(() => undefined);
    await s.publish(s.batch(1, 1), false, 'ahead');
    await expect.poll(() => heard).toBe(1);
    return { ...s, proxy, late, following };
  }

  it('keeps what came early until what lies before it comes, from a connection that was held', async () => {
    const s = await hearLaterFirst(60_000);
    expect(s.seqs()).toEqual([]);
    s.proxy.set({ kind: 'open' });
    await expect.poll(s.seqs).toEqual([0, 1]);
    s.controller.abort(new Error('enough'));
    await expect(s.following).rejects.toThrow('enough');
  });

  it('looks for what lies before it when that is lost with its connection, and word of its commit too', async () => {
    const s = await hearLaterFirst(20);
    s.late.disconnect();
    s.proxy.set({ kind: 'cut' });
    await s.append(s.batch(0, 2));
    await expect.poll(s.seqs).toEqual([0, 1]);
    s.controller.abort(new Error('enough'));
    await expect(s.following).rejects.toThrow('enough');
  });
});

/** What a reader holds after all it was told. */
function held(events: readonly StreamEvent[]): string[] {
  let kept: StreamEvent[] = [];
  for (const event of events) {
    if (event.event.type === 'rewind') {
      const { from } = event.event as { type: 'rewind'; from: number };
      kept = kept.filter(({ seq }) => seq < from);
    } else kept.push(event);
  }
  return kept.map(({ json }) => json);
}

function reading(fleet: Fleet, id: string, options: { after?: Cursor; committed?: boolean } = {}) {
  const events: StreamEvent[] = [];
  const follower = fleet.follow(id, options);
  const done = (async () => {
    for await (const event of follower) events.push(event);
  })();
  done.catch(() => undefined);
  onTestFinished(async () => void (await follower.return()));
  return { events, done, stop: () => follower.return() };
}

describe('a stream that is published ahead of its commits', () => {
  it('takes back what its producer had told and not committed when it was killed', async () => {
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, [stepsJob, aheadJob], { prefix });
    const worker = await startDoomed({ databaseUrl: file.url, prefix, point: 'claim.after', signal: 'SIGSTOP' });
    const { id } = await fleet.enqueue(aheadJob, { how: 'quiet' });
    await worker.stopped();
    const [stays, leaves, sure] = [reading(fleet, id), reading(fleet, id), reading(fleet, id, { committed: true })];
    // Its Postgres is busy, so that it can tell and not commit.
    await file.db.transaction().execute(async (trx) => {
      await sql`lock table oncefleet.stream_heads in share row exclusive mode`.execute(trx);
      worker.wake();
      for (const { events } of [stays, leaves]) await expect.poll(() => events.length, WAIT).toBe(1);
      worker.child.kill('SIGKILL');
      await worker.dead();
      await sql`select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'`.execute(trx);
    });
    const cursor = leaves.events[0]?.cursor;
    await leaves.stop();
    expect(await journalOf(file.db, id)).toEqual([]);
    expect(sure.events).toEqual([]);
    await expireLease(file.db, id);
    await fleet.work();
    expect(await fleet.result(id, { timeoutMs: 60_000 })).toEqual({ how: 'quiet' });
    const back = reading(fleet, id, { after: cursor as Cursor });
    await Promise.all([stays.done, sure.done, back.done]);
    const journal = (await journalOf(file.db, id)).map(({ event }) => event);
    expect(journal.map(({ type }) => type)).toEqual(['attempt', 'step', 'end']);
    const parse = (texts: string[]) => texts.map((text) => JSON.parse(text));
    expect(parse(held(stays.events))).toEqual(journal);
    const { value } = await fold(stays.events, {
      initial: 0,
      reduce: (steps, { type }) => steps + (type === 'step' ? 1 : 0),
    });
    expect(value).toBe(1);
    expect(parse(held([...leaves.events, ...back.events]))).toEqual(journal);
    expect(parse(sure.events.map(({ json }) => json))).toEqual(journal);
  });

  it('gives nothing of a producer that froze and has lost it', async () => {
    const prefix = uniquePrefix();
    const fleet = createTestFleet(file.url, [stepsJob, aheadJob], { prefix });
    const options = { databaseUrl: file.url, prefix, ...LONG_LEASE };
    const zombie = await startDoomed({ ...options, point: 'claim.after', signal: 'SIGSTOP' });
    const { id } = await fleet.enqueue(aheadJob, { how: 'return' });
    await zombie.stopped();
    await takeOver(file.db, id);
    const { events, stop } = reading(fleet, id);
    const heard: string[] = [];
    const listener = createPublisher();
    listener.on('message', (_channel, text) => heard.push(text));
    await listener.subscribe(streamChannel(prefix, id));
    await expect
      .poll(async () => (await createPublisher().pubsub('NUMSUB', streamChannel(prefix, id)))[1], WAIT)
      .toBe(2);
    zombie.wake();
    await zombie.said('run given up: its lease is lost');
    await expect.poll(() => heard.length, WAIT).toBeGreaterThan(0);
    await zombie.end();
    expect(events).toEqual([]);
    await stop();
  });
});
