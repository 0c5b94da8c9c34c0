import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmod, mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { beforeEach, describe, expect, test } from 'vitest';
import {
  type CollectedDocument,
  collectDocuments,
  describeLeftOut,
  ingestKey,
  splitIntoParts,
} from '../../src/cli/collect-documents.ts';
import { createTestFolder } from '../helpers/services.ts';

let folder: string;

beforeEach(async () => {
  folder = await createTestFolder();
});

async function put(path: string, content: string | Uint8Array = `# ${path}\n\nText.\n`): Promise<void> {
  await mkdir(dirname(join(folder, path)), { recursive: true });
  await writeFile(join(folder, path), content);
}

async function pathsOf(...paths: string[]): Promise<string[]> {
  const { documents } = await collectDocuments(paths, { cwd: folder });
  return documents.map(({ path }) => path);
}

async function bytesOf({ read }: CollectedDocument): Promise<Buffer> {
  return Buffer.concat(await Array.fromAsync(read(), (piece) => Buffer.from(piece)));
}

describe('collectDocuments', () => {
  test('finds text of any kind at any depth, sorted, whatever the case of the extension', async () => {
    for (const path of ['b.md', 'a/z.TXT', 'a/b/c.html', 'a/t.csv', 'a/j.json', 'a/x.rst', 'B.mdx', 'a/l.log'])
      await put(path);
    expect(await pathsOf('.')).toEqual([
      'B.mdx',
      'a/b/c.html',
      'a/j.json',
      'a/l.log',
      'a/t.csv',
      'a/x.rst',
      'a/z.TXT',
      'b.md',
    ]);
  });

  test('counts the files of a folder that it leaves out, by kind', async () => {
    for (const path of ['a.md', 'x/1.png', 'x/2.PNG', 'x/a.zip', 'x/LICENSE', 'x/a.ts', '.hidden']) await put(path);
    const { documents, leftOut } = await collectDocuments(['.'], { cwd: folder });
    expect(documents.map(({ path }) => path)).toEqual(['a.md']);
    expect(Object.fromEntries(leftOut)).toEqual({ '.png': 2, '.zip': 1, LICENSE: 1, '.ts': 1 });
    expect(describeLeftOut(leftOut)).toMatch(
      /^2 \.png, (?:1 [.\w]+(?:, )?){3}: of no kind that is taken from a folder$/,
    );
  });

  test('takes a named file of any kind, as text', async () => {
    await put('x/a.ts', 'const a = 1;\n');
    await put('LICENSE', 'Do what you want.');
    expect(await pathsOf('x/a.ts', 'LICENSE')).toEqual(['LICENSE', 'x/a.ts']);
  });

  test('PDF and DOCX are taken from folders, and no file is read as text', async () => {
    const bytes = Buffer.from([0x25, 0x50, 0x44, 0x46, 0, 0xff]);
    await put('a.pdf', bytes);
    await put('b.docx', bytes);
    const { documents } = await collectDocuments(['.'], { cwd: folder });
    expect(documents.map(({ path }) => path)).toEqual(['a.pdf', 'b.docx']);
    for (const document of documents) {
      expect(await bytesOf(document)).toEqual(bytes);
      expect(document).toMatchObject({ bytes: 6, sha256: createHash('sha256').update(bytes).digest('hex') });
    }
  });

  test('leaves out dot files, dot folders and node_modules, unless they are named', async () => {
    for (const path of ['a.md', '.git/b.md', '.hidden.md', 'node_modules/p/readme.md']) await put(path);
    expect(await pathsOf('.')).toEqual(['a.md']);
    expect(await pathsOf('.', '.git', 'node_modules/p/readme.md')).toEqual([
      '.git/b.md',
      'a.md',
      'node_modules/p/readme.md',
    ]);
  });

  test('a file reached twice is one document, and a loop of links ends', async () => {
    await put('docs/a.md');
    await symlink(join(folder, 'docs'), join(folder, 'docs/again'));
    await symlink(join(folder, 'docs/a.md'), join(folder, 'docs/b.md'));
    expect(await pathsOf('docs', 'docs/a.md', 'docs/../docs')).toEqual(['docs/a.md']);
  });

  test('paths are relative to the root, and absolute when they lie outside', async () => {
    await put('docs/a.md');
    const { documents } = await collectDocuments([join(folder, 'docs')], { cwd: '/', root: folder });
    expect(documents.map(({ path }) => path)).toEqual(['docs/a.md']);
    const outside = await collectDocuments(['docs'], { cwd: folder, root: 'elsewhere' });
    expect(outside.documents.map(({ path }) => path)).toEqual([join(folder, 'docs/a.md')]);
  });

  test('a file that has gone, or is another thing, when it is read again is an error that names it', async () => {
    await put('a.md');
    await put('b.md');
    const { documents } = await collectDocuments(['.'], { cwd: folder });
    await rm(join(folder, 'a.md'));
    await rm(join(folder, 'b.md'));
    await symlink('/etc/hostname', join(folder, 'b.md'));
    for (const document of documents)
      await expect(bytesOf(document)).rejects.toMatchObject({
        code: 'FILE_UNREADABLE',
        message: expect.stringContaining(document.path),
      });
  });

  describe('a pattern', () => {
    beforeEach(async () => {
      for (const path of [
        'docs/a.pdf',
        'docs/x/b.pdf',
        'docs/x/c.md',
        'docs/x/d.ts',
        'docs/.git/e.pdf',
        'docs/node_modules/f.pdf',
      ])
        await put(path);
    });

    test.each([
      ['docs/*.pdf', ['docs/a.pdf']],
      ['docs/**/*.pdf', ['docs/a.pdf', 'docs/x/b.pdf']],
      ['**/[bc].{pdf,md}', ['docs/x/b.pdf', 'docs/x/c.md']],
      ['docs/x/?.ts', ['docs/x/d.ts']],
      ['docs/.git/*', ['docs/.git/e.pdf']],
      ['docs/*', ['docs/a.pdf', 'docs/x/b.pdf', 'docs/x/c.md']],
    ])('finds what it matches, but for what folders leave out: %s', async (pattern, paths) => {
      const { documents, skipped } = await collectDocuments([pattern], { cwd: folder });
      expect([documents.map(({ path }) => path), skipped]).toEqual([paths, []]);
      expect(await pathsOf(join(folder, pattern))).toEqual(paths);
    });

    test('that matches nothing is an error that names it', async () => {
      await expect(pathsOf('docs/*.epub')).rejects.toMatchObject({
        code: 'FILE_UNREADABLE',
        message: expect.stringContaining('docs/*.epub matches no file'),
      });
    });

    test('follows no link out of its folder', async () => {
      await put('elsewhere/secret.pdf');
      await symlink('../elsewhere/secret.pdf', join(folder, 'docs/link.pdf'));
      const { documents, skipped } = await collectDocuments(['docs/*.pdf'], { cwd: folder });
      expect(documents.map(({ path }) => path)).toEqual(['docs/a.pdf']);
      expect(skipped).toMatchObject([{ path: 'docs/link.pdf' }]);
    });

    test('is the name of a file where there is such a file', async () => {
      await put('docs/[a].md');
      expect(await pathsOf('docs/[a].md')).toEqual(['docs/[a].md']);
    });
  });

  describe('standard input', () => {
    const stdin = (...pieces: string[]) => ({
      name: 'said.md',
      bytes: (async function* () {
        for (const piece of pieces) yield Buffer.from(piece);
      })(),
    });

    test('is a document beside others', async () => {
      await put('a.md');
      const { documents } = await collectDocuments(['-', 'a.md'], { cwd: folder, stdin: stdin('# Sa', 'id\n') });
      expect(documents.map(({ path }) => path)).toEqual(['a.md', 'said.md']);
      expect((await bytesOf(documents[1] as CollectedDocument)).toString()).toBe('# Said\n');
    });

    test('without text is no document', async () => {
      await expect(collectDocuments(['-'], { cwd: folder, stdin: stdin(' \n') })).rejects.toMatchObject({
        code: 'FILE_EMPTY',
      });
    });
  });

  test.each<[string, () => Promise<string>, string, RegExp]>([
    ['a file that is not there', async () => 'nothing.md', 'FILE_UNREADABLE', /nothing\.md does not exist/],
  ])('refuses %s', async (_, make, code, message) => {
    const path = await make();
    await put('good.md');
    await expect(collectDocuments([path, 'good.md'], { cwd: folder })).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message),
    });
  });

  test.each<[string, () => Promise<string>, string, RegExp]>([
    ['an empty file', () => withFile('empty.md', ''), 'FILE_EMPTY', /^has no text/],
    ['a file of blanks', () => withFile('blank.md', '\uFEFF \n\t'), 'FILE_EMPTY', /^has no text/],
  ])('%s fails alone, and is the error where it is all there is', async (_, make, code, message) => {
    const path = await make();
    await put('good.md');
    const { documents, failed } = await collectDocuments([path, 'good.md'], { cwd: folder });
    expect(documents.map((document) => document.path)).toEqual(['good.md']);
    expect(failed).toEqual([{ path, code, message: expect.stringMatching(message) }]);
    await expect(collectDocuments([path], { cwd: folder })).rejects.toMatchObject({ code });
  });

  test('a pipe named like a document is refused, not waited for', async () => {
    await promisify(execFile)('mkfifo', [join(folder, 'pipe.md')]);
    await expect(collectDocuments(['pipe.md'], { cwd: folder })).rejects.toMatchObject({ code: 'FILE_UNREADABLE' });
  });

  test('a link to nothing is reported when it is named like a document', async () => {
    await put('a.md');
    await symlink(join(folder, 'gone'), join(folder, 'link'));
    expect(await pathsOf('.')).toEqual(['a.md']);
    await symlink(join(folder, 'gone.md'), join(folder, 'link.md'));
    await expect(pathsOf('.')).rejects.toMatchObject({ code: 'FILE_UNREADABLE' });
  });

  test.skipIf(process.getuid?.() === 0)('a folder without permission is reported', async () => {
    await put('secret/a.md');
    await chmod(join(folder, 'secret'), 0);
    await expect(pathsOf('.')).rejects.toMatchObject({
      code: 'FILE_UNREADABLE',
      message: expect.stringMatching(/permission denied/),
    });
    await chmod(join(folder, 'secret'), 0o700);
  });

  test('names every bad file, up to a limit, under the code of the first', async () => {
    for (let i = 0; i < 8; i++) await put(`e${i}.md`, '');
    await expect(collectDocuments(['.'], { cwd: folder })).rejects.toMatchObject({
      code: 'FILE_EMPTY',
      message: expect.stringMatching(/^e0\.md has no text in it; .*e4\.md has no text in it; and 3 more$/),
      details: { files: expect.objectContaining({ length: 8 }) },
    });
  });

  test('skipBad leaves bad files out and says which', async () => {
    await put('good.md');
    await symlink(join(folder, 'gone.md'), join(folder, 'link.md'));
    const { documents, skipped } = await collectDocuments(['.'], { cwd: folder, skipBad: true });
    expect(documents.map(({ path }) => path)).toEqual(['good.md']);
    expect(skipped).toEqual([{ code: 'FILE_UNREADABLE', path: 'link.md', message: 'does not exist' }]);
  });

  test('a folder with nothing to ingest is an error', async () => {
    await put('code.ts');
    await expect(collectDocuments(['.'], { cwd: folder })).rejects.toMatchObject({ code: 'NOTHING_TO_INGEST' });
  });

  describe('a link in a named folder', () => {
    const outside: [string, (docs: string, elsewhere: string) => Promise<unknown>][] = [
      ['to a file elsewhere', (docs, elsewhere) => symlink(join(elsewhere, 'secret.md'), join(docs, 'link.md'))],
      [
        'to a file of another kind elsewhere',
        (docs, elsewhere) => symlink(join(elsewhere, 'key'), join(docs, 'link.md')),
      ],
      ['to a folder elsewhere', (docs, elsewhere) => symlink(elsewhere, join(docs, 'link'))],
      ['to the folder above', (docs) => symlink('..', join(docs, 'link'))],
      ['to the root', (docs) => symlink('/', join(docs, 'link'))],
      ['to a folder whose name begins alike', (docs) => symlink(`${docs}-private`, join(docs, 'link'))],
      [
        'through another link',
        async (docs, elsewhere) => {
          await symlink(elsewhere, join(docs, '.hop'));
          await symlink(join('.hop', 'secret.md'), join(docs, 'link.md'));
        },
      ],
      ['to a dot file beside it', (docs) => symlink('.env', join(docs, 'link.md'))],
      ['into a dot folder beside it', (docs) => symlink(join('.git', 'config.md'), join(docs, 'link.md'))],
    ];

    async function make(plant: (docs: string, elsewhere: string) => Promise<unknown>): Promise<void> {
      await put('docs/good.md');
      await put('docs/.env', 'SECRET=1');
      await put('docs/.git/config.md', 'SECRET=1');
      await put('docs-private/secret.md', 'secret');
      await put('elsewhere/secret.md', 'secret');
      await put('elsewhere/key', 'secret');
      await plant(join(folder, 'docs'), join(folder, 'elsewhere'));
    }

    test.each(outside)('%s is left out and named', async (_what, plant) => {
      await make(plant);
      const { documents, skipped } = await collectDocuments(['docs'], { cwd: folder });
      expect(documents.map(({ path }) => path)).toEqual(['docs/good.md']);
      expect(skipped).toEqual([
        {
          code: 'FILE_UNREADABLE',
          path: expect.stringMatching(/^docs\/link(\.md)?$/),
          message: 'is a link out of the named folder (--follow-links reads it)',
        },
      ]);
    });

    test.each(outside.slice(0, 3))('%s is read when it is asked for', async (_what, plant) => {
      await make(plant);
      const { documents, skipped } = await collectDocuments(['docs'], { cwd: folder, followLinks: true });
      const texts = await Promise.all(documents.map(async (document) => (await bytesOf(document)).toString()));
      expect(texts).toContain('secret');
      expect(skipped).toEqual([]);
    });

    test('to what is named beside it, or lies in the folder, is followed', async () => {
      await make(async (docs) => {
        await symlink('../elsewhere', join(docs, 'link'));
        await symlink('good.md', join(docs, 'again.md'));
      });
      const { documents, skipped } = await collectDocuments(['docs', 'elsewhere'], { cwd: folder });
      expect(documents.map(({ path }) => path)).toEqual(['docs/again.md', 'docs/link/secret.md']);
      expect(skipped).toEqual([]);
    });

    test('that is all there is: an error that names it', async () => {
      await put('elsewhere/secret.md', 'secret');
      await put('docs/code.ts');
      await symlink('../elsewhere/secret.md', join(folder, 'docs', 'link.md'));
      await expect(collectDocuments(['docs'], { cwd: folder })).rejects.toMatchObject({
        code: 'NOTHING_TO_INGEST',
        message: expect.stringContaining('docs/link.md is a link out of the named folder (--follow-links reads it)'),
      });
    });

    test('may be named itself', async () => {
      await make(() => symlink(join(folder, 'elsewhere'), join(folder, 'named')));
      const { documents } = await collectDocuments(['named'], { cwd: folder });
      expect(documents.map(({ path }) => path)).toEqual(['named/secret.md']);
    });
  });

  async function withFile(path: string, content: string | Uint8Array): Promise<string> {
    await put(path, content);
    return path;
  }
});

