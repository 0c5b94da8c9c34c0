import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Chunk, chunkDocument } from '../../../src/jobs/ingest/chunker.ts';
import { DOCUMENT_LIMITS } from '../../../src/jobs/ingest/parse/limits.ts';
import { parseDocument } from '../../../src/jobs/ingest/parse/parse.ts';
import { splitSentences } from '../../../src/jobs/ingest/sentences.ts';
import { MAX_CHUNK_LENGTH, TARGET_CHUNK_LENGTH } from '../../../src/jobs/ingest/split.ts';

/** Of a document that has no text, none. */
async function chunk(content: string, path = 'guide.md'): Promise<Pick<Chunk, 'heading' | 'content'>[]> {
  const document = await parseDocument({ path, content }, DOCUMENT_LIMITS).catch(() => undefined);
  if (document === undefined) return [];
  return chunkDocument(document).map(({ heading, content: text }) => ({ heading, content: text }));
}
const headings = async (content: string) => (await chunk(content)).map(({ heading }) => heading);

describe('headings', () => {
  it('puts each section into its own chunk under the path of its headings', async () => {
    const chunks = await chunk('# Pino\n\nIntro.\n\n## Use\n\nUse it.\n\n### Deep\n\nMore.\n\n## Other\n\nEnd.\n');
    expect(chunks).toEqual([
      { heading: 'Pino', content: 'Intro.' },
      { heading: 'Pino > Use', content: 'Use it.' },
      { heading: 'Pino > Use > Deep', content: 'More.' },
      { heading: 'Pino > Other', content: 'End.' },
    ]);
  });

  it('knows setext headings', async () => {
    expect(await headings('Pino\n====\n\nIntro.\n\nUse it\n------\n\nSo.\n')).toEqual(['Pino', 'Pino > Use it']);
  });

  it('takes no # in a code fence for a heading, in lists and with longer fences as well', async () => {
    const content =
      '# A\n\n```sh\n# not a heading\n```\n\n1. item\n   ~~~~\n# nor this\n~~~\n# nor that\n   ~~~~\n\n````\n```\n# inside\n```\n````\n';
    expect(await chunk(content)).toHaveLength(1);
    expect((await chunk(content))[0]?.content).toContain('# nor that');
  });

  it('takes an unclosed fence to the end of the document', async () => {
    expect(await headings('# A\n\n```\n# x\n\n# y\n')).toEqual(['A']);
  });

  it('takes neither #tag nor an indented # for a heading', async () => {
    expect(await headings('# A\n\n#tag\n\n    # code\n\n#######  seven\n')).toEqual(['A']);
  });

  it('drops closing #s, anchors, links and emphasis from headings', async () => {
    expect(
      await headings(
        '# **Pino** [docs](/x(y)) ##\n\nText.\n\n<a id="x"></a>\n## <a name="y"></a>Use `it` {#use}\n\nText.\n',
      ),
    ).toEqual(['Pino docs', 'Pino docs > Use `it`']);
  });

  it('knows headings written as HTML', async () => {
    expect(await headings('<h1 align="center"><img src="x.svg"/>Fastify</h1>\n\n## Plugins\n\nText.\n')).toEqual([
      'Fastify > Plugins',
    ]);
  });

  it('keeps a heading with nothing below it', async () => {
    expect(await chunk('# A\n\nText.\n\n## Lonely\n\n## Next\n\nText.\n')).toContainEqual({
      heading: 'A > Lonely',
      content: 'Lonely',
    });
  });

  it('names sections after the file when no heading is on top', async () => {
    expect(await headings('Text first.\n\n## Use\n\nSo.\n')).toEqual(['guide', 'guide > Use']);
  });

  it('bounds the heading path', async () => {
    const content = Array.from(
      { length: 6 },
      (_, level) => `${'#'.repeat(level + 1)} ${'long '.repeat(50)}${level}\n`,
    ).join('\n');
    expect((await chunk(`${content}\nText.`)).at(-1)?.heading.length).toBeLessThanOrEqual(820);
  });
});

