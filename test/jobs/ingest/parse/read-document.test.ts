import { describe, expect, it } from 'vitest';
import type { ParsedDocument } from '../../../../src/jobs/ingest/blocks.ts';
import { readDocument } from '../../../../src/jobs/ingest/parse/read-document.ts';
import { makePdfBomb } from './documents.ts';

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const outlineOf = ({ blocks }: ParsedDocument): string[] =>
  blocks.map((block) => (block.kind === 'heading' ? `${'#'.repeat(block.level)} ${block.text}` : block.kind));

describe('a thread that reads', () => {
  it('is ended when its document takes too long, and the next document gets another', async () => {
    const slow = { path: 'deep.html', bytes: bytes(`${'<div>'.repeat(200_000)}x`) };
    await expect(readDocument(slow, { timeoutMs: 500 })).rejects.toMatchObject({
      name: 'DocumentError',
      code: 'DOCUMENT_TOO_COSTLY',
      message: 'takes longer than 500 ms to read',
    });
    expect((await readDocument({ path: 'a.md', content: '# A\n\ntext' })).title).toBe('A');
  });

  it('is ended when its document takes too much memory, and the process lives on', async () => {
    const large = { path: 'wide.html', bytes: bytes('<p>a<b>b</b>'.repeat(800_000)) };
    await expect(readDocument(large, { memoryMb: 64 })).rejects.toMatchObject({
      code: 'DOCUMENT_TOO_COSTLY',
      message: 'takes more than 64 MiB of memory to read',
    });
  });

  it('is ended when what it expands takes too much memory', async () => {
    const bomb = { path: 'bomb.pdf', bytes: makePdfBomb(400) };
    await expect(readDocument(bomb, { memoryMb: 128 })).rejects.toMatchObject({
      code: 'DOCUMENT_TOO_COSTLY',
      message: 'takes more than 128 MiB of memory to read',
    });
  });

  it('is ended when the caller gives up, also while others wait for their turn', async () => {
    const slow = { path: 'deep.html', bytes: bytes(`${'<div>'.repeat(200_000)}x`) };
    const stops = Array.from({ length: 4 }, () => new AbortController());
    const readings = stops.map((stop) => readDocument(slow, {}, stop.signal));
    const settled = Promise.allSettled(readings);
    for (const stop of stops.toReversed()) stop.abort(new Error('given up'));
    for (const outcome of await settled)
      expect(outcome).toMatchObject({ status: 'rejected', reason: { message: 'given up' } });
    expect((await readDocument({ path: 'a.txt', content: 'text' })).text).toBe('text');
  });

  it('is one of a few, and each answer comes to its caller', async () => {
    const many = await Promise.all(
      Array.from({ length: 8 }, (_, n) => readDocument({ path: `${n}.md`, content: `# ${n}` })),
    );
    expect(many.map(({ title }) => title)).toEqual(['0', '1', '2', '3', '4', '5', '6', '7']);
  });
});

describe('limits', () => {
  it.each([
    ['bytes', { path: 'a.md', bytes: bytes('x'.repeat(101)) }, { maxBytes: 100 }, 'has 101 bytes; the limit is 100'],
    [
      'text',
      { path: 'a.md', content: 'x'.repeat(101) },
      { maxTextLength: 100 },
      'has 101 characters of text; the limit is 100',
    ],
  ])('of %s are told', async (_what, source, limits, message) => {
    await expect(readDocument(source, limits)).rejects.toMatchObject({ code: 'DOCUMENT_TOO_LARGE', message });
  });
});

