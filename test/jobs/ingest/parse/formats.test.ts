import { describe, expect, it } from 'vitest';
import type { ParsedDocument } from '../../../../src/jobs/ingest/blocks.ts';
import { chunkDocument } from '../../../../src/jobs/ingest/chunker.ts';
import { DOCUMENT_LIMITS, type DocumentLimits } from '../../../../src/jobs/ingest/parse/limits.ts';
import { parseDocument } from '../../../../src/jobs/ingest/parse/parse.ts';
import { encode, makeDocx, makePdf } from './documents.ts';

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const readBytes = (path: string, data: Uint8Array, limits: Partial<DocumentLimits> = {}, contentType?: string) =>
  parseDocument(
    { path, bytes: data, ...(contentType === undefined ? {} : { contentType }) },
    { ...DOCUMENT_LIMITS, ...limits },
  );
const read = (path: string, content: string) => parseDocument({ path, content }, DOCUMENT_LIMITS);

/** A line for each block: headings as in Markdown, others by kind and text. */
const outlineOf = ({ blocks }: ParsedDocument): string[] =>
  blocks.map((block) =>
    block.kind === 'heading' ? `${'#'.repeat(block.level)} ${block.text}` : `${block.kind}: ${block.text}`,
  );

describe('PDF', () => {
  const pages = ['One', 'Two', 'Three', 'Four'].map((name) => ({
    heading: `Chapter ${name}`,
    paragraphs: [`The pump of chapter ${name} is exam-\nined twice a year by\na person.`, 'Then it is closed.'],
  }));

  it('keeps pages, paragraphs and headings, and drops what every page repeats', async () => {
    const document = await readBytes('manual.pdf', await makePdf(pages, { title: 'The manual' }));
    expect(document).toMatchObject({ kind: 'pdf', title: 'The manual', pages: 4 });
    expect(outlineOf(document).slice(0, 3)).toEqual([
      '# Chapter One',
      'text: The pump of chapter One is examined twice a year by\na person.',
      'text: Then it is closed.',
    ]);
    expect(document.blocks.map(({ page }) => page)).toEqual([1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]);
    expect(document.text).not.toMatch(/Acme Manual|^\d$/m);
    const chunks = chunkDocument(document);
    expect(chunks.map(({ heading, page }) => [heading, page])).toEqual([
      ['The manual > Chapter One', 1],
      ['The manual > Chapter Two', 2],
      ['The manual > Chapter Three', 3],
      ['The manual > Chapter Four', 4],
    ]);
    for (const { start, end, content } of chunks) expect(document.text.slice(start, end)).toBe(content);
  });

  it('is recognised under any name, also behind other bytes', async () => {
    const pdf = await makePdf(pages.slice(0, 1));
    expect((await readBytes('notes.txt', pdf.slice())).kind).toBe('pdf');
    const behind = Uint8Array.from([...bytes('\r\n\r\n'), ...pdf]);
    expect((await readBytes('notes.md', behind)).kind).toBe('pdf');
  });

  it('of too many pages is refused', async () => {
    await expect(readBytes('a.pdf', await makePdf(pages), { maxPages: 3 })).rejects.toMatchObject({
      code: 'DOCUMENT_TOO_LARGE',
      message: 'has 4 pages; the limit is 3',
    });
  });

  it('without text is told from an empty one', async () => {
    const { PDFDocument } = await import('pdf-lib');
    const pdf = await PDFDocument.create();
    pdf.addPage();
    await expect(readBytes('scan.pdf', await pdf.save())).rejects.toMatchObject({ code: 'DOCUMENT_SCANNED' });
  });
});

describe('DOCX', () => {
  it('gives headings, text, lists and tables', async () => {
    const document = await readBytes('manual.docx', await makeDocx('Pump & valve'));
    expect(document).toMatchObject({ kind: 'docx', title: 'Pump & valve' });
    expect(outlineOf(document)).toEqual([
      '# Installation',
      'text: Turn the **valve**.',
      '## Parts',
      'list: -   a nut\n-   a bolt',
      'table: | part | count |\n| --- | --- |\n| nut | 4   |',
    ]);
  });

  it('that expands to more than it may is refused', async () => {
    await expect(readBytes('a.docx', await makeDocx(), { maxExpandedBytes: 1_000 })).rejects.toMatchObject({
      code: 'DOCUMENT_TOO_LARGE',
      message: 'expands to more than 1000 bytes',
    });
  });

  it('is recognised under any name', async () => {
    expect((await readBytes('upload', await makeDocx())).kind).toBe('docx');
  });
});

