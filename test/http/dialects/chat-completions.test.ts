import fc from 'fast-check';
import { expect, it } from 'vitest';
import { ChatCompletionDialect } from '../../../src/http/dialects/chat-completions.ts';
import { ReconnectRequired } from '../../../src/http/dialects/dialect.ts';
import { frameOf } from '../../../src/http/frames.ts';
import type { StreamEvent } from '../../../src/journal/event.ts';
import { fold } from '../../../src/journal/fold.ts';
import { journals } from './journals.ts';

const HEAD = { jobId: '01900000-0000-7000-8000-000000000001', createdAt: 1, model: 'm', includeUsage: true };

function project(journal: readonly StreamEvent[], from = -1) {
  const dialect = new ChatCompletionDialect({ ...HEAD, from });
  const text = dialect.open() + journal.map((event) => frameOf(dialect, event)).join('') + dialect.close();
  return { dialect, data: text.split('\n\n').slice(0, -1) };
}

it('sends a reader that comes after the last start over the text that counts, and one ending', async () => {
  await fc.assert(
    fc.asyncProperty(journals, async (journal) => {
      const { dialect } = project(journal, Number.POSITIVE_INFINITY);
      const { text } = await fold(journal);
      expect(dialect.text).toBe(text);
      const { data } = project(journal, dialect.startedOver);
      const failed = journal.at(-1)?.event.type !== 'end';
      expect(data.at(-1) === 'data: [DONE]').toBe(!failed);
      const chunks = data.slice(0, failed ? data.length : -1).map((frame) => JSON.parse(frame.slice(6)));
      expect(chunks[0].choices[0].delta).toEqual({ role: 'assistant', content: '' });
      expect(chunks.map(({ choices }) => choices?.[0]?.delta.content ?? '').join('')).toBe(text);
      const reasons = chunks.flatMap(({ choices }) => choices?.[0]?.finish_reason ?? []);
      expect(reasons).toEqual(failed ? [] : ['stop']);
      expect(chunks.at(-1)).toMatchObject(failed ? { error: { type: 'server_error' } } : { choices: [] });
    }),
  );
});

it('is cut off where something that was sent is taken back, and nowhere else', () => {
  fc.assert(
    fc.property(journals, (journal) => {
      const { startedOver } = project(journal, Number.POSITIVE_INFINITY).dialect;
      if (startedOver === -1) project(journal);
      else expect(() => project(journal)).toThrow(ReconnectRequired);
    }),
  );
});

it('is shared by readers that have had the same, and then is the same; one that waits shares nothing', () => {
  fc.assert(
    fc.property(journals, fc.nat(), fc.boolean(), (journal, cut, includeUsage) => {
      const options = { ...HEAD, includeUsage };
      const { startedOver } = project(journal, Number.POSITIVE_INFINITY).dialect;
      const at = cut % (journal.length + 1);
      const [one, other] = [0, 1].map(() => new ChatCompletionDialect({ ...options, from: startedOver }));
      if (one === undefined || other === undefined) return;
      let text = one.open();
      other.open();
      for (const event of journal.slice(0, at)) text += frameOf(one, event);
      const waits = startedOver >= (journal[at]?.seq ?? journal.length);
      expect(one.common === undefined).toBe(waits);
      if (waits) return;
      // The other has had them as well, if only as frames that were made for the first.
      for (const event of journal.slice(0, startedOver + 1)) frameOf(other, event);
      expect(other.common).toBe(one.common);
      other.load(one.save());
      for (const event of journal.slice(at)) text += frameOf(other, event);
      const alone = new ChatCompletionDialect({ ...options, from: startedOver });
      const expected = alone.open() + journal.map((event) => frameOf(alone, event)).join('') + alone.close();
      expect(text + other.close()).toBe(expected);
      expect(new ChatCompletionDialect({ ...options, includeUsage: !includeUsage }).common).not.toBe(one.common);
    }),
  );
});
