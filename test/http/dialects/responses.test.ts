import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type ResponseHead, ResponsesDialect } from '../../../src/http/dialects/responses.ts';
import { frameOf } from '../../../src/http/frames.ts';
import type { StreamEvent } from '../../../src/journal/event.ts';
import { fold } from '../../../src/journal/fold.ts';
import { journals } from './journals.ts';

const HEAD: ResponseHead = {
  jobId: '01900000-0000-7000-8000-000000000001',
  createdAt: 1,
  model: 'm',
  instructions: null,
  metadata: {},
  previousResponseId: null,
  temperature: null,
  topP: null,
};

interface Item {
  id: string;
  status: string;
  content: { text: string }[];
}
interface Frame {
  type: string;
  sequence_number: number;
  output_index?: number;
  item_id?: string;
  delta?: string;
  text?: string;
  item?: Item;
  response?: { status: string; output: Item[] };
}

function project(journal: readonly StreamEvent[], after = -1): string {
  const dialect = new ResponsesDialect(HEAD, after);
  return dialect.open() + journal.map((event) => frameOf(dialect, event)).join('') + dialect.close();
}

function parse(text: string): Frame[] {
  const frames = text.split('\n\n');
  expect(frames.pop()).toBe('');
  return frames.map((frame) => {
    const [, type, json] = /^event: (\S+)\ndata: ([^\n]+)$/.exec(frame) ?? [];
    const data = JSON.parse(json as string) as Frame;
    expect(data.type).toBe(type);
    return data;
  });
}

const ENDS: Record<string, string> = {
  end: 'response.completed',
  error: 'response.failed',
  cancelled: 'response.incomplete',
};

describe('The projection of any journal', () => {
  it('is the same whoever reads it, and resumed after any number it is the rest of it', () => {
    fc.assert(
      fc.property(journals, (journal) => {
        const whole = project(journal);
        expect(project(journal)).toBe(whole);
        const frames = whole.split('\n\n').slice(0, -1);
        const numbers = parse(whole).map(({ sequence_number: number }) => number);
        for (let after = -1; after <= (numbers.at(-1) as number) + 1; after++)
          expect(project(journal, after)).toBe(
            frames
              .filter((_, index) => (numbers[index] as number) > after)
              .map((frame) => `${frame}\n\n`)
              .join(''),
          );
      }),
    );
  });

  it('obeys the order of a response: created first and once, items in their places, the ending last', async () => {
    await fc.assert(
      fc.asyncProperty(journals, async (journal) => {
        const frames = parse(project(journal));
        const types = frames.map(({ type }) => type);
        expect(types.slice(0, 3)).toEqual(['response.created', 'response.queued', 'response.in_progress']);
        expect(types.lastIndexOf('response.created')).toBe(0);
        const numbers = frames.map(({ sequence_number: number }) => number);
        expect(numbers).toEqual([...new Set(numbers)].sort((a, b) => a - b));

        const texts = new Map<string, string>();
        const ids: string[] = [];
        let open: string | undefined;
        for (const frame of frames) {
          if (frame.type === 'response.output_item.added') {
            expect(open).toBeUndefined();
            expect(frame.output_index).toBe(ids.length);
            open = frame.item?.id as string;
            expect(ids).not.toContain(open);
            ids.push(open);
            texts.set(open, '');
          } else if (frame.item_id !== undefined) {
            expect(frame.item_id).toBe(open);
            expect(frame.output_index).toBe(ids.length - 1);
            if (frame.delta !== undefined) texts.set(open as string, `${texts.get(open as string)}${frame.delta}`);
            if (frame.text !== undefined) expect(frame.text).toBe(texts.get(open as string));
          } else if (frame.type === 'response.output_item.done') {
            expect(frame.item?.id).toBe(open);
            expect(frame.item?.content[0]?.text).toBe(texts.get(open as string));
            open = undefined;
          }
        }
        expect(open).toBeUndefined();
        const last = frames.at(-1) as Frame;
        const end = journal.at(-1)?.event.type as string;
        expect(last.type).toBe(ENDS[end]);
        expect(types.filter((type) => Object.values(ENDS).includes(type))).toHaveLength(1);
        const { output = [] } = last.response ?? {};
        expect(output.length).toBeLessThanOrEqual(1);
        const folded = await fold(journal);
        if (end === 'end') expect(output[0]?.id).toBe(ids.at(-1));
        expect(output[0]?.content[0]?.text ?? '').toBe(folded.text);
      }),
    );
  });

  it('is shared by readers that have left nothing out, and then is the same', () => {
    fc.assert(
      fc.property(journals, fc.nat(), (journal, cut) => {
        const at = cut % (journal.length + 1);
        const one = new ResponsesDialect(HEAD);
        let text =
          one.open() +
          journal
            .slice(0, at)
            .map((event) => frameOf(one, event))
            .join('');
        const other = new ResponsesDialect(HEAD);
        other.open();
        expect(other.common).toBe(one.common);
        other.load(one.save());
        for (const event of journal.slice(at)) {
          frameOf(one, event);
          text += frameOf(other, event);
        }
        expect(text + other.close()).toBe(project(journal));
      }),
    );
  });
});