describe('front matter', () => {
  it.each([
    ['a folded title', '---\ntitle: >-\n  Two\n  lines\n---\n', 'Two lines', []],
    ['a literal description', '---\ntitle: "T"\ndescription: |\n  One\n  Two\n---\n', 'T', ['One\nTwo']],
    ['TOML', '+++\ntitle = "In TOML"\ndescription = "About"\n+++\n', 'In TOML', ['About']],
    ['an alias', '---\nname: &n Name\ntitle: *n\n---\n', 'Name', []],
    ['a number', '---\ntitle: 1984\n---\n', '1984', []],
    ['other keys', '---\ntags: [a, b]\n# note\nnested:\n  title: inner\n---\n', 'guide', []],
  ])('%s', async (_what, front, title, texts) => {
    const document = await readDocument({ path: 'guide.md', content: `${front}\nText.\n` });
    expect(document.title).toBe(title);
    expect(document.blocks.map(({ text }) => text)).toEqual([...texts, 'Text.']);
  });

  it('that cannot be parsed is text', async () => {
    const { blocks } = await readDocument({ path: 'a.md', content: '---\nNot: [yaml\n---\n\nText.\n' });
    expect(blocks.map(({ text }) => text)).toContain('Text.');
    expect(blocks.map(({ text }) => text).join('\n')).toContain('Not: [yaml');
  });
});

describe('HTML', () => {
  const page = `<!doctype html><html><head><title>The page</title><style>p{}</style></head><body>
    <header><a href="/">Home</a></header><nav><ul><li>Menu</li></ul></nav>
    <main><h1>Guide</h1><p>Read <a href="https://example.org/a">the <b>manual</b></a>. Use snake_case *here*.</p>
    <h2 id="x">Use<a class="anchor" href="#x">#</a></h2>
    <table><tr><th>name</th><th>value</th></tr><tr><td>a|b</td><td>1</td></tr></table>
    <pre>one\n  two\n\nthree</pre><pre><code class="language-js">const a = 1;</code></pre>
    <ul><li>first<ul><li>inner</li></ul></li><li>second</li></ul>
    <p># no heading</p><p>1. no list</p><script>alert(1)</script></main>
    <footer>Imprint</footer></body></html>`;

  it('gives its main text, with links, tables, code and lists', async () => {
    const document = await readDocument({ path: 'page', bytes: bytes(page) });
    expect(document).toMatchObject({ kind: 'html', title: 'The page', encoding: 'utf-8' });
    expect(outlineOf(document)).toEqual(['# Guide', 'text', '## Use', 'table', 'code', 'code', 'list', 'text', 'text']);
    expect(document.text).toContain('Read [the **manual**](https://example.org/a). Use snake_case *here*.');
    expect(document.text).toContain('| a\\|b');
    expect(document.text).toContain('```\none\n  two\n\nthree\n```');
    expect(document.text).toContain('```js\nconst a = 1;\n```');
    for (const gone of ['Menu', 'Imprint', 'alert', 'Home']) expect(document.text).not.toContain(gone);
  });

  it('without a main part is read whole, but for what is around its text', async () => {
    const short = '<html><body><nav>Menu</nav><h1>Short</h1><p>One line.</p></body></html>';
    expect((await readDocument({ path: 'a.htm', bytes: bytes(short) })).text).toBe('# Short\n\nOne line.');
  });

  it('that has no text is empty, or found by its title', async () => {
    const app =
      '<!doctype html><html><head><title>App</title></head><body><div id="root"></div><script>run()</script></body></html>';
    expect(await readDocument({ path: 'a.html', bytes: bytes(app) })).toMatchObject({ title: 'App', titleOnly: true });
    const none = '<!doctype html><html><body><script>run()</script></body></html>';
    await expect(readDocument({ path: 'a.html', bytes: bytes(none) })).rejects.toMatchObject({ code: 'FILE_EMPTY' });
  });
});

it('places every block where its text stands in the text of the document', async () => {
  const content =
    '\uFEFF---\ntitle: T\n---\r\n\r\n# One\r\n\r\nText\r\nmore.\r\n\r\n- a\r\n- b\r\n\r\n```js\r\ncode\r\n```\r\n';
  const document = await readDocument({ path: 'a.md', content });
  expect(document.blocks.map(({ start, end }) => document.text.slice(start, end))).toEqual([
    '# One',
    'Text\nmore.',
    '- a\n- b',
    '```js\ncode\n```',
  ]);
});