describe('a table of cells', () => {
  const rows = Array.from({ length: 200 }, (_, n) => `${n},name ${n},"a, b"`).join('\n');

  it.each(['people.csv', 'people.txt'])('of %s repeats its header in every part', async (path) => {
    const document = await read(path, `id,name,note\n${rows}\n`);
    expect(document.kind).toBe('csv');
    const chunks = chunkDocument(document);
    expect(chunks.length).toBeGreaterThan(3);
    for (const { content } of chunks)
      expect(content).toMatch(/^\| id \| name \| note \|\n\| --- \| --- \| --- \|\n\| \d/);
    expect(chunks.at(-1)?.content).toContain('| 199 | name 199 | a, b |');
  });

  it.each([
    ['semicolons', 'a.csv', 'name;value\n"x;y";1\n', '| x;y | 1 |'],
    ['tabs', 'a.tsv', 'name\tvalue\nx|y\t1\n', '| x\\|y | 1 |'],
    ['line breaks in cells', 'a.csv', 'name,value\n"x\ny",1\n', '| x y | 1 |'],
    ['uneven rows', 'a.csv', 'name,value\nx\ny,1,2\n', '| y | 1 | 2 |'],
  ])('with %s', async (_what, path, content, row) => {
    expect((await read(path, content)).text).toContain(row);
  });

  it('that is wide gives each value its name', async () => {
    const names = Array.from({ length: 40 }, (_, n) => `measurement ${n}`);
    const document = await read('wide.csv', `${names.join(',')}\n${names.map((_, n) => n).join(',')}\n`);
    expect(document.blocks).toMatchObject([
      { kind: 'lines', text: expect.stringMatching(/^measurement 0: 0\nmeasurement 1: 1\n/) },
    ]);
  });

  it('is not seen in prose with commas', async () => {
    const prose = 'Hello, world\nWell, then\nSo, so\nYes, indeed\nNo, never\n';
    expect((await read('a.txt', prose)).kind).toBe('text');
  });
});

describe('JSON', () => {
  it('gives records as lines, under the names that lead to them', async () => {
    const value = {
      name: 'App',
      people: [
        { n: 'a', tags: ['x', 'y'] },
        { n: 'b', deep: { q: 1 } },
      ],
      settings: { port: 3000 },
    };
    const document = await read('a.json', JSON.stringify(value));
    expect(document).toMatchObject({ kind: 'json', title: 'App' });
    expect(outlineOf(document)).toEqual([
      'lines: name: App',
      '# people',
      'lines: n: a\ntags: x, y',
      'lines: n: b\ndeep.q: 1',
      '# settings',
      'lines: port: 3000',
    ]);
  });

  it.each([
    ['JSON Lines', 'a.jsonl', '{"a":1}\n\n{"a":2}\n', ['lines: a: 1', 'lines: a: 2']],
    ['with comments, as its lines', 'a.json', '{\n  // note\n  "a": 1,\n}\n', ['lines: {\n  // note\n  "a": 1,\n}']],
    ['cut off, as its lines', 'a.json', '{"a": [1,', ['lines: {"a": [1,']],
    ['a value alone', 'a.json', '"just text"', ['lines: just text']],
  ])('%s', async (_what, path, content, outline) => {
    expect(outlineOf(await read(path, content))).toEqual(outline);
  });
});

