import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { defineJob } from '../../src/index.ts';
import { decodeBatchMessage, encodeBatchMessage } from '../../src/journal/message.ts';
import { journalOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';

const file = useDatabase();

/** Promise 9: each of these goes in and comes out unchanged, live, replayed, as input and as result. */
const PAYLOADS: [string, unknown][] = [
  ['NUL', 'a\u0000b'],
  ['a lone high surrogate', 'x\ud83d'],
  ['a lone low surrogate', '\ude00y'],
  ['1 MB of text', 'ü'.repeat(1024 * 1024)],
  ['deep nesting', JSON.parse(`${'{"a":['.repeat(400)}1${']}'.repeat(400)}`)],
  ['__proto__ keys', JSON.parse('{"__proto__":{"polluted":true},"constructor":{"prototype":1}}')],
  ['line breaks of every kind', 'a\r\nb\rc\nd\u2028e\u2029f\u0085g'],
  ['all of ASCII', String.fromCharCode(...Array.from({ length: 128 }, (_, i) => i))],
  ['quotes and backslashes', '"\\"\\u0000\\\\\''],
  ['numbers', [0, -1.5, 1e300, 5e-324, Number.MAX_SAFE_INTEGER]],
  ['keys that look like numbers', JSON.parse('{"2":1,"10":2,"b":3,"1":4}')],
];

describe('any payload', () => {
  it.each(PAYLOADS)('%s is journalled, published and replayed unchanged', async (_name, payload) => {
    const job = defineJob({
      name: 'echo',
      input: z.object({ payload: z.unknown() }),
      async run(input, ctx) {
        await ctx.emit({ type: 'echo', payload: input.payload });
        await ctx.checkpoint(input.payload);
        return input.payload;
      },
    });
    const fleet = createTestFleet(file.url, [job]);
    const handle = await fleet.enqueue(job, { payload });
    const live: string[] = [];
    const following = (async () => {
      for await (const event of handle.events()) live.push(event.json);
    })();
    await fleet.work();
    expect(JSON.stringify(await handle.result({ timeoutMs: 20_000 }))).toBe(JSON.stringify(payload));
    await following;
    const replayed: string[] = [];
    for await (const event of fleet.follow(handle.id)) replayed.push(event.json);
    const expected = [JSON.stringify({ type: 'echo', payload }), JSON.stringify({ type: 'end', result: payload })];
    expect(live).toEqual(expected);
    expect(replayed).toEqual(expected);
    expect((await journalOf(file.db, handle.id)).map(({ event }) => JSON.stringify(event))).toEqual(expected);
    expect(({} as Record<string, unknown>).polluted).toBeUndefined();
  });

  it('a surrogate pair that tokens split comes together again at the reader', async () => {
    const job = defineJob({
      name: 'split',
      input: z.object({}),
      async run(_input, ctx) {
        for (const unit of ['\ud83d', '\ude00']) await ctx.emit({ type: 'delta', text: unit });
      },
    });
    const fleet = createTestFleet(file.url, [job]);
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    let text = '';
    for await (const { event } of handle.events())
      if (event.type === 'delta') text += (event as unknown as { text: string }).text;
    expect(text).toBe('😀');
  });
});

describe('a live message', () => {
  const batch = { streamId: 's', fence: 3, firstSeq: 5, events: ['{"type":"a"}', '{"type":"b","x":"\\u0000"}'] };

  it('comes back as it went', () => {
    expect(decodeBatchMessage(encodeBatchMessage(batch, true))).toMatchObject({
      firstSeq: 5,
      lastSeq: 6,
      fence: 3,
      end: true,
      committed: true,
      events: batch.events,
    });
    expect(decodeBatchMessage(encodeBatchMessage(batch, false, 'ahead'))).toMatchObject({
      committed: false,
      events: batch.events,
    });
  });

  it('points at the journal when its events were told ahead of it', () => {
    expect(decodeBatchMessage(encodeBatchMessage(batch, false, 'pointer'))).toMatchObject({
      firstSeq: 5,
      lastSeq: 6,
      committed: true,
      events: undefined,
    });
  });

  it('points at the journal where an event has a line break of its own', () => {
    const odd = { ...batch, events: ['{"type":\n"a"}', '{"type":"b"}'] };
    expect(decodeBatchMessage(encodeBatchMessage(odd, false))).toMatchObject({ lastSeq: 6, events: undefined });
  });

  it('points at the journal when it would be too large', () => {
    const large = { ...batch, events: [JSON.stringify({ type: 'a', text: 'x'.repeat(300_000) })] };
    expect(decodeBatchMessage(encodeBatchMessage(large, false))).toMatchObject({
      firstSeq: 5,
      lastSeq: 5,
      fence: 3,
      end: false,
      events: undefined,
    });
  });

  it.each([
    '',
    'null',
    '[]',
    '{"first":1}',
    '{"first":2,"last":1,"fence":1,"end":false}',
    '{"first":0,"last":1,"fence":1,"end":false}\n{}',
    '{',
  ])('that is none is ignored: %s', (text) => {
    expect(decodeBatchMessage(text)).toBeUndefined();
  });
});
