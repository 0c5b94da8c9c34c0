/**
 * Random schedules against a plain array: emits, statements that fail before or after their
 * commit, owners that lose the stream and do not know, readers that come and go at any
 * cursor, messages lost, doubled and out of order, segments merged.
 */
import { setImmediate as turn } from 'node:timers/promises';
import fc from 'fast-check';
import { Redis } from 'ioredis';
import { sql } from 'kysely';
import { describe, expect, it, onTestFinished } from 'vitest';
import { type Settlement, settleJobs } from '../../src/db/jobs/settle.ts';
import type { StreamEvent } from '../../src/index.ts';
import { ChannelHub, streamChannel } from '../../src/journal/channel.ts';
import { Followers } from '../../src/journal/follower.ts';
import type { Following } from '../../src/journal/following.ts';
import { type Announcement, encodeBatchMessage } from '../../src/journal/message.ts';
import { LiveKey, sealBatch } from '../../src/journal/seal.ts';
import type { StreamWriter } from '../../src/journal/stream-writer.ts';
import { JournalWriter } from '../../src/journal/writer.ts';
import { silentLogger } from '../../src/log.ts';
import { connectionLost, withFaults } from '../helpers/faulty-db.ts';
import { claimOne, expireLease, insertJob, journalOf, useDatabase } from '../helpers/fixtures.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';
import { IMMEDIATE } from './stage.ts';

const file = useDatabase();

type Op =
  | { op: 'emit'; count: number }
  | { op: 'zombie emits'; count: number }
  | { op: 'flush' | 'zombie flushes' | 'take over' | 'turn' }
  | { op: 'fail'; when: 'before' | 'after'; times: number }
  | { op: 'lose' | 'double' | 'reverse' }
  | { op: 'deliver'; count: number }
  | { op: 'read'; committed: boolean }
  | { op: 'reconnect'; reader: number; at: number };

const ops: fc.Arbitrary<Op> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ op: fc.constant('emit' as const), count: fc.integer({ min: 1, max: 5 }) }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('zombie emits' as const), count: fc.constant(2) }) },
  { weight: 4, arbitrary: fc.record({ op: fc.constant('flush' as const) }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('zombie flushes' as const) }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('take over' as const) }) },
  { weight: 3, arbitrary: fc.record({ op: fc.constant('turn' as const) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant('fail' as const),
      when: fc.constantFrom('before' as const, 'after' as const),
      times: fc.integer({ min: 1, max: 2 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ op: fc.constantFrom('lose' as const, 'double' as const, 'reverse' as const) }) },
  { weight: 6, arbitrary: fc.record({ op: fc.constant('deliver' as const), count: fc.integer({ min: 1, max: 6 }) }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('read' as const), committed: fc.boolean() }) },
  {
    weight: 2,
    arbitrary: fc.record({
      op: fc.constant('reconnect' as const),
      reader: fc.nat(5),
      at: fc.integer({ min: 0, max: 100 }),
    }),
  },
);

/** A reader over all its connections: what it holds, having obeyed every rewind. */
class ModelReader {
  held: StreamEvent[] = [];
  rewinds = 0;
  readonly #open: (after: StreamEvent['cursor']) => Following;
  #following: Following | undefined;
  #reading: Promise<void> = Promise.resolve();

  constructor(open: (after: StreamEvent['cursor']) => Following) {
    this.#open = open;
    this.#connect();
  }

  /** Leaves, forgets what it holds from the `at`th event on, and comes back. */
  async reconnect(at: number): Promise<void> {
    await this.#following?.return();
    await this.#reading;
    this.held = this.held.slice(0, Math.round((this.held.length * at) / 100));
    this.#connect();
  }

  /** Resolves at the terminal event. */
  async finish(): Promise<void> {
    await this.#reading;
  }

  #connect(): void {
    const following = this.#open(this.held.at(-1)?.cursor ?? -1);
    this.#following = following;
    this.#reading = (async () => {
      for await (const event of following) {
        if (event.event.type === 'rewind') {
          this.rewinds++;
          const { from } = event.event as { type: 'rewind'; from: number };
          if (from >= this.held.length) throw new Error(`rewound to ${from} with ${this.held.length} events`);
          this.held = this.held.slice(0, from);
          continue;
        }
        if (event.seq !== this.held.length) throw new Error(`seq ${event.seq} after ${this.held.length} events`);
        this.held.push(event);
      }
    })();
    // Looked at in `finish`.
    this.#reading.catch(() => undefined);
  }
}

