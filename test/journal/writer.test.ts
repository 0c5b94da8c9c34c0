import { describe, expect, it, onTestFinished, vi } from 'vitest';
import type { EventBatch } from '../../src/db/streams/segments.ts';
import { OncefleetError } from '../../src/errors.ts';
import { JournalWriter, type JournalWriterOptions } from '../../src/journal/writer.ts';
import { silentLogger } from '../../src/log.ts';
import { connectionLost, type Faults, withFaults } from '../helpers/faulty-db.ts';
import { claimFree, expireLease, insertJob, journalOf, useDatabase } from '../helpers/fixtures.ts';

const file = useDatabase();

function createWriter(options: Partial<JournalWriterOptions> & { faults?: Partial<Faults> } = {}) {
  const published: EventBatch[] = [];
  const statements: string[] = [];
  const { faults = {}, ...rest } = options;
  const writer = new JournalWriter({
    db: withFaults(file.db, {
      before: async (sql) => {
        statements.push(sql);
        await faults.before?.(sql);
      },
      after: async (sql) => faults.after?.(sql),
    }),
    publisher: { publish: (announcements) => void published.push(...announcements.map(({ batch }) => batch)) },
    log: silentLogger(),
    ...rest,
  });
  onTestFinished(() => writer.close({ timeoutMs: 1 }));
  return { writer, published, statements };
}

async function openStream(writer: JournalWriter, onRefused: (error: OncefleetError) => void = () => undefined) {
  const id = await insertJob(file.db);
  const { fence, nextSeq } = await claimFree(file.db, id);
  return { id, stream: writer.open({ streamId: id, fence, nextSeq, onRefused }) };
}

