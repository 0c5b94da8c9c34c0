import { describe, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { sweepAlong } from '../../src/db/retention.ts';
import { defineJob, type StreamEvent } from '../../src/index.ts';
import { claimFree, expireLease, journalOf, refusePoison, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { IMMEDIATE, type Stage, stage as stageOn, upTo } from './stage.ts';

const file = useDatabase();
const stage = (options: Parameters<typeof stageOn>[1] = {}) => stageOn(file, { job: IMMEDIATE, ...options });

/** What a reader holds after all it was told, seq by seq. */
function held(events: readonly StreamEvent[]): StreamEvent[] {
  let kept: StreamEvent[] = [];
  for (const event of events) {
    if (event.event.type === 'rewind') {
      const { from } = event.event as { type: 'rewind'; from: number };
      kept = kept.filter(({ seq }) => seq < from);
    } else kept.push(event);
  }
  kept.forEach((event, i) => {
    if (event.seq !== i) throw new Error(`seq ${event.seq} at place ${i}`);
  });
  return kept;
}

const journalTexts = async (id: string) => (await journalOf(file.db, id)).map(({ event }) => JSON.stringify(event));
const heldTexts = (events: readonly StreamEvent[]) => held(events).map(({ json }) => json);

/** Another worker takes the stream over. */
async function takeOver(s: Stage): Promise<void> {
  await expireLease(file.db, s.id);
  await claimFree(file.db, s.id);
}

/** Its retention is over. */
async function removeEvents(s: Stage): Promise<void> {
  const all = { streamMs: 0, jobMs: Infinity };
  await expect.poll(async () => (await sweepAlong(file.db, 'stream', 'default', all, 100)).seen).toBe(0);
  expect(await journalOf(file.db, s.id)).toEqual([]);
}

describe('an immediate stream', () => {
  it('is read before its commit, with cursors that say whose event it was', async () => {
    const s = await stage();
    const following = s.follow();
    await s.live();
    await s.publish(s.batch(0, 2), false, 'ahead');
    await expect.poll(s.seqs).toEqual([0, 1]);
    expect(await journalOf(file.db, s.id)).toEqual([]);
    expect(s.seen.map(({ cursor }) => cursor)).toEqual(['1-0', '1-1']);
    await s.append(s.batch(0, 2));
    await s.publish(s.batch(0, 2), false, 'pointer');
    await s.publish(await s.end(2), true);
    await following;
    expect(s.seqs()).toEqual(upTo(3));
    expect(s.seen.at(-1)?.cursor).toBe('1-2');
  });

  it('is given in order, before its commit, to a reader that has asked several times at once', async () => {
    const s = await stage();
    const follower = s.followers.follow({ streamId: s.id, tenant: 'default', after: -1 });
    onTestFinished(async () => void (await follower.return()));
    const asked = Promise.all(Array.from({ length: 4 }, () => follower.next()));
    await s.live();
    await s.publish(s.batch(0, 2), false, 'ahead');
    await s.publish(s.batch(2, 2), false, 'ahead');
    expect((await asked).map((step) => step.value?.seq)).toEqual(upTo(4));
    expect(await journalOf(file.db, s.id)).toEqual([]);
  });

  it('has the same cursors when it is read from the journal', async () => {
    const s = await stage();
    await s.append(s.batch(0, 2));
    await s.end(2);
    await s.follow();
    expect(s.seen.map(({ cursor }) => cursor)).toEqual(['1-0', '1-1', '1-2']);
    for (const after of [1, '1-1', '1']) {
      const page = await s.followers.readPage(s.id, 'default', after, 10);
      expect(page.events.map(({ seq }) => seq)).toEqual([2]);
    }
  });

  it('rewinds its readers to where a crash cut it, then goes on with the next attempt', async () => {
    const s = await stage();
    const following = s.follow();
    await s.live();
    await s.publish(s.batch(0, 6), false, 'ahead');
    await s.append(s.batch(0, 2));
    await s.publish(s.batch(0, 2), false, 'pointer');
    await expect.poll(s.seqs).toEqual(upTo(6));
    await takeOver(s);
    await s.publish(s.batch(2, 1, 2), false, 'ahead');
    await expect.poll(() => s.seen.length).toBe(8);
    expect(s.seen[6]).toMatchObject({ seq: 1, cursor: '2-1', event: { type: 'rewind', from: 2 } });
    expect(s.seen[7]).toMatchObject({ seq: 2, fence: 2, cursor: '2-2' });
    await s.append(s.batch(2, 1, 2));
    await s.publish(await s.end(3, 2), true);
    await following;
    expect(heldTexts(s.seen)).toEqual(await journalTexts(s.id));
  });

  it('rewinds also a reader that heard nothing of the takeover', async () => {
    const s = await stage({ headCheckMs: 30 });
    const following = s.follow();
    await s.live();
    await s.publish(s.batch(0, 3), false, 'ahead');
    await expect.poll(s.seqs).toEqual(upTo(3));
    await takeOver(s);
    await expect.poll(() => s.seen.at(-1)?.event).toEqual({ type: 'rewind', from: 0 });
    expect(s.seen.at(-1)?.cursor).toBe(-1);
    await s.append(s.batch(0, 5, 2));
    await s.end(5, 2);
    await following;
    expect(heldTexts(s.seen)).toEqual(await journalTexts(s.id));
  });

  it.each([
    ['lost', '1-4', 2],
    ['the last that is sure', '1-1', undefined],
    ['a committed one, named by its seq alone', 1, undefined],
  ])('answers a reader whose cursor is %s', async (_name, after, rewind) => {
    const s = await stage();
    await s.append(s.batch(0, 2));
    await takeOver(s);
    await s.append(s.batch(2, 5, 2));
    await s.end(7, 2);
    await s.follow(after);
    const first = s.seen[0]?.event;
    expect(first).toEqual(rewind === undefined ? { type: 'n', i: 2 } : { type: 'rewind', from: rewind });
    expect(s.seen.filter(({ event }) => event.type !== 'rewind').map(({ seq }) => seq)).toEqual([2, 3, 4, 5, 6, 7]);
    const page = await s.followers.readPage(s.id, 'default', after, 100);
    expect(page.events.map(({ json }) => json)).toEqual(s.seen.map(({ json }) => json));
    expect(page).toMatchObject({ next: 7, finished: true });
  });

  it.each([
    ['the seq of the terminal event, of a run that died', '1-7'],
    ['a seq beyond the end, of a run that died', '1-20'],
    ['a seq that the next run wrote otherwise', '1-4'],
  ])(
    'whose events are gone says so to a reader that has %s, and does not end as if it had all',
    async (_name, after) => {
      const s = await stage();
      await s.append(s.batch(0, 2));
      await takeOver(s);
      await s.append(s.batch(2, 5, 2));
      await s.end(7, 2);
      await removeEvents(s);
      await expect(s.follow(after)).rejects.toMatchObject({ code: 'STREAM_EXPIRED', details: { keptFrom: 8 } });
      await expect(s.followers.readPage(s.id, 'default', after, 10)).rejects.toMatchObject({ code: 'STREAM_EXPIRED' });
      expect(s.seen).toEqual([]);
    },
  );

  it.each(['2-7', 7])('whose events are gone ends for a reader that had them all: %j', async (after) => {
    const s = await stage();
    await s.append(s.batch(0, 2));
    await takeOver(s);
    await s.append(s.batch(2, 5, 2));
    await s.end(7, 2);
    await removeEvents(s);
    await s.follow(after);
    expect(s.seen).toEqual([]);
    expect(await s.followers.readPage(s.id, 'default', after, 10)).toEqual({ events: [], next: after, finished: true });
  });

  it('whose events are gone says so to a reader that listened all the time and heard nothing', async () => {
    const s = await stage();
    const following = s.follow();
    await s.live();
    await s.publish(s.batch(0, 12), false, 'ahead');
    await expect.poll(s.seqs).toEqual(upTo(12));
    await takeOver(s);
    await s.append(s.batch(0, 7, 2));
    const end = await s.end(7, 2);
    await removeEvents(s);
    await s.publish(end, true);
    await expect(following).rejects.toMatchObject({ code: 'STREAM_EXPIRED' });
    expect(s.seqs()).toEqual(upTo(12));
  });

  it('lets a reader wait whose cursor is ahead of the journal while its owner lives', async () => {
    const s = await stage();
    await s.append(s.batch(0, 2));
    const page = await s.followers.readPage(s.id, 'default', '1-3', 10);
    expect(page).toEqual({ events: [], next: '1-3', finished: false });
    const following = s.follow('1-3');
    await s.live();
    await s.publish(s.batch(4, 1), false, 'ahead');
    await expect.poll(s.seqs).toEqual([4]);
    await s.append(s.batch(2, 3));
    await s.publish(await s.end(5), true);
    await following;
    expect(s.seqs()).toEqual([4, 5]);
  });

  it.each([
    ['of a fence that nobody had', '2-0'],
    ['beyond the end, without its fence', 5],
    ['that is none', '1-'],
  ])('refuses a cursor %s', async (_name, after) => {
    const s = await stage();
    await s.append(s.batch(0, 2));
    await expect(s.follow(after)).rejects.toMatchObject({ code: 'CURSOR_INVALID' });
  });

  it('gives no event of a worker that lost the stream and does not know', async () => {
    const s = await stage();
    const following = s.follow();
    await s.live();
    await takeOver(s);
    await s.publish(s.batch(0, 1, 2), false, 'ahead');
    await expect.poll(s.seqs).toEqual([0]);
    await s.publish(s.batch(0, 3, 1), false, 'ahead');
    await s.publish(s.batch(1, 1, 2), false, 'ahead');
    await expect
      .poll(() => s.seen.map(({ fence, seq }) => [fence, seq]))
      .toEqual([
        [2, 0],
        [2, 1],
      ]);
    await s.append(s.batch(0, 2, 2));
    await s.publish(await s.end(2, 2), true);
    await following;
  });

  it('takes back what such a worker sent before anybody knew', async () => {
    const s = await stage();
    const following = s.follow();
    await s.live();
    await takeOver(s);
    await s.publish(s.batch(0, 3, 1), false, 'ahead');
    await expect.poll(s.seqs).toEqual(upTo(3));
    await s.publish(s.batch(0, 1, 2), false, 'ahead');
    await expect.poll(() => s.seen.at(-1)?.fence).toBe(2);
    await s.append(s.batch(0, 1, 2));
    await s.publish(await s.end(1, 2), true);
    await following;
    expect(heldTexts(s.seen)).toEqual(await journalTexts(s.id));
  });

  it('puts messages in order that came in another, and waits for one that was lost', async () => {
    const s = await stage();
    const following = s.follow();
    await s.live();
    for (const seq of [1, 0, 3, 2, 2, 5]) await s.publish(s.batch(seq, 1), false, 'ahead');
    await expect.poll(s.seqs).toEqual(upTo(4));
    // 4 was lost on the bus; its commit says where it is.
    await s.append(s.batch(0, 5));
    await s.publish(s.batch(0, 5), false, 'pointer');
    await expect.poll(s.seqs).toEqual(upTo(6));
    await s.append(s.batch(5, 1));
    await s.publish(await s.end(6), true);
    await following;
    expect(s.seen.filter(({ event }) => event.type === 'rewind')).toEqual([]);
  });

  it('finds a lost message soon, even if its commit was lost on the bus too', async () => {
    const s = await stage({ headCheckMs: 60_000, pollMs: 20 });
    const following = s.follow();
    await s.live();
    await s.publish(s.batch(1, 1), false, 'ahead');
    await s.append(s.batch(0, 2));
    await expect.poll(s.seqs).toEqual(upTo(2));
    await s.publish(await s.end(2), true);
    await following;
  });

  it('rewinds when its run ended without events it had sent ahead', async () => {
    const s = await stage();
    const following = s.follow();
    await s.live();
    await s.publish(s.batch(0, 3), false, 'ahead');
    await expect.poll(s.seqs).toEqual(upTo(3));
    await s.append(s.batch(0, 2));
    // As after a refusal: the outcome stands where the refused event would have.
    await s.publish(await s.end(2), true);
    await following;
    expect(heldTexts(s.seen)).toEqual(await journalTexts(s.id));
    expect(s.seen.at(-1)?.event.type).toBe('end');
  });

  it('gives committed events alone to who asks for them, and never rewinds', async () => {
    const s = await stage();
    const seen: StreamEvent[] = [];
    const following = (async () => {
      for await (const event of s.followers.follow({ streamId: s.id, tenant: 'default', after: -1, committed: true }))
        seen.push(event);
    })();
    await s.live();
    await s.publish(s.batch(0, 4), false, 'ahead');
    await s.append(s.batch(0, 2));
    await s.publish(s.batch(0, 2), false, 'pointer');
    await expect.poll(() => seen.map(({ seq }) => seq)).toEqual([0, 1]);
    await takeOver(s);
    await s.append(s.batch(2, 1, 2));
    await s.publish(await s.end(3, 2), true);
    await following;
    expect(seen.map(({ json }) => json)).toEqual(await journalTexts(s.id));
  });

  it('too large for a message is read once it is committed', async () => {
    const s = await stage();
    const following = s.follow();
    await s.live();
    const batch = { ...s.batch(0, 1), events: [JSON.stringify({ type: 'n', text: 'x'.repeat(300_000) })] };
    await s.publish(batch, false, 'ahead');
    await s.publish(s.batch(1, 1), false, 'ahead');
    await s.append(batch);
    await s.publish(batch, false, 'pointer');
    await expect.poll(s.seqs).toEqual([0, 1]);
    await s.append(s.batch(1, 1));
    await s.publish(await s.end(2), true);
    await following;
  });
});

describe('a job with publish: immediate', () => {
  it('is heard before Postgres has its events, and ends as the journal does', async () => {
    const emitted = Promise.withResolvers<void>();
    const heard = Promise.withResolvers<void>();
    const job = defineJob({
      name: 'immediate',
      publish: 'immediate',
      input: z.object({}),
      async run(_input, ctx) {
        await emitted.promise;
        for (let i = 0; i < 5; i++) await ctx.emit({ type: 'n', i });
        await heard.promise;
      },
    });
    // A linger this long never ends by itself: what is heard was not committed.
    const fleet = createTestFleet(file.url, [job], { lingerMs: 60_000 });
    await fleet.work();
    const handle = await fleet.enqueue(job, {});
    const follower = handle.events();
    onTestFinished(async () => void (await follower.return()));
    const events: StreamEvent[] = [];
    const reading = (async () => {
      for await (const event of follower) {
        events.push(event);
        if (events.length === 5) {
          expect(await journalOf(file.db, handle.id)).toEqual([]);
          heard.resolve();
        }
      }
    })();
    await expect.poll(async () => (await fleet.get(handle.id))?.status).toBe('running');
    emitted.resolve();
    await reading;
    expect(events.map(({ cursor }) => cursor)).toEqual(upTo(6).map((seq) => `1-${seq}`));
    expect(heldTexts(events)).toEqual(await journalTexts(handle.id));
    await handle.result();
  });

  it.each([
    ['the first', 0],
    ['a later', 2],
  ])('%s event of which Postgres refuses takes it back from its readers, and fails at its seq', async (_name, at) => {
    const name = `refused-${at}`;
    const heard = Promise.withResolvers<void>();
    const job = defineJob({
      name,
      publish: 'immediate',
      input: z.object({}),
      async run(_input, ctx) {
        for (let i = 0; i < at; i++) await ctx.emit({ type: 'n', i });
        await ctx.flush();
        await ctx.emit({ type: 'n', text: 'poison' });
        await ctx.emit({ type: 'n', i: at + 1 });
        await heard.promise;
        await ctx.flush();
      },
    });
    await refusePoison(file.db);
    const fleet = createTestFleet(file.url, [job], { lingerMs: 60_000 });
    const handle = await fleet.enqueue(job, {});
    const live: StreamEvent[] = [];
    const following = (async () => {
      for await (const event of handle.events()) {
        live.push(event);
        if (event.seq === at + 1) heard.resolve();
      }
    })();
    await fleet.work();
    await expect(handle.result({ timeoutMs: 10_000 })).rejects.toMatchObject({ code: 'JOURNAL_REFUSED' });
    await following;
    const journal = await journalTexts(handle.id);
    expect(journal).toHaveLength(at + 1);
    expect(JSON.parse(journal[at] as string)).toMatchObject({ type: 'error', error: { code: 'JOURNAL_REFUSED' } });
    expect(heldTexts(live)).toEqual(journal);
    // Those who come back with the cursor of an event that was refused, or that came after it.
    for (const lost of [live[at], live[at + 1]]) {
      const kept = live.slice(0, live.indexOf(lost as StreamEvent) + 1);
      for await (const event of handle.events({ after: (lost as StreamEvent).cursor })) kept.push(event);
      expect(heldTexts(kept)).toEqual(journal);
    }
    // And with that of the terminal event, which is at the same seq.
    expect(await fleet.readEvents(handle.id, { after: live.at(-1)?.cursor ?? -1 })).toMatchObject({
      events: [],
      finished: true,
    });
  });
});