describe('parts and keys', () => {
  const document = (path: string, bytes: number): CollectedDocument => ({
    path,
    bytes,
    sha256: createHash('sha256').update(path).digest('hex'),
    async *read() {},
  });

  test('documents are split below the limit; one above it is a part by itself', () => {
    const parts = splitIntoParts(
      [document('a', 6), document('b', 4), document('c', 1), document('d', 30), document('e', 1)],
      { maxBytes: 10 },
    );
    expect(parts.map((part) => part.map(({ path }) => path))).toEqual([['a', 'b'], ['c'], ['d'], ['e']]);
    const few = splitIntoParts(
      ['a', 'b', 'c'].map((path) => document(path, 1)),
      { maxDocuments: 2 },
    );
    expect(few.map((part) => part.length)).toEqual([2, 1]);
  });

  test('the key follows collection, paths, contents and settings', () => {
    const key = ingestKey('docs', [document('a', 1)]);
    expect(key).toMatch(/^ingest:[0-9a-f]{64}$/);
    expect(ingestKey('docs', [document('a', 1)])).toBe(key);
    const others = [
      ingestKey('other', [document('a', 1)]),
      ingestKey('docs', [document('b', 1)]),
      ingestKey('docs', [{ ...document('a', 1), sha256: 'changed' }]),
      ingestKey('docs', [document('a', 1)], { removeMissing: true }),
    ];
    expect(new Set([key, ...others]).size).toBe(5);
  });
});