describe('text with headings', () => {
  it.each([
    [
      'reStructuredText',
      'a.rst',
      '=====\nTitle\n=====\n\nText.\n\nUse :ref:`it <x>`\n-----------------\n\n.. code-block:: python\n   :linenos:\n\n   def f():\n\n       pass\n\nSo::\n\n    literal\n\n.. toctree::\n   a\n\n.. a comment\n\n- item\n',
      [
        '# Title',
        'text: Text.',
        '## Use it',
        'code: def f():\n\n       pass',
        'text: So::',
        'code: literal',
        'list: - item',
      ],
    ],
    [
      'AsciiDoc',
      'a.adoc',
      '= Title\n:toc:\n\nText.\n\n== Use\n\n// gone\n[source,ruby]\n----\nputs 1\n\nputs 2\n----\n\n* a\n* b\n\n|===\n|a |b\n|===\n',
      ['# Title', 'text: Text.', '## Use', 'code: puts 1\n\nputs 2', 'list: * a\n* b', 'lines: |a |b'],
    ],
    [
      'MDX',
      'a.mdx',
      "import { Tabs } from 'tabs'\n\n# Title\n\n<Tabs>\n\nText.\n\n</Tabs>\n\n{/* gone */}\n\n```js\nimport x from 'y'\n```\n",
      ['# Title', 'text: Text.', "code: ```js\nimport x from 'y'\n```"],
    ],
    [
      'plain text, underlined',
      'a.txt',
      'My title\n========\n\nText.\n\nA part\n------\nMore.\n',
      ['# My title', 'text: Text.', '## A part', 'text: More.'],
    ],
    [
      'plain text, numbered',
      'a.txt',
      '1. First things\n\nText.\n\n1.1 In detail\n\nMore.\n\n2. Second things\n\nEnd.\n',
      ['# 1. First things', 'text: Text.', '## 1.1 In detail', 'text: More.', '# 2. Second things', 'text: End.'],
    ],
    [
      'plain text, in capitals',
      'a.txt',
      'GENERAL TERMS\n\nText of the terms.\n\nLIABILITY\n\nNone.\n',
      ['# GENERAL TERMS', 'text: Text of the terms.', '# LIABILITY', 'text: None.'],
    ],
    [
      'plain text that is a list with blank lines',
      'a.txt',
      'Shopping\n\n1. Milk\n\n2. Eggs\n\n3. Bread\n',
      ['text: Shopping', 'text: 1. Milk', 'text: 2. Eggs', 'text: 3. Bread'],
    ],
    [
      'plain text in capitals throughout',
      'a.txt',
      'LET IT BE KNOWN\n\nTHAT ALL IS WELL\n\nAND WILL BE SO\n',
      ['text: LET IT BE KNOWN', 'text: THAT ALL IS WELL', 'text: AND WILL BE SO'],
    ],
  ])('%s', async (_what, path, content, outline) => {
    const document = await read(path, content);
    expect(outlineOf(document).map((line) => line.replace(/^(code: ) +/, '$1'))).toEqual(outline);
    for (const block of document.blocks)
      if (block.kind !== 'heading') expect(document.text.slice(block.start, block.end)).toBe(block.text);
  });

  it('source code keeps its lines, with a fence around every part', async () => {
    const source = Array.from({ length: 60 }, (_, n) => `def f${n}():\n    return ${n}  # the number\n`).join('\n');
    const document = await read('lib/numbers.py', source);
    expect(document).toMatchObject({ kind: 'code', title: 'numbers.py' });
    const chunks = chunkDocument(document);
    expect(chunks.length).toBeGreaterThan(1);
    for (const { content } of chunks) expect(content).toMatch(/^```python\ndef f\d+\(\):\n[\s\S]*\n```$/);
  });
});

describe('encodings', () => {
  const japanese = '東京の天気は晴れです。ポンプの点検は年に二回行います。説明書をよく読んでください。';
  const russian = 'Насос проверяют два раза в год. Затем закрывают вентиль и записывают показания.';
  const german = 'Über die Prüfung größerer Pumpen: Ventile schließen, Öl nachfüllen, Zähler prüfen.';
  const chinese = '水泵每年检查两次。然后关闭阀门，记录仪表的读数。请仔细阅读说明书。';
  const utf16 = (text: string, littleEndian: boolean, mark: boolean): Uint8Array => {
    const data = Buffer.from((mark ? '\ufeff' : '') + text, 'utf16le');
    return new Uint8Array(littleEndian ? data : data.swap16());
  };

  it.each<[string, Uint8Array, string, string, string?]>([
    ['UTF-8', bytes(german), german, 'utf-8'],
    ['UTF-8 with a mark', bytes(`\ufeff${german}`), german, 'utf-8'],
    ['UTF-8 whose last character is cut off', bytes(`${german}ü`).slice(0, -1), `${german}\ufffd`, 'utf-8'],
    ['UTF-16 LE with a mark', utf16(russian, true, true), russian, 'utf-16le'],
    ['UTF-16 BE with a mark', utf16(japanese, false, true), japanese, 'utf-16be'],
    ['UTF-16 LE without a mark', utf16(german, true, false), german, 'utf-16le'],
    ['latin-1', encode(german, 'windows-1252'), german, 'windows-1252'],
    ['windows-1251', encode(russian, 'windows-1251'), russian, 'windows-1251'],
    ['Shift_JIS', encode(japanese, 'shift_jis'), japanese, 'shift_jis'],
    ['GBK', encode(chinese, 'gbk'), chinese, 'gb18030'],
    [
      'EUC-JP as declared by a content type',
      encode(japanese, 'euc-jp'),
      japanese,
      'euc-jp',
      'text/plain; charset=EUC-JP',
    ],
    ['KOI8-R as declared by a content type', encode('Да', 'koi8-r'), 'Да', 'koi8-r', 'text/plain; charset="koi8-r"'],
    [
      'a comment that declares',
      encode(`# coding: iso-8859-2\n${'łódź '.repeat(5)}`, 'iso-8859-2'),
      `# coding: iso-8859-2\n${'łódź '.repeat(5)}`,
      'iso-8859-2',
    ],
    ['UTF-8 that declares another', bytes(`# coding: latin-1\n${german}`), `# coding: latin-1\n${german}`, 'utf-8'],
  ])('%s', async (_what, data, text, encoding, contentType) => {
    expect(await readBytes('a.txt', data, {}, contentType)).toMatchObject({ text, encoding });
  });

  it.each([
    ['meta', `<html><head><meta charset="windows-1251"></head><body><p>${russian}</p></body></html>`],
    [
      'meta http-equiv',
      `<html><head><meta http-equiv="content-type" content="text/html; charset=windows-1251"></head><body><p>${russian}</p></body></html>`,
    ],
  ])('of HTML that declares it by %s', async (_what, html) => {
    expect(await readBytes('a.html', encode(html, 'windows-1251'))).toMatchObject({
      text: russian,
      encoding: 'windows-1251',
    });
  });
});