describe('front matter, byte order mark and line ends', () => {
  it('takes title and description from front matter', async () => {
    expect(await chunk('---\ntitle: "The guide"\ndescription: What it is for.\ntags:\n  - a\n---\n\nText.\n')).toEqual([
      { heading: 'The guide', content: 'What it is for.\n\nText.' },
    ]);
  });

  it('takes a thematic break on top for what it is', async () => {
    expect((await chunk('---\n\nNot: yaml, is it?\nNo.\n\n---\n\nText.\n'))[0]?.content).toContain('No.');
  });

  it('makes the same chunks of CRLF, CR and LF, with and without a byte order mark', async () => {
    const content = '# A\n\nText\non two lines.\n\n- a\n- b\n\n```\ncode\n```\n';
    for (const variant of [content.replaceAll('\n', '\r\n'), content.replaceAll('\n', '\r'), `\uFEFF${content}`]) {
      expect(await chunk(variant)).toEqual(await chunk(content));
    }
  });

  it('drops comments, closed ones alone', async () => {
    expect(await chunk('# A\n\n<!-- gone\n# gone too\n-->\n\nText.\n')).toEqual([{ heading: 'A', content: 'Text.' }]);
    expect((await chunk('# A\n\n<!-- open\n\nText.\n'))[0]?.content).toContain('Text.');
  });
});

