import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { beforeEach, expect, test } from 'vitest';
import { z } from 'zod';
import { loadJobs } from '../../src/cli/load-jobs.ts';
import { readInput } from '../../src/cli/read-input.ts';
import { defineJob } from '../../src/jobs/define-job.ts';
import { createTestFolder } from '../helpers/services.ts';

const builtin = [defineJob({ name: 'ingest', input: z.object({}), run: () => null })];
/** A definition by shape, so that the module needs no package. */
const job = (name: string) => `{ name: '${name}', queue: '${name}', input: { safeParse() {} }, policy: {}, run() {} }`;

let folder: string;

beforeEach(async () => {
  folder = await createTestFolder();
});

async function put(path: string, content: string): Promise<void> {
  await mkdir(dirname(join(folder, path)), { recursive: true });
  await writeFile(join(folder, path), content);
}

async function namesOf(...modules: string[]): Promise<string[]> {
  return (await loadJobs(modules, { cwd: folder, builtin })).map(({ name }) => name);
}

test('jobs are found as named, default and listed exports, each once', async () => {
  await put(
    'jobs.mjs',
    `const a = ${job('a')}; export { a }; export default a; export const more = [a, ${job('b')}]; export const other = 1;`,
  );
  expect((await namesOf('./jobs.mjs', join(folder, 'jobs.mjs'))).sort()).toEqual(['a', 'b', 'ingest']);
});

test('a TypeScript module is loaded as it is', async () => {
  await put('jobs.ts', `const a: object = ${job('a')}; export default a;`);
  expect(await namesOf('jobs.ts')).toEqual(['ingest', 'a']);
});

test('a package that the working directory sees is loaded', async () => {
  await put('node_modules/our-jobs/package.json', '{"name":"our-jobs","version":"1.0.0","main":"main.cjs"}');
  await put('node_modules/our-jobs/main.cjs', `exports.a = ${job('a')};`);
  expect(await namesOf('our-jobs')).toEqual(['ingest', 'a']);
});

test('every module and name at fault is told at once', async () => {
  await put('throws.mjs', 'throw new Error("no licence")');
  await put('syntax.mjs', 'export const = 1');
  await put('none.mjs', 'export const x = 1');
  await put('taken.mjs', `export const mine = ${job('ingest')}`);
  await mkdir(join(folder, 'folder'));
  const loading = namesOf(
    './throws.mjs',
    './syntax.mjs',
    './none.mjs',
    './taken.mjs',
    './gone.mjs',
    'no-such-package',
    'folder',
  );
  await expect(loading).rejects.toMatchObject({
    code: 'CONFIG_INVALID',
    issues: [
      { path: './throws.mjs', message: 'failed to load: Error: no licence' },
      { path: './syntax.mjs', message: expect.stringMatching(/^failed to load: /) },
      { path: './none.mjs', message: 'exports no job definition (see defineJob)' },
      { path: './gone.mjs', message: 'does not exist' },
      { path: 'no-such-package', message: 'is neither a file nor an installed package' },
      { path: 'folder', message: 'is a folder; name the module file in it' },
      { path: './taken.mjs', message: 'defines job "ingest", a name that a built-in job has taken' },
    ],
  });
});

test('input is JSON, a file, standard input, or nothing', async () => {
  const read = (argument?: string, input = '') =>
    readInput(argument, { cwd: folder, stdin: chunksOf(Buffer.from(input)) });
  await put('in.json', '\uFEFF{"a":[1]}');
  expect(await read()).toEqual({});
  expect(await read('{"a":1}')).toEqual({ a: 1 });
  expect(await read('@in.json')).toEqual({ a: [1] });
  expect(await read('-', '"é"')).toBe('é');
  await expect(read('{a:1}')).rejects.toMatchObject({ code: 'INPUT_INVALID' });
  await expect(read('-')).rejects.toMatchObject({
    code: 'INPUT_INVALID',
    message: 'Standard input is empty: expected JSON',
  });
  await expect(read('@gone.json')).rejects.toMatchObject({
    code: 'FILE_UNREADABLE',
    message: 'gone.json does not exist',
  });
  await expect(read('@.')).rejects.toMatchObject({ code: 'FILE_UNREADABLE', message: '. is a folder' });
});

/** Byte by byte, so that characters are split. */
async function* chunksOf(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  for (const byte of bytes) yield Uint8Array.of(byte);
}