/** An owner of the stream: a process with a journal writer of its own. */
interface Owner {
  fence: number;
  /** Where its claim found the stream. */
  nextSeq: number;
  writer: JournalWriter;
  stream: StreamWriter;
  /** Emitted and not committed. */
  pending: string[];
}

async function play(schedule: readonly Op[], immediate: boolean, hub: ChannelHub, bus: Redis, prefix: string) {
  const id = await insertJob(file.db, immediate ? IMMEDIATE : {});
  const followers = new Followers({
    db: file.db,
    hub,
    log: silentLogger(),
    headCheckMs: 15,
    pollMs: 5,
    maxInboxLength: 2_000,
  });
  const readers: ModelReader[] = [];
  const read = (committed: boolean) =>
    new ModelReader((after) => followers.follow({ streamId: id, tenant: 'default', after, committed }));

  /** What the journal must hold. */
  const oracle: string[] = [];
  let messages: string[] = [];
  const failures: ('before' | 'after')[] = [];
  let number = 0;

  const deliver = async (count: number) => {
    const key = await new LiveKey(file.db).load();
    const channel = streamChannel(prefix, id);
    for (const text of messages.splice(0, count)) await bus.publish(channel, sealBatch(key, channel, text));
  };
  const own = async (): Promise<Owner> => {
    const answer = await claimOne(file.db, id, { maxCrashes: 1_000 });
    if (answer.decision !== 'claimed') throw new Error(`not claimed: ${answer.decision}`);
    const { fence, nextSeq } = answer.job;
    const fail = async (when: 'before' | 'after') => {
      if (failures[0] !== when) return;
      failures.shift();
      throw connectionLost();
    };
    const writer = new JournalWriter({
      db: withFaults(file.db, { before: () => fail('before'), after: () => fail('after') }),
      publisher: {
        publish: (announcements: readonly Announcement[]) => {
          for (const { batch, end, form } of announcements) messages.push(encodeBatchMessage(batch, end, form));
        },
      },
      log: silentLogger(),
      // A crash of its owner loses what nobody has asked to flush.
      lingerMs: 600_000,
    });
    return {
      fence,
      nextSeq,
      writer,
      stream: writer.open({ streamId: id, fence, nextSeq, immediate, onRefused: () => undefined }),
      pending: [],
    };
  };
  const say = (owner: Owner, event: Record<string, unknown>) => {
    const json = JSON.stringify(event);
    owner.stream.append(json);
    owner.pending.push(json);
  };
  /** What a flush has answered for is in; of what came after it, as much as the journal took. */
  const commit = (owner: Owner, nextSeq: number) => {
    expect(nextSeq).toBeGreaterThanOrEqual(oracle.length);
    oracle.push(...owner.pending.splice(0, nextSeq - oracle.length));
    expect(oracle).toHaveLength(nextSeq);
  };
  const owners: Owner[] = [await own()];
  const now = () => owners.at(-1) as Owner;
  const zombie = () => owners.at(-2);

  for (const step of schedule) {
    switch (step.op) {
      case 'emit':
        for (let i = 0; i < step.count; i++) say(now(), { type: 'n', n: number++, fence: now().fence });
        break;
      case 'zombie emits':
        if (zombie()?.stream.refused !== undefined) break;
        for (let i = 0; i < step.count; i++) zombie()?.stream.append(`{"type":"zombie","n":${number++}}`);
        break;
      case 'flush':
        await now().stream.flush();
        oracle.push(...now().pending.splice(0));
        break;
      case 'zombie flushes':
        if (zombie()?.stream.hasPending !== true) break;
        await expect(zombie()?.stream.flush()).rejects.toMatchObject({ code: 'LEASE_LOST' });
        break;
      case 'take over':
        await expireLease(file.db, id);
        owners.push(await own());
        // The claim says how much of what was under way came in before it.
        commit(zombie() as Owner, now().nextSeq);
        say(now(), { type: 'attempt', attempt: now().fence, reason: 'crash', resumed: false });
        break;
      case 'turn':
        for (let i = 0; i < 20; i++) await turn();
        break;
      case 'fail':
        failures.push(...Array.from({ length: step.times }, () => step.when));
        break;
      case 'lose':
        messages.shift();
        break;
      case 'double':
        messages = messages.flatMap((message) => [message, message]);
        break;
      case 'reverse':
        messages.reverse();
        break;
      case 'deliver':
        await deliver(step.count);
        break;
      case 'read':
        if (readers.length < 6) readers.push(read(step.committed));
        break;
      case 'reconnect':
        await readers[step.reader]?.reconnect(step.at);
        break;
      default:
        step satisfies never;
    }
  }

  failures.length = 0;
  const { firstSeq, events } = await now().stream.seal();
  commit(now(), firstSeq);
  expect(events).toEqual(now().pending);
  const batch = { streamId: id, fence: now().fence, firstSeq, events: [...events, '{"type":"end"}'] };
  const settlement: Settlement = {
    id,
    fence: now().fence,
    status: 'completed',
    outcome: 'completed',
    result: null,
    error: null,
    resultTtlMs: 60_000,
    delayMs: 0,
    delivery: 0,
    batch,
  };
  expect(await settleJobs(file.db, [settlement])).toHaveProperty('size', 1);
  oracle.push(...batch.events);
  messages.push(encodeBatchMessage(batch, true));
  await deliver(number % 3 === 0 ? 0 : messages.length);

  const check = async (reader: ModelReader) => {
    await reader.finish();
    expect(reader.held.map(({ json }) => json)).toEqual(oracle);
    if (!immediate) expect(reader.rewinds).toBe(0);
  };
  readers.push(read(false), read(true));
  for (const reader of readers) await check(reader);
  expect((await journalOf(file.db, id)).map(({ event }) => JSON.stringify(event))).toEqual(oracle);

  await mergeSegments(id);
  expect((await journalOf(file.db, id)).map(({ event }) => JSON.stringify(event))).toEqual(oracle);
  for (const [i, reader] of readers.entries()) {
    await reader.reconnect((i * 37) % 101);
    await check(reader);
  }
  for (const { writer } of owners) await writer.close({ timeoutMs: 1 });
}

