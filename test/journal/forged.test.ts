/** What a client that can publish in Redis, and cannot read the key in Postgres, can make of a live stream. */
import { createSecretKey, randomBytes } from 'node:crypto';
import { pino } from 'pino';
import { describe, expect, it, onTestFinished } from 'vitest';
import { ChannelHub, endingsChannel, streamChannel } from '../../src/journal/channel.ts';
import { decodeBatchMessage, encodeBatchMessage } from '../../src/journal/message.ts';
import { LiveKey, openBatch, openEndings, sealBatch, sealEndings } from '../../src/journal/seal.ts';
import { silentLogger } from '../../src/log.ts';
import { uuidV7 } from '../../src/util/uuid.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { IMMEDIATE, type Stage, stage as stageOn, upTo } from './stage.ts';

const file = useDatabase();

const TRUE_EVENTS = 31;

/** The event that nobody may see. */
const FORGED = '{"type":"forged"}';

type Forge = (s: Stage, next: number) => Promise<unknown>;

const head = (first: number, last: number, more: Record<string, unknown> = {}) =>
  JSON.stringify({ first, last, fence: 1, end: false, ...more });

const foreignKey = createSecretKey(randomBytes(32));

const forgeries: Record<string, Forge> = {
  'the next event': (s, next) => s.forge(`${head(next, next)}\n${FORGED}`),
  'the next event, ahead of its commit': (s, next) => s.forge(`${head(next, next, { ahead: true })}\n${FORGED}`),
  'the next ten events': (s, next) => s.forge(`${head(next, next + 9)}\n${Array(10).fill(FORGED).join('\n')}`),
  'events before and after': (s, next) =>
    s.forge(
      `${head(0, next)}\n${Array(next + 1)
        .fill(FORGED)
        .join('\n')}`,
    ),
  'a far seq': (s) => s.forge(head(1_000_000_000, 1_000_000_000)),
  'the highest seq': (s) => s.forge(`${head(2 ** 53 - 1, 2 ** 53 - 1)}\n${FORGED}`),
  'a later fence': (s, next) => s.forge(`${head(next, next, { fence: 1_000_000 })}\n${FORGED}`),
  'an end': (s, next) => s.forge(`${head(next, next, { end: true })}\n{"type":"end","result":666}`),
  'an end without an event': (s, next) => s.forge(head(next, next, { end: true })),
  'an end before': (s, next) => s.forge(head(Math.max(next - 1, 0), Math.max(next - 1, 0), { end: true })),
  'an end of an eventless job': (s) => s.publisher.publish(endingsChannel(s.prefix), s.id),
  'many ends': (s) =>
    s.publisher.publish(endingsChannel(s.prefix), [...Array.from({ length: 100 }, uuidV7), s.id].join(',')),
  'a seal of another key': (s, next) =>
    s.forge(sealBatch(foreignKey, streamChannel(s.prefix, s.id), `${head(next, next)}\n${FORGED}`)),
  "another stream's message": async (s, next) => {
    const channel = streamChannel(s.prefix, uuidV7());
    return s.forge(sealBatch(await s.key.load(), channel, `${head(next, next)}\n${FORGED}`));
  },
  'another event under a true seal': (s, next) => s.forge(s.message(s.batch(next, 1)).replace(/\n.*/s, `\n${FORGED}`)),
  'another head under a true seal': (s, next) =>
    s.forge(s.message(s.batch(next, 1)).replace('"end":false', '"end":true')),
  'a seal cut short': (s, next) => s.forge(s.message(s.batch(next, 1)).replace(/"seal":"./, '"seal":"')),
  'an empty seal': (s, next) => s.forge(`{"seal":"",${head(next, next).slice(1)}\n${FORGED}`),
  'true messages again': async (s, next) => {
    for (let seq = 0; seq < next; seq++) await s.forge(s.message(s.batch(seq, 1)));
  },
  'what is no message': async (s) => {
    for (const text of ['', '{', 'null', '7', '[]', ',', '\n', '{"seal":"', 'x'.repeat(100_000)]) await s.forge(text);
  },
};

describe.each([
  ['committed', {}],
  ['immediate', { job: IMMEDIATE }],
])(
  'a follower of a stream (%s) sees its true events, each once, and its true end alone, when somebody forges',
  (_name, options) => {
    it.each(Object.entries(forgeries))('%s: nothing of it is shown', async (_what, forge) => {
      const s = await stageOn(file, options);
      const following = s.follow();
      await s.live();
      for (let seq = 0; seq < TRUE_EVENTS; seq++) {
        await forge(s, seq);
        await s.append(s.batch(seq, 1));
        await s.publish(s.batch(seq, 1));
      }
      await forge(s, TRUE_EVENTS);
      await expect.poll(s.seqs).toEqual(upTo(TRUE_EVENTS));
      await s.publish(await s.end(TRUE_EVENTS), true);
      await following;
      expect(s.seen.map(({ json }) => json)).toEqual([...s.batch(0, TRUE_EVENTS).events, '{"type":"end"}']);
    });
  },
);

it('a message without a seal, as an older build publishes it, has readers look at the journal soon', async () => {
  const s = await stageOn(file, { headCheckMs: 600_000, pollMs: 600_000 });
  const following = s.follow();
  await s.live();
  await s.append(s.batch(0, 2));
  await s.forge(encodeBatchMessage(s.batch(0, 2), false));
  await expect.poll(s.seqs).toEqual(upTo(2));
  await s.forge(encodeBatchMessage(await s.end(2), true));
  await following;
  expect(s.seqs()).toEqual(upTo(3));
});

it('a follower of an eventless job whose end an older build announces looks at the journal soon', async () => {
  const s = await stageOn(file, { headCheckMs: 600_000, pollMs: 600_000 });
  const following = s.follow();
  await s.live();
  await s.end(0);
  await s.publisher.publish(endingsChannel(s.prefix), [uuidV7(), s.id].join(','));
  await following;
  expect(s.seqs()).toEqual([0]);
});

it('forged messages, however many, bring on few looks at the journal and one warning', async () => {
  const s = await stageOn(file);
  const lines: string[] = [];
  const log = pino({ level: 'warn' }, { write: (line: string) => void lines.push(line) });
  const redis = s.subscriber.duplicate();
  onTestFinished(() => redis.disconnect());
  const hub = new ChannelHub({ redis, key: s.key, prefix: s.prefix, log });
  let looks = 0;
  const heard = Promise.withResolvers<void>();
  onTestFinished(hub.subscribe(s.id, { onBatch: () => heard.resolve(), onGap: () => void looks++ }));
  await expect.poll(() => hub.isLive(s.id)).toBe(true);
  looks = 0;
  const startedAt = performance.now();
  for (let i = 0; i < 2_000; i++) void s.forge(`${head(i, i)}\n${FORGED}`);
  await s.publish(s.batch(0, 1));
  await heard.promise;
  await expect.poll(() => looks).toBeGreaterThan(0);
  expect(looks).toBeLessThanOrEqual(Math.ceil((performance.now() - startedAt) / 250));
  expect(lines.map((line) => JSON.parse(line).msg)).toEqual([expect.stringContaining('without a valid seal')]);
  expect(lines.join('')).not.toContain('forged"');
});

describe('the seal of a message', () => {
  it('is of its channel and its text, and an older build reads the message as it was', async () => {
    const key = await new LiveKey(file.db).load();
    const batch = {
      streamId: uuidV7(),
      fence: 3,
      firstSeq: 4,
      events: ['{"type":"a","text":"é\\ud83d"}', '{"type":"b"}'],
    };
    for (const form of ['events', 'ahead', 'pointer'] as const) {
      const text = encodeBatchMessage(batch, true, form);
      const sealed = sealBatch(key, 'channel', text);
      expect(openBatch(key, 'channel', sealed)).toBe(text);
      expect(openBatch(key, 'other', sealed)).toBeUndefined();
      const { length: _length, ...read } = decodeBatchMessage(sealed) ?? {};
      expect(decodeBatchMessage(text)).toMatchObject(read);
      for (let at = 0; at < sealed.length; at++) {
        const changed = `${sealed.slice(0, at)}${sealed[at] === 'x' ? 'y' : 'x'}${sealed.slice(at + 1)}`;
        // What stands between the seal and the message is neither.
        expect(openBatch(key, 'channel', changed)).toBe(at === 31 || at === 32 ? text : undefined);
      }
    }
    const ids = [uuidV7(), uuidV7()].join(',');
    const endings = sealEndings(key, 'channel', ids);
    expect(openEndings(key, 'channel', endings)).toBe(ids);
    expect(openEndings(key, 'channel', ids)).toBeUndefined();
    expect(openEndings(key, 'channel', `${endings},${uuidV7()}`)).toBeUndefined();
  });

  it('has one key, whichever process asks first, also once it is there', async () => {
    await file.db.deleteFrom('live_key').execute();
    const keys = await Promise.all(Array.from({ length: 8 }, () => new LiveKey(file.db).load()));
    const later = await new LiveKey(file.db).load();
    for (const key of keys) expect(key.equals(later)).toBe(true);
  });

  it('waits for Postgres: a key that could not be read is asked for again', async () => {
    let fail = true;
    const db = new Proxy(file.db, {
      get: (target, name) => {
        if (fail && name === 'selectFrom') throw new Error('Connection terminated unexpectedly');
        const value = Reflect.get(target, name);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
    const key = new LiveKey(db);
    await expect(key.load()).rejects.toThrow('terminated');
    expect(key.loaded).toBeUndefined();
    fail = false;
    expect(await key.load()).toBe(key.loaded);
  });
});

it('a hub whose key could not be read takes its streams for not live, until it can', async () => {
  const s = await stageOn(file);
  const key = new LiveKey(file.db);
  let fail = true;
  const load = key.load.bind(key);
  key.load = () => (fail ? Promise.reject(new Error('Connection terminated unexpectedly')) : load());
  const redis = s.subscriber.duplicate();
  onTestFinished(() => redis.disconnect());
  const hub = new ChannelHub({ redis, key, prefix: s.prefix, log: silentLogger() });
  let heard = 0;
  const gap = Promise.withResolvers<void>();
  onTestFinished(hub.subscribe(s.id, { onBatch: () => void heard++, onGap: gap.resolve }));
  await expect.poll(() => s.publisher.publish(streamChannel(s.prefix, s.id), 'anything')).toBe(1);
  await s.publish(s.batch(0, 1));
  expect(hub.isLive(s.id)).toBe(false);
  fail = false;
  await gap.promise;
  expect(hub.isLive(s.id)).toBe(true);
  expect(heard).toBe(0);
  await s.publish(s.batch(0, 1));
  await expect.poll(() => heard).toBe(1);
});
