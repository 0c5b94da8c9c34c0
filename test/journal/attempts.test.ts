import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { defineJob, type JobContext, type JobEvent } from '../../src/index.ts';
import { readPrevious } from '../../src/journal/previous.ts';
import { claimFree, expireLease, insertJob, journalOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { stage as stageOn } from './stage.ts';

const file = useDatabase();

interface Word extends JobEvent {
  type: 'word';
  text: string;
}

/** What an attempt finds, as one text. */
async function previousText(ctx: JobContext): Promise<string> {
  let text = '';
  for await (const event of ctx.previous) text += event.type === 'word' ? (event as Word).text : `<${event.type}>`;
  return text;
}

/** Runs a job that says two words an attempt and fails until the third; gives what each attempt found. */
async function runThree(options: { onRetry?: 'restart' | 'continue'; checkpointIn?: number }) {
  const found: string[] = [];
  const job = defineJob({
    name: `three-${options.onRetry}-${options.checkpointIn}`,
    ...(options.onRetry === undefined ? {} : { onRetry: options.onRetry }),
    backoff: { type: 'fixed', delayMs: 0 },
    input: z.object({}),
    async run(_input, ctx) {
      found.push(await previousText(ctx));
      await ctx.emit({ type: 'word', text: `${ctx.attempt}a` });
      if (ctx.attempt === options.checkpointIn) await ctx.checkpoint(true);
      await ctx.emit({ type: 'word', text: `${ctx.attempt}b` });
      if (ctx.attempt < 3) throw new Error('not yet');
      expect(await previousText(ctx)).toBe(found.at(-1));
      return found.at(-1);
    },
  });
  const fleet = createTestFleet(file.url, [job]);
  await fleet.work();
  const handle = await fleet.enqueue(job, {});
  let text: { seq: number; text: string }[] = [];
  for await (const { seq, event } of handle.events()) {
    if (event.type === 'word') text.push({ seq, text: (event as Word).text });
    if (event.type !== 'attempt') continue;
    const { resumed, from } = event as { resumed: boolean; from?: number };
    text = text.filter((word) => resumed && word.seq < (from ?? seq));
  }
  const attempts = (await journalOf(file.db, handle.id)).filter(({ event }) => event.type === 'attempt');
  return { found, read: text.map((word) => word.text).join(''), attempts };
}

describe('a later attempt', () => {
  it('starts over unless its job says otherwise: it finds nothing, and readers keep nothing', async () => {
    expect(await runThree({})).toMatchObject({
      found: ['', '', ''],
      read: '3a3b',
      attempts: [{ event: { resumed: false } }, { event: { resumed: false } }],
    });
  });

  it('of a job that continues finds all that was said, and readers keep it', async () => {
    const { found, read, attempts } = await runThree({ onRetry: 'continue' });
    expect(found).toEqual(['', '1a1b', '1a1b2a2b']);
    expect(read).toBe('1a1b2a2b3a3b');
    // Nothing before it is superseded, as its own seq says.
    expect(attempts.map(({ seq, event }) => [event.resumed, event.from === seq])).toEqual([
      [true, true],
      [true, true],
    ]);
  });

  it('that resumes from a checkpoint finds what came before it, as readers have it', async () => {
    const { found, read } = await runThree({ onRetry: 'restart', checkpointIn: 1 });
    expect(found).toEqual(['', '1a', '1a']);
    expect(read).toBe('1a3a3b');
  });

  it('of a job that continues keeps also what came after its checkpoint', async () => {
    const { found, read } = await runThree({ onRetry: 'continue', checkpointIn: 1 });
    expect(found).toEqual(['', '1a1b', '1a1b2a2b']);
    expect(read).toBe('1a1b2a2b3a3b');
  });

  it('does not find what an attempt before the change of policy had superseded', async () => {
    const s = await stageOn(file);
    await s.append({ ...s.batch(0, 2), events: ['{"type":"word","text":"old"}', '{"type":"retry","attempt":1}'] });
    await expireLease(file.db, s.id);
    await claimFree(file.db, s.id);
    await s.append({
      ...s.batch(2, 3, 2),
      events: [
        '{"type":"attempt","attempt":2,"reason":"error","resumed":false}',
        '{"type":"word","text":"new \\ud83d \\u0000"}',
        '{"type":"progress","done":1}',
      ],
    });
    const start = { type: 'attempt', attempt: 3, reason: 'crash', resumed: true, from: 5, seq: 5 } as const;
    const events = [];
    for await (const event of readPrevious(file.db, s.id, start)) events.push(event);
    expect(events).toEqual([
      { type: 'word', text: 'new \ud83d \0' },
      { type: 'progress', done: 1 },
    ]);
  });

  it('reads what it finds as it goes, and may stop at any event', async () => {
    const id = await insertJob(file.db);
    await claimFree(file.db, id);
    const s = await stageOn(file);
    for (let i = 0; i < 40; i++) await s.append(s.batch(i * 25, 25));
    const start = { type: 'attempt', attempt: 2, reason: 'crash', resumed: true, from: 1_000, seq: 1_000 } as const;
    let count = 0;
    for await (const event of readPrevious(file.db, s.id, start)) {
      expect(event.i).toBe(count++);
      if (count === 30) break;
    }
    expect(count).toBe(30);
    count = 0;
    for await (const event of readPrevious(file.db, s.id, start)) expect(event.i).toBe(count++);
    expect(count).toBe(1_000);
  });
});