/** All consecutive segments of one fence as one, as plain SQL says it. */
async function mergeSegments(id: string): Promise<void> {
  await file.db.transaction().execute(async (trx) => {
    await sql`
      create temporary table merged on commit drop as
        select stream_id, min(first_seq) as first_seq, max(last_seq) as last_seq, fence,
          ('[' || string_agg(substring(events::text from 2 for length(events::text) - 2), ',' order by first_seq) || ']')::json as events
        from oncefleet.journal_segments where stream_id = ${id} group by stream_id, fence`.execute(trx);
    await trx.deleteFrom('journal_segments').where('stream_id', '=', id).execute();
    await sql`
      insert into oncefleet.journal_segments (stream_id, first_seq, last_seq, fence, events)
      select stream_id, first_seq, last_seq, fence, events from merged`.execute(trx);
  });
}

describe('whatever happens on the way', () => {
  it.each([
    ['committed', false],
    ['immediate', true],
  ])('every reader of a %s stream ends with what the journal holds', { timeout: 120_000 }, async (_name, immediate) => {
    const prefix = uniquePrefix();
    const subscriber = new Redis(testRedisUrl(), { autoResubscribe: false, maxRetriesPerRequest: null });
    const bus = new Redis(testRedisUrl());
    const hub = new ChannelHub({ redis: subscriber, key: new LiveKey(file.db), prefix, log: silentLogger() });
    onTestFinished(() => {
      subscriber.disconnect();
      bus.disconnect();
    });
    await expect.poll(() => hub.connected).toBe(true);
    await fc.assert(
      fc.asyncProperty(fc.array(ops, { minLength: 5, maxLength: 60, size: 'max' }), (schedule) =>
        play(schedule, immediate, hub, bus, prefix),
      ),
      { numRuns: 40, endOnFailure: false },
    );
  });
});
