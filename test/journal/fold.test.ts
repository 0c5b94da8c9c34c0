import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createFolder, type FoldableEvent, fold, type JobEvent } from '../../src/index.ts';
import { processorMs } from '../helpers/work.ts';

/** Events in their places. */
const at = (...events: JobEvent[]): FoldableEvent[] => events.map((event, seq) => ({ seq, event }));
const delta = (text: string) => ({ type: 'delta', text });
const attempt = (n: number, rest: object = {}) => ({
  type: 'attempt',
  attempt: n,
  reason: 'crash',
  resumed: false,
  ...rest,
});
const words = { initial: [] as string[], reduce: (list: string[], event: JobEvent) => [...list, String(event.text)] };

describe('a fold', () => {
  it('gives text, sources, progress and result', async () => {
    const sources = [{ n: 1, path: 'a.md' }];
    expect(
      await fold(
        at({ type: 'sources', sources }, delta('Hel'), { type: 'progress', done: 1, total: 2 }, delta('lo'), {
          type: 'end',
          result: { text: 'Hello' },
        }),
      ),
    ).toEqual({
      status: 'completed',
      text: 'Hello',
      sources,
      progress: { done: 1, total: 2 },
      attempt: 1,
      attemptReason: undefined,
      retry: undefined,
      result: { text: 'Hello' },
      error: undefined,
      lastSeq: 4,
      value: undefined,
    });
  });

  it('discards all that an attempt which starts over supersedes', async () => {
    const state = await fold(
      at(
        { type: 'sources', sources: [1] },
        delta('lost'),
        { type: 'progress', done: 9 },
        { type: 'retry', attempt: 1, delayMs: 5, error: { code: 'HANDLER_ERROR', message: 'no' } },
        attempt(2, { reason: 'error' }),
        delta('kept'),
      ),
      words,
    );
    expect(state).toMatchObject({
      status: 'open',
      text: 'kept',
      sources: [],
      progress: undefined,
      retry: undefined,
      attempt: 2,
      attemptReason: 'error',
      value: ['kept'],
      lastSeq: 5,
    });
  });

  it('keeps what came before the checkpoint where an attempt resumes, also of the attempts before', async () => {
    const state = await fold(
      at(
        delta('a'),
        delta('b'),
        delta('lost'),
        attempt(2, { resumed: true, from: 2 }),
        delta('c'),
        delta('lost too'),
        attempt(3, { resumed: true, from: 5 }),
        delta('d'),
      ),
      words,
    );
    expect(state).toMatchObject({ text: 'abcd', value: ['a', 'b', 'c', 'd'], attempt: 3 });
  });

  it('keeps everything where an attempt resumes without saying from where', async () => {
    expect((await fold(at(delta('a'), attempt(2, { resumed: true }), delta('b')))).text).toBe('ab');
  });

  it('has no outcome any more after a redrive, and then another', async () => {
    const folder = createFolder();
    const events = at(
      delta('x'),
      { type: 'error', error: { code: 'HANDLER_ERROR', message: 'no' } },
      attempt(1, { reason: 'redrive' }),
      { type: 'end' },
    );
    const states = events.map((event) => folder.add(event));
    expect(states.map(({ status, error, text }) => [status, error?.code, text])).toEqual([
      ['open', undefined, 'x'],
      ['failed', 'HANDLER_ERROR', 'x'],
      ['open', undefined, ''],
      ['completed', undefined, ''],
    ]);
  });

  it('says that a retry is to come', async () => {
    const error = { code: 'HANDLER_ERROR', message: 'no' };
    expect((await fold(at(delta('a'), { type: 'retry', attempt: 1, delayMs: 5, error }))).retry).toEqual({
      delayMs: 5,
      error,
    });
  });

  it('takes a cancel for an end', async () => {
    expect(await fold(at(delta('a'), { type: 'cancelled' }))).toMatchObject({ status: 'cancelled', text: 'a' });
  });

  it('takes an event once, however often a reconnect repeats it', () => {
    const folder = createFolder(words);
    const [first, second] = at(delta('a'), delta('b')) as [FoldableEvent, FoldableEvent];
    folder.add(first);
    const state = folder.add(second);
    expect(folder.add(first)).toBe(state);
    expect(folder.add(second)).toBe(state);
    expect(state.value).toEqual(['a', 'b']);
  });

  it('starts anywhere, and with gaps where a reader asked for some types alone', async () => {
    const state = await fold([
      { seq: 7, event: delta('a') },
      { seq: 12, event: delta('b') },
    ]);
    expect(state).toMatchObject({ text: 'ab', lastSeq: 12 });
  });

  it('forgets what a rewind takes back, an attempt too, and takes what comes in its place', () => {
    const folder = createFolder();
    for (const event of at(delta('a'), delta('b'), attempt(2), delta('c'))) folder.add(event);
    expect(folder.state.text).toBe('c');
    expect(folder.add({ seq: 1, event: { type: 'rewind', from: 2 } })).toMatchObject({
      text: 'ab',
      attempt: 1,
      lastSeq: 1,
    });
    folder.add({ seq: 2, event: attempt(2, { resumed: true, from: 1 }) });
    expect(folder.add({ seq: 3, event: delta('d') })).toMatchObject({ text: 'ad', attempt: 2 });
  });

  it('has new states and leaves the old ones as they were', () => {
    const folder = createFolder();
    const [a, b] = at(delta('a'), delta('b')) as [FoldableEvent, FoldableEvent];
    const first = folder.add(a);
    folder.add(b);
    expect(first).toMatchObject({ text: 'a', lastSeq: 0 });
  });

  it('follows an async iterable, and fails as it fails', async () => {
    async function* broken() {
      yield { seq: 0, event: delta('a') };
      throw new Error('cut');
    }
    await expect(fold(broken())).rejects.toThrow('cut');
  });

  it('is what a plain list of the events that count comes to, cut and repeated anywhere', () => {
    const step = fc.oneof(
      { weight: 6, arbitrary: fc.string({ maxLength: 3 }).map((text) => ({ kind: 'delta' as const, text })) },
      { weight: 1, arbitrary: fc.constant({ kind: 'restart' as const }) },
      { weight: 1, arbitrary: fc.nat(20).map((back) => ({ kind: 'resume' as const, back })) },
      { weight: 1, arbitrary: fc.nat(5).map((back) => ({ kind: 'rewind' as const, back })) },
      { weight: 2, arbitrary: fc.nat(5).map((back) => ({ kind: 'repeat' as const, back })) },
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const folder = createFolder();
        let journal: JobEvent[] = [];
        const say = (event: JobEvent) => {
          folder.add({ seq: journal.length, event });
          journal.push(event);
        };
        for (const one of steps) {
          if (one.kind === 'delta') say(delta(one.text));
          else if (one.kind === 'restart') say(attempt(2));
          else if (one.kind === 'resume')
            say(attempt(2, { resumed: true, from: Math.max(0, journal.length - one.back) }));
          else if (one.kind === 'repeat') {
            const seq = Math.max(0, journal.length - 1 - one.back);
            if (journal[seq] !== undefined) folder.add({ seq, event: journal[seq] });
          } else {
            const from = Math.max(0, journal.length - one.back);
            journal = journal.slice(0, from);
            folder.add({ seq: from - 1, event: { type: 'rewind', from } });
          }
        }
        expect(folder.state.text).toBe(oracle(journal));
        expect(folder.state.lastSeq).toBe(journal.length - 1);
      }),
      { numRuns: 500 },
    );
  });

  it('of 20,000 events takes no time to speak of, superseded or not', () => {
    const folder = createFolder();
    const spent = processorMs(() => {
      for (let seq = 0; seq < 20_000; seq++) folder.add({ seq, event: delta('word ') });
      folder.add({ seq: 20_000, event: attempt(2, { resumed: true, from: 10_000 }) });
      expect(folder.state.text).toHaveLength(50_000);
    });
    expect(spent).toBeLessThan(2_000);
  });

  it('can be bundled for a browser: its module imports types, and modules that import types alone', () => {
    const importsOf = (file: string) =>
      readFileSync(new URL(`../../src/journal/${file}`, import.meta.url), 'utf8').match(
        /^(import|export) .* from '.*';$/gm,
      ) ?? [];
    const values = importsOf('fold.ts').filter((line) => !line.startsWith('import type '));
    expect(values).toEqual(["import { supersededFrom } from './superseded.ts';"]);
    for (const line of importsOf('superseded.ts')) expect(line).toMatch(/^import type /);
    const { exports } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'));
    expect(exports['./fold']['oncefleet-source']).toBe('./src/journal/fold.ts');
  });
});

/** The same, by a walk over the whole list for every event. */
function oracle(journal: readonly JobEvent[]): string {
  const counts = (seq: number) =>
    journal.slice(seq + 1).every((later) => {
      if (later.type !== 'attempt') return true;
      return later.resumed === true && (later.from === undefined || seq < (later.from as number));
    });
  return journal
    .filter((event, seq) => event.type === 'delta' && counts(seq))
    .map((event) => event.text)
    .join('');
}