describe('group commit', () => {
  it('flushes a quiet stream by a real timer: no later event is needed', async () => {
    const { writer, published } = createWriter({ lingerMs: 5 });
    const { id, stream } = await openStream(writer);
    await stream.emit({ type: 'only' });
    await expect.poll(() => published.length).toBe(1);
    expect((await journalOf(file.db, id)).map(({ event }) => event)).toEqual([{ type: 'only' }]);
  });

  it('puts the events of many streams into one statement, a segment each, and publishes after the commit', async () => {
    const { writer, published, statements } = createWriter({ lingerMs: 1_000 });
    const streams = await Promise.all(Array.from({ length: 20 }, () => openStream(writer)));
    for (let i = 0; i < 10; i++) for (const { stream } of streams) await stream.emit({ type: 'n', i });
    expect(published).toEqual([]);
    await writer.flush();
    expect(statements).toHaveLength(1);
    expect(published.map((batch) => batch.events.length)).toEqual(streams.map(() => 10));
    for (const { id } of streams) {
      expect((await journalOf(file.db, id)).map(({ event }) => event.i)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }
  });

  it('waits after a commit until all it woke have written theirs: what is flushed together stays together', async () => {
    const { writer, published, statements } = createWriter({ lingerMs: 60_000 });
    const streams = await Promise.all(Array.from({ length: 20 }, () => openStream(writer)));
    await Promise.all(streams.map(({ stream }) => stream.emit({ type: 'first' })));
    const rounds = 3;
    const produce = async ({ stream }: (typeof streams)[number]) => {
      await stream.flush();
      for (let round = 0; round < rounds; round++) {
        for (let i = 0; i < 16; i++) await stream.emit({ type: 'n', i });
        await stream.flush();
      }
    };
    await Promise.all(streams.map(produce));
    // The very first to ask, when nothing was in flight, leaves alone with the others' one event behind it.
    expect(statements).toHaveLength(1 + rounds);
    expect(published.slice(20).map((batch) => batch.events.length)).toEqual(
      Array.from({ length: 20 * rounds }, () => 16),
    );
  });

  it('starts at maxEvents without waiting for the timer', async () => {
    const { writer, published } = createWriter({ lingerMs: 60_000, maxEvents: 3 });
    const { stream } = await openStream(writer);
    for (let i = 0; i < 3; i++) await stream.emit({ type: 'n', i });
    await expect.poll(() => published.length).toBe(1);
  });

  it('starts at maxLength, and puts no more into one segment', async () => {
    const held = Promise.withResolvers<void>();
    const { writer, published, statements } = createWriter({
      lingerMs: 60_000,
      maxLength: 1_000,
      faults: { before: () => held.promise },
    });
    const { stream } = await openStream(writer);
    for (let i = 0; i < 40; i++) await stream.emit({ type: 'n', pad: 'x'.repeat(80) });
    expect(statements).toHaveLength(1);
    held.resolve();
    await stream.flush();
    expect(published.flatMap((batch) => batch.events)).toHaveLength(40);
    for (const batch of published) expect(batch.events.join('').length).toBeLessThanOrEqual(1_100);
  });

  it('publishes nothing before its commit, and nothing that was refused', async () => {
    const held = Promise.withResolvers<void>();
    const { writer, published, statements } = createWriter({
      lingerMs: 60_000,
      faults: { before: () => held.promise },
    });
    const { id, stream } = await openStream(writer);
    await stream.emit({ type: 'first' });
    const flushed = stream.flush();
    await expect.poll(() => statements).toHaveLength(1);
    expect(published).toEqual([]);
    held.resolve();
    await flushed;
    expect(published).toHaveLength(1);
    await expireLease(file.db, id);
    await claimFree(file.db, id);
    await stream.emit({ type: 'late' });
    await expect(stream.flush()).rejects.toMatchObject({ code: 'LEASE_LOST' });
    expect(published).toHaveLength(1);
  });

  it('keeps order and seqs over many flushes', async () => {
    const { writer } = createWriter({ lingerMs: 0, maxEvents: 7 });
    const { id, stream } = await openStream(writer);
    for (let i = 0; i < 500; i++) {
      await stream.emit({ type: 'n', i });
      if (i % 50 === 0) await stream.flush();
    }
    await stream.flush();
    expect((await journalOf(file.db, id)).map(({ event }) => event.i)).toEqual(
      Array.from({ length: 500 }, (_, i) => i),
    );
  });
});

describe('a Postgres that goes away', () => {
  it('twice in a row and comes back: the same batch is retried, nothing is lost or reordered', async () => {
    let failures = 2;
    const { writer, published } = createWriter({
      faults: {
        before: () => {
          if (failures-- > 0) throw connectionLost();
        },
      },
    });
    const { id, stream } = await openStream(writer);
    await stream.emit({ type: 'n', i: 0 });
    const flushed = stream.flush();
    await stream.emit({ type: 'n', i: 1 });
    await flushed;
    await stream.flush();
    expect(failures).toBeLessThan(0);
    expect((await journalOf(file.db, id)).map(({ event }) => event.i)).toEqual([0, 1]);
    expect(published.flatMap((batch) => batch.events).map((json) => JSON.parse(json).i)).toEqual([0, 1]);
  });

  it('after it committed and before it said so: the batch is recognised, not written twice', async () => {
    let lost = 1;
    const { writer, published } = createWriter({
      faults: {
        after: () => {
          if (lost-- > 0) throw connectionLost();
        },
      },
    });
    const { id, stream } = await openStream(writer);
    for (let i = 0; i < 5; i++) await stream.emit({ type: 'n', i });
    await stream.flush();
    expect((await journalOf(file.db, id)).map(({ event }) => event.i)).toEqual([0, 1, 2, 3, 4]);
    expect(published.map((batch) => [batch.firstSeq, batch.events.length])).toEqual([[0, 5]]);
  });

  it('makes emit wait at the high water mark, and lets it go on afterwards', async () => {
    const back = Promise.withResolvers<void>();
    const { writer } = createWriter({ lingerMs: 0, highWaterMark: 1_000, faults: { before: () => back.promise } });
    const { id, stream } = await openStream(writer);
    let emitted = 0;
    const producing = (async () => {
      for (; emitted < 100; emitted++) await stream.emit({ type: 'n', i: emitted, pad: 'x'.repeat(80) });
    })();
    await expect.poll(() => emitted).toBeGreaterThan(5);
    // The producer has had every chance to run on: it is held, not slow.
    for (let i = 0; i < 50; i++) await Promise.resolve();
    expect(emitted).toBeLessThan(20);
    expect(writer.bufferedLength).toBeLessThan(1_200);
    back.resolve();
    await producing;
    await stream.flush();
    expect(await journalOf(file.db, id)).toHaveLength(100);
    expect(writer.bufferedLength).toBe(0);
  });
});

describe('a fence that is lost', () => {
  it('refuses its stream alone: others of the batch commit', async () => {
    const { writer } = createWriter({ lingerMs: 1_000 });
    const refused = vi.fn();
    const lost = await openStream(writer, refused);
    const kept = await openStream(writer);
    await expireLease(file.db, lost.id);
    await claimFree(file.db, lost.id);
    await lost.stream.emit({ type: 'late' });
    await kept.stream.emit({ type: 'fine' });
    await expect(lost.stream.flush()).rejects.toMatchObject({ code: 'LEASE_LOST' });
    await kept.stream.flush();
    expect(refused).toHaveBeenCalledOnce();
    expect(await journalOf(file.db, lost.id)).toEqual([]);
    expect(await journalOf(file.db, kept.id)).toHaveLength(1);
    await expect(lost.stream.emit({ type: 'later' })).rejects.toMatchObject({ code: 'LEASE_LOST' });
    expect(writer.bufferedLength).toBe(0);
  });
});

describe('a bad event', () => {
  it.each([
    ['no type', {}],
    ['an empty type', { type: '' }],
    ['a type that is no string', { type: 1 }],
    ['a type with a line break', { type: 'a\nb' }],
    ['a terminal type', { type: 'end' }],
    ['a type of the fleet', { type: 'attempt' }],
    ['a terminal type that only its toJSON shows', { type: 'x', toJSON: () => ({ type: 'end' }) }],
    ['a toJSON that gives no event', { type: 'x', toJSON: () => 'x' }],
    ['a cycle', Object.assign({ type: 'x' }, { self: {} as unknown })],
    ['a bigint', { type: 'x', n: 1n }],
    ['too much text', { type: 'x', text: 'x'.repeat(5 * 1024 * 1024) }],
    ['too deep nesting', { type: 'x', deep: JSON.parse(`${'['.repeat(5_000)}${']'.repeat(5_000)}`) }],
  ])('with %s is refused alone, and the stream goes on', async (_name, event) => {
    if ('self' in event) (event as { self: unknown }).self = event;
    const { writer } = createWriter();
    const { id, stream } = await openStream(writer);
    await stream.emit({ type: 'before' });
    await expect(stream.emit(event as never)).rejects.toMatchObject({ code: 'EVENT_INVALID' });
    await stream.emit({ type: 'after' });
    await stream.flush();
    expect((await journalOf(file.db, id)).map(({ event: { type } }) => type)).toEqual(['before', 'after']);
  });

  it('may be nested as deep as the limit, and no deeper', async () => {
    const { writer } = createWriter();
    const { id, stream } = await openStream(writer);
    // The event itself is a level.
    const nested = (levels: number) => ({
      type: 'x',
      deep: JSON.parse(`${'['.repeat(levels - 1)}1${']'.repeat(levels - 1)}`),
    });
    await stream.emit(nested(1_000));
    await expect(stream.emit(nested(1_001))).rejects.toMatchObject({ code: 'EVENT_INVALID' });
    await stream.flush();
    expect(await journalOf(file.db, id)).toHaveLength(1);
  });

  it('that only Postgres refuses ends its own stream there; what came before it and all other streams commit', async () => {
    const { writer } = createWriter({ lingerMs: 1_000 });
    const refused = vi.fn();
    const bad = await openStream(writer, refused);
    const good = await openStream(writer);
    bad.stream.append('{"type":"fine"}');
    bad.stream.append('{"type":"not json"');
    bad.stream.append('{"type":"never"}');
    await good.stream.emit({ type: 'good' });
    await expect(bad.stream.flush()).rejects.toMatchObject({ code: 'JOURNAL_REFUSED' });
    await good.stream.flush();
    expect((await journalOf(file.db, bad.id)).map(({ event }) => event.type)).toEqual(['fine']);
    expect(await journalOf(file.db, good.id)).toHaveLength(1);
    // The outcome of the run goes where the refused event would have been.
    expect(await bad.stream.seal()).toEqual({ firstSeq: 1, events: [] });
  });
});

describe('sealing', () => {
  it('waits for the flush in flight and hands over what is left', async () => {
    const held = Promise.withResolvers<void>();
    const { writer } = createWriter({ lingerMs: 0, faults: { before: () => held.promise } });
    const { id, stream } = await openStream(writer);
    await stream.emit({ type: 'n', i: 0 });
    const flushed = stream.flush();
    await stream.emit({ type: 'n', i: 1 });
    const sealed = stream.seal();
    await expect(stream.emit({ type: 'n', i: 2 })).rejects.toBeInstanceOf(OncefleetError);
    held.resolve();
    await flushed;
    expect(await sealed).toEqual({ firstSeq: 1, events: ['{"type":"n","i":1}'] });
    expect(await journalOf(file.db, id)).toHaveLength(1);
  });

  it('leaves no more for the outcome than a segment may have', async () => {
    const MIB = 1024 * 1024;
    const { writer } = createWriter({ lingerMs: 60_000, maxLength: 100 * MIB });
    const { id, stream } = await openStream(writer);
    for (let i = 0; i < 3; i++) await stream.emit({ type: 'n', text: 'x'.repeat(MIB / 2) });
    const sealed = stream.seal();
    await expect(stream.emit({ type: 'late' })).rejects.toMatchObject({ code: 'STREAM_CLOSED' });
    expect(await sealed).toEqual({ firstSeq: 3, events: [] });
    expect(await journalOf(file.db, id)).toHaveLength(3);
  });

  it('throws when the flush in flight finds the fence lost', async () => {
    const held = Promise.withResolvers<void>();
    const { writer, statements } = createWriter({ lingerMs: 0, faults: { before: () => held.promise } });
    const { id, stream } = await openStream(writer);
    await stream.emit({ type: 'n', i: 0 });
    await expect.poll(() => statements).toHaveLength(1);
    await stream.emit({ type: 'n', i: 1 });
    const sealed = expect(stream.seal()).rejects.toMatchObject({ code: 'LEASE_LOST' });
    await expireLease(file.db, id);
    await claimFree(file.db, id);
    held.resolve();
    await sealed;
    expect(await journalOf(file.db, id)).toEqual([]);
  });
});

describe('closing', () => {
  it('flushes what is buffered; twice, concurrently and before the first event do no harm', async () => {
    const { writer } = createWriter({ lingerMs: 60_000 });
    const { id, stream } = await openStream(writer);
    await stream.emit({ type: 'last' });
    await Promise.all([writer.close(), writer.close()]);
    await writer.close();
    expect(await journalOf(file.db, id)).toHaveLength(1);
    await createWriter().writer.close();
  });

  it('waits for the flush in flight, whose events are in no buffer any more', async () => {
    const held = Promise.withResolvers<void>();
    const { writer, published, statements } = createWriter({ lingerMs: 0, faults: { before: () => held.promise } });
    const { id, stream } = await openStream(writer);
    await stream.emit({ type: 'in flight' });
    await expect.poll(() => statements).toHaveLength(1);
    expect(stream.hasPending).toBe(false);
    const closed = writer.close();
    held.resolve();
    await closed;
    expect(published).toHaveLength(1);
    expect(await journalOf(file.db, id)).toHaveLength(1);
  });

  it('ends while Postgres is unreachable, and says that events were given up', async () => {
    const { writer } = createWriter({
      faults: {
        before: () => {
          throw connectionLost();
        },
      },
    });
    const refused = vi.fn();
    const { stream } = await openStream(writer, refused);
    await stream.emit({ type: 'given up' });
    await writer.close({ timeoutMs: 20 });
    expect(refused).toHaveBeenCalledWith(expect.objectContaining({ code: 'STORE_UNAVAILABLE' }));
  });
});
