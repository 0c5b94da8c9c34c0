import { readUIMessageStream, type UIMessage, type UIMessageChunk, uiMessageChunkSchema } from 'ai';
import { uiMessageChunkSchema as chunkSchema6, readUIMessageStream as readUIMessageStream6 } from 'ai6';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ReconnectRequired } from '../../../src/http/dialects/dialect.ts';
import { UiMessageDialect, type UiMessageOptions } from '../../../src/http/dialects/ui-messages.ts';
import { frameOf } from '../../../src/http/frames.ts';
import type { StreamEvent } from '../../../src/journal/event.ts';
import { fold } from '../../../src/journal/fold.ts';
import { journals } from './journals.ts';

const jobId = '01900000-0000-7000-8000-000000000001';
const DONE = 'data: [DONE]\n\n';

function project(journal: readonly StreamEvent[], options: Partial<UiMessageOptions> = {}): string {
  const dialect = new UiMessageDialect({ jobId, ...options });
  return dialect.open() + journal.map((event) => frameOf(dialect, event)).join('') + dialect.close();
}

function startOf(journal: readonly StreamEvent[]): number {
  const dialect = new UiMessageDialect({ jobId, from: Infinity });
  for (const event of journal) frameOf(dialect, event);
  return dialect.startedOver;
}

function parse(text: string): UIMessageChunk[] {
  const frames = text.split('\n\n');
  expect(frames.slice(-2)).toEqual(['data: [DONE]', '']);
  return frames.slice(0, -2).map((frame) => {
    expect(frame).toMatch(/^data: [^\n]+$/);
    return JSON.parse(frame.slice(6)) as UIMessageChunk;
  });
}

/** What the package makes of the chunks. An error ends its reading. */
async function read(chunks: readonly UIMessageChunk[], reader = readUIMessageStream): Promise<UIMessage> {
  let last: UIMessage | undefined;
  const stream = new ReadableStream<UIMessageChunk>({
    start(controller) {
      for (const chunk of chunks) if (chunk.type !== 'error') controller.enqueue(chunk);
      controller.close();
    },
  });
  for await (const message of reader({ stream, terminateOnError: true })) last = message;
  return last as UIMessage;
}

const textOf = ({ parts }: UIMessage) => parts.map((part) => (part.type === 'text' ? part.text : '')).join('');

const ENDS: Record<string, string[]> = {
  end: ['finish-step', 'finish'],
  error: ['error', 'finish-step', 'finish'],
  cancelled: ['abort', 'finish-step', 'finish'],
};

