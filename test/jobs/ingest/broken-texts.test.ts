/** Texts whose parts have to be whole: lines stay lines, and what surrounds a block surrounds each part of it. */
import { describe, expect, it } from 'vitest';
import { type Chunk, chunkDocument } from '../../../src/jobs/ingest/chunker.ts';
import { DOCUMENT_LIMITS } from '../../../src/jobs/ingest/parse/limits.ts';
import { parseDocument } from '../../../src/jobs/ingest/parse/parse.ts';

const lines = (count: number, line: (n: number) => string): string =>
  Array.from({ length: count }, (_, n) => line(n)).join('\n');
const words = (n: number): string => `number ${n} with some more words to fill a line of its own`;

async function chunksOf(path: string, content: string): Promise<Chunk[]> {
  return chunkDocument(await parseDocument({ path, content }, DOCUMENT_LIMITS));
}

const sentence = 'The pump is checked twice a year by a person who knows how it works and writes down';

describe('line breaks stay in', () => {
  it.each<[string, string, string]>([
    ['a log', 'a.txt', lines(80, (n) => `2026-01-02 10:00:${String(n).padStart(2, '0')} INFO request ${n} took 12 ms`)],
    ['code', 'a.txt', lines(120, (n) => `  const value${n} = compute(${n}); // step`)],
    ['an address list', 'a.txt', lines(150, (n) => `Person ${n}, Street ${n}`)],
    ['a quote', 'a.md', lines(60, (n) => `> ${words(n)}`)],
    ['verse', 'a.md', lines(90, (n) => `Line ${n} of a poem that is long\\`)],
    ['wrapped prose', 'a.md', lines(80, (n) => `${sentence}${n % 3 === 2 ? ' it.' : ''}`)],
    ['Chinese', 'a.txt', lines(80, (n) => `第${n}行：水泵每年检查两次。然后关闭阀门，记录仪表的读数。`)],
  ])('%s', async (_what, path, content) => {
    const chunks = await chunksOf(path, content);
    expect(chunks.length).toBeGreaterThan(1);
    for (const { content: text, start, end } of chunks) expect(content.slice(start, end)).toBe(text);
    // Every word is there once, in order.
    expect(
      chunks
        .map(({ content: text }) => text)
        .join(' ')
        .split(/\s+/),
    ).toEqual(content.split(/\s+/));
    if (!content.startsWith(sentence))
      for (const { content: text } of chunks)
        for (const line of text.split('\n')) expect(content.split('\n')).toContain(line);
  });

  it('wrapped prose, which is cut between sentences', async () => {
    const chunks = await chunksOf(
      'a.md',
      lines(80, (n) => `${sentence}${n % 3 === 2 ? ' it.' : ''}`),
    );
    for (const { content } of chunks.slice(0, -1)) expect(content).toMatch(/^The pump[\s\S]*\.$/);
  });
});

describe('every part is fenced of', () => {
  const code = (indent: string, mark = '```') =>
    `${indent}${mark}js\n${lines(80, (n) => `${indent}const value${n} = compute(${n});`)}\n${indent}${mark}`;

  it.each<[string, string]>([
    ['a block in a list item', `- Do this:\n\n${code('  ')}\n- Then that.\n`],
    ['a block in an ordered item', `1. Do this:\n\n${code('   ', '~~~~')}\n2. Then that.\n`],
    ['a block in a list in a list', `- a\n  - b\n\n${code('    ')}\n`],
    [
      'a block right behind the marker',
      `- \`\`\`js\n${lines(80, (n) => `  const value${n} = compute(${n});`)}\n  \`\`\`\n- then\n`,
    ],
    ['a block in a quote', `> Like so:\n>\n${code('> ')}\n`],
    ['a block on its own', `${code('')}\n`],
    ['a block that is never closed', `- x\n\n  \`\`\`js\n${lines(80, (n) => `  const value${n} = compute(${n});`)}\n`],
  ])('%s', async (_what, content) => {
    const chunks = await chunksOf('a.md', content);
    const withCode = chunks.filter(({ content: text }) => text.includes('compute('));
    expect(withCode.length).toBeGreaterThan(1);
    for (const { content: text } of withCode) {
      const [open, ...others] = text.split('\n').filter((line) => /^[ >]*(?:- )?(?:```|~~~)/.test(line));
      expect(open).toMatch(/(?:```|~~~~)js$/);
      expect(others.at(-1)).toMatch(/^[ >]*(?:```|~~~~)$/);
    }
    const numbers = withCode.flatMap(({ content: text }) =>
      [...text.matchAll(/value(\d+) /g)].map(([, n]) => Number(n)),
    );
    expect(numbers).toEqual(Array.from({ length: 80 }, (_, n) => n));
  });
});

it('a <pre> keeps its lines, blank ones too, and every part is one', async () => {
  const body = lines(150, (n) => (n % 10 === 9 ? '' : `${String(n).padStart(3)}  column   ${n}`));
  const chunks = await chunksOf('a.md', `Before.\n\n<pre>\n${body}\n</pre>\n\nAfter.\n`);
  const parts = chunks.filter(({ content }) => content.includes('column'));
  expect(parts.length).toBeGreaterThan(1);
  for (const { content } of parts) expect(content).toMatch(/<pre>\n[\s\S]*\n<\/pre>/);
  for (const line of body.split('\n').filter((one) => one !== ''))
    expect(parts.some(({ content }) => content.includes(`\n${line}\n`))).toBe(true);
});

describe('a heading with a code span', () => {
  it.each([
    ['## Use `[text](url)` here', 'Use `[text](url)` here'],
    ['## `a **b** c` and **d**', '`a **b** c` and d'],
    ['## ``a ` [b](c)`` [d](e)', '``a ` [b](c)`` d'],
    ['## `<b>` tags', '`<b>` tags'],
    ['## An open ` and [a link](x)', 'An open ` and a link'],
  ])('%s', async (markdown, heading) => {
    const [chunk] = await chunksOf('guide.md', `${markdown}\n\nText.\n`);
    expect(chunk?.heading).toBe(heading);
  });
});