describe('what a document is not', () => {
  it.each<[string, string, Uint8Array, string, RegExp]>([
    [
      'an image named as text',
      'notes.md',
      Uint8Array.from([0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10, 0, 0, 0, 13, 73, 72, 68, 82]),
      'DOCUMENT_KIND_UNSUPPORTED',
      /^is a png file \(image\/png\), which is not read$/,
    ],
    [
      'binary of no known kind',
      'notes.txt',
      Uint8Array.from([1, 2, 0, 3, 0, 0, 7, 1]),
      'DOCUMENT_KIND_UNSUPPORTED',
      /^is binary/,
    ],
    ['text named as PDF', 'a.pdf', bytes('hello'), 'DOCUMENT_DAMAGED', /^is no PDF file/],
    ['text named as DOCX', 'a.docx', bytes('hello'), 'DOCUMENT_DAMAGED', /^is no DOCX file/],
    ['nothing at all', 'a.md', new Uint8Array(), 'FILE_EMPTY', /^is empty$/],
    ['blanks', 'a.md', bytes('\ufeff \r\n\t'), 'FILE_EMPTY', /^has no text in it$/],
    ['a comment alone', 'a.md', bytes('<!-- nothing -->\n'), 'FILE_EMPTY', /^has no text in it$/],
    [
      'a password-protected Office file',
      'a.docx',
      Uint8Array.from([
        0xd0,
        0xcf,
        0x11,
        0xe0,
        0xa1,
        0xb1,
        0x1a,
        0xe1,
        ...new Uint8Array(600),
        ...Buffer.from('EncryptedPackage', 'utf16le'),
      ]),
      'DOCUMENT_ENCRYPTED',
      /password/,
    ],
  ])('%s is told', async (_what, path, data, code, message) => {
    await expect(readBytes(path, data)).rejects.toMatchObject({
      name: 'DocumentError',
      code,
      message: expect.stringMatching(message),
    });
  });

  it('HTML is HTML under the names of text', async () => {
    const html = bytes('<!DOCTYPE html>\n<html><body><h1>Hi</h1><p>Text.</p></body></html>');
    for (const path of ['page', 'page.txt', 'page.md']) expect((await readBytes(path, html)).kind).toBe('html');
    expect((await readBytes('page', html, {}, 'text/markdown')).kind).toBe('html');
  });

  it('the content type comes before the name', async () => {
    expect((await readBytes('a', bytes('# Title\n\ntext'), {}, 'text/markdown; charset=utf-8')).title).toBe('Title');
    expect((await readBytes('a.csv', bytes('# Title\n\ntext'), {}, 'text/markdown')).kind).toBe('markdown');
    expect((await readBytes('README.MD', bytes('# Title'), {}, 'application/octet-stream')).kind).toBe('markdown');
  });
});