describe('The projection of any journal', () => {
  it('is the text that counts, to both majors, in chunks that they know, for a reader that comes after the last start over', async () => {
    await fc.assert(
      fc.asyncProperty(journals, async (journal) => {
        const chunks = parse(project(journal, { from: startOf(journal) }));
        for (const schema of [uiMessageChunkSchema(), chunkSchema6()])
          for (const chunk of chunks) expect(await schema.validate?.(chunk)).toMatchObject({ success: true });
        const types = chunks.map(({ type }) => type);
        expect(types.slice(0, 2)).toEqual(['start', 'start-step']);
        const end = journal.at(-1)?.event.type as string;
        const ending = ENDS[end] as string[];
        expect(types.slice(-ending.length)).toEqual(ending);
        expect(types.filter((type) => type === 'finish')).toHaveLength(1);
        expect(types).not.toContain('reset-step');
        const { text } = await fold(journal);
        for (const reader of [readUIMessageStream, readUIMessageStream6 as unknown as typeof readUIMessageStream]) {
          const message = await read(chunks, reader);
          expect(textOf(message)).toBe(text);
          for (const part of message.parts) if ('state' in part) expect(part.state).toBe('done');
        }
      }),
    );
  });

  it('comes to the same message in a stream that starts over by reset-step', async () => {
    await fc.assert(
      fc.asyncProperty(journals, async (journal) => {
        const whole = await read(parse(project(journal, { resets: true })));
        const late = await read(parse(project(journal, { from: startOf(journal) })));
        // The package shows the step once something follows it; parts that are begun again have ids of their own.
        const partsOf = ({ parts }: UIMessage) =>
          parts
            .filter(({ type }) => type !== 'step-start')
            .map((part) => ('state' in part ? { ...part, id: undefined } : part));
        expect(partsOf(whole)).toEqual(partsOf(late));
        expect(whole.id).toBe(late.id);
      }),
    );
  });

  it('is cut off where something that was sent is taken back, and nowhere else', () => {
    fc.assert(
      fc.property(journals, (journal) => {
        const from = startOf(journal);
        if (from === -1) expect(project(journal)).toBe(project(journal, { resets: true }));
        else expect(() => project(journal)).toThrow(ReconnectRequired);
      }),
    );
  });

  it('goes on after any count of chunks with the rest of it', () => {
    fc.assert(
      fc.property(journals, (journal) => {
        const whole = project(journal, { resets: true });
        expect(whole).toMatch(/^data: {"type":"start"/);
        const frames = whole.slice(0, -DONE.length).split('\n\n').slice(0, -1);
        for (let skip = 0; skip <= frames.length + 1; skip++)
          expect(project(journal, { resets: true, skip })).toBe(
            `${frames
              .slice(skip)
              .map((frame) => `${frame}\n\n`)
              .join('')}${DONE}`,
          );
      }),
    );
  });

  it('is shared by readers from the start, and then is the same', () => {
    fc.assert(
      fc.property(journals, fc.nat(), (journal, cut) => {
        const at = cut % (journal.length + 1);
        const one = new UiMessageDialect({ jobId, resets: true });
        const other = new UiMessageDialect({ jobId, resets: true });
        let text = one.open();
        other.open();
        for (const event of journal.slice(0, at)) text += frameOf(one, event);
        expect(other.common).toBe(one.common);
        expect(other.common).not.toBe(new UiMessageDialect({ jobId }).common);
        other.load(one.save());
        for (const event of journal.slice(at)) {
          frameOf(one, event);
          text += frameOf(other, event);
        }
        expect(text + other.close()).toBe(project(journal, { resets: true }));
      }),
    );
  });
});

it('Sources that are pages have their address, and those that were named before are not named again', () => {
  const page = { n: 1, path: 'https://example.org/a', heading: '', documentId: 'd1' };
  const file = { n: 2, path: 'a/b.md', heading: 'Part', documentId: 'd2' };
  const events = [[page], [page, file]].map((sources) => ({ type: 'sources', sources }));
  const journal = [...events, { type: 'end', result: 'x' }].map((event, seq) => ({
    seq,
    fence: 1,
    cursor: seq,
    event,
    json: JSON.stringify(event),
  })) as StreamEvent[];
  expect(parse(project(journal)).filter(({ type }) => type.startsWith('source'))).toEqual([
    {
      type: 'source-url',
      sourceId: '1',
      url: page.path,
      title: page.path,
      providerMetadata: { oncefleet: { documentId: 'd1', path: page.path, heading: '' } },
    },
    {
      type: 'source-document',
      sourceId: '2',
      mediaType: 'text/markdown',
      title: 'Part',
      filename: 'a/b.md',
      providerMetadata: { oncefleet: { documentId: 'd2', path: 'a/b.md', heading: 'Part' } },
    },
  ]);
});

it('an ending that a redrive took back is not sent, and its reader waits for the next', () => {
  const error = { code: 'HANDLER_ERROR', message: 'once' };
  const events = [
    { type: 'error', error },
    { type: 'attempt', attempt: 2, reason: 'redrive', resumed: true },
  ];
  const journal = events.map((event, seq) => ({ seq, fence: 1, cursor: seq, event, json: '' })) as StreamEvent[];
  expect(project(journal)).not.toContain('once');
});