describe('sizes', () => {
  const sentence = 'The quick brown fox jumps over the lazy dog while nobody looks. ';

  it('fills chunks with paragraphs up to the target', async () => {
    const chunks = await chunk(`# A\n\n${Array.from({ length: 20 }, () => sentence.repeat(4).trim()).join('\n\n')}`);
    expect(chunks.length).toBeGreaterThan(3);
    for (const { content } of chunks) expect(content.length).toBeLessThanOrEqual(TARGET_CHUNK_LENGTH);
  });

  it('splits a long paragraph between sentences', async () => {
    const chunks = await chunk(`# A\n\n${sentence.repeat(100)}`);
    for (const { content } of chunks) expect(content).toMatch(/^The .*looks\.$/);
  });

  it('keeps code, tables and lists whole when they fit', async () => {
    const code = `\`\`\`js\n${'const x = 1\n\n'.repeat(90)}\`\`\``;
    const list = Array.from({ length: 40 }, (_, n) => `- item ${n} ${'x'.repeat(20)}`).join('\n');
    const contents = (await chunk(`# A\n\n${sentence}\n\n${code}\n\n${list}`)).map(({ content }) => content);
    expect(contents.some((content) => content.includes(code))).toBe(true);
    expect(contents.some((content) => content.includes(list))).toBe(true);
  });

  it('keeps code with the sentence that announces it', async () => {
    const code = `\`\`\`\n${'x = 1\n'.repeat(180)}\`\`\``;
    const contents = (await chunk(`# A\n\n${sentence.repeat(12)}\n\nLike so:\n\n${code}`)).map(
      ({ content }) => content,
    );
    expect(contents.find((content) => content.includes('x = 1'))).toMatch(/Like so:\n\n```/);
  });

  it('gives each part of long code its fence, and of a long table its header', async () => {
    const lines = Array.from({ length: 400 }, (_, n) => `const line${n} = ${n}`);
    for (const { content } of await chunk(`# A\n\n\`\`\`ts\n${lines.join('\n')}\n\`\`\``))
      expect(content).toMatch(/^```ts\n[\s\S]*\n```$/);
    const rows = Array.from({ length: 200 }, (_, n) => `| row ${n} | value ${n} |`);
    const table = await chunk(`# A\n\n| name | value |\n| --- | --- |\n${rows.join('\n')}`);
    expect(table.length).toBeGreaterThan(1);
    for (const { content } of table) expect(content).toMatch(/^\| name \| value \|\n\| --- \| --- \|\n/);
  });

  it('splits a long list between items', async () => {
    const items = Array.from({ length: 100 }, (_, n) => `- item ${n}\n  ${sentence.trim()}`);
    for (const { content } of await chunk(`# A\n\n${items.join('\n')}`)) expect(content).toMatch(/^- item/);
  });

  it('takes a paragraph of 1 MB and a word of 1 MB in bounded time and size', async () => {
    const started = process.cpuUsage();
    for (const content of [
      sentence.repeat(16_000),
      'x'.repeat(1_000_000),
      '😀'.repeat(500_000),
      '`'.repeat(1_000_000),
      `${'['.repeat(500_000)}\n`,
      `# ${'#'.repeat(200_000)} x`,
      `# ${' #'.repeat(200_000)} x`,
      `# ${'['.repeat(300_000)}`,
      `${'**'.repeat(300_000)}\n===`,
      `- a\n${'# '.repeat(200_000)}`,
      `${' '.repeat(500_000)}x`,
      '- '.repeat(300_000),
      '|'.repeat(500_000),
      '*'.repeat(300_000),
      '<!-- \n'.repeat(100_000),
    ]) {
      for (const part of await chunk(content)) {
        expect(part.content.length).toBeLessThanOrEqual(MAX_CHUNK_LENGTH);
        expect(part.content.isWellFormed()).toBe(true);
      }
    }
    const { user, system } = process.cpuUsage(started);
    expect((user + system) / 1_000).toBeLessThan(30_000);
  });
});

describe('any text', () => {
  const word = fc.stringMatching(/^[a-z]{1,12}$/);
  const words = fc.array(word, { minLength: 1, maxLength: 60 }).map((list) => list.join(' '));
  const block = fc.oneof(
    words,
    words.map((text) => `${text}.`),
    fc.tuple(fc.integer({ min: 1, max: 6 }), words).map(([level, text]) => `${'#'.repeat(level)} ${text}`),
    fc.array(words, { minLength: 1, maxLength: 30 }).map((items) => items.map((item) => `- ${item}`).join('\n')),
    fc.array(words, { minLength: 1, maxLength: 30 }).map((lines) => `\`\`\`\n${lines.join('\n')}\n\`\`\``),
    fc
      .array(words, { minLength: 1, maxLength: 20 })
      .map((rows) => `| a | b |\n|---|---|\n${rows.map((row) => `| ${row} | x |`).join('\n')}`),
    words.map((text) => `> ${text}`),
    words.map((text) => `${text}\n===`),
  );
  const wordsOf = (text: string) => new Set(text.match(/[a-z]+/g) ?? []);

  it('loses no word of a Markdown document, and keeps every chunk below the maximum', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(block, { minLength: 1, maxLength: 15 }),
        fc.constantFrom('\n\n', '\r\n\r\n', '\n'),
        async (blocks, joint) => {
          const content = blocks.join(joint);
          const chunks = await chunk(content);
          const kept = wordsOf(chunks.map(({ heading, content: text }) => `${heading}\n${text}`).join('\n'));
          for (const expected of wordsOf(content)) expect(kept).toContain(expected);
          for (const { content: text } of chunks) {
            expect(text.trim()).not.toBe('');
            expect(text.length).toBeLessThanOrEqual(MAX_CHUNK_LENGTH);
          }
        },
      ),
      { numRuns: 150 },
    );
  });

  it('never throws, never cuts a surrogate pair, and bounds every chunk', async () => {
    const line = fc.oneof(
      fc.string({ unit: 'binary', maxLength: 200 }),
      fc.constantFrom('```', '~~~', '---', '- x', '<!--', '-->', '| a |', '|---|', '    x', '\t', '# ', '===', '> q'),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(line, { maxLength: 60 }), fc.constantFrom('a.md', 'a.txt'), async (lines, path) => {
        const content = lines.join('\n');
        for (const { content: text, heading } of await chunk(content, path)) {
          expect(text.length).toBeLessThanOrEqual(MAX_CHUNK_LENGTH);
          expect(heading.length).toBeLessThanOrEqual(1_000);
          if (content.isWellFormed()) expect(text.isWellFormed()).toBe(true);
        }
      }),
      { numRuns: 300 },
    );
  });
});

it('splits sentences across wrapped lines and not after abbreviations', async () => {
  expect(splitSentences('One goes\non. Two, e.g. This one. Three!')).toEqual([
    'One goes on.',
    'Two, e.g. This one.',
    'Three!',
  ]);
});

it('chunks plain text along blank lines, and headings mean nothing in it', async () => {
  expect(await chunk('# one\n\ntwo', 'notes.txt')).toEqual([{ heading: 'notes', content: '# one\n\ntwo' }]);
});
