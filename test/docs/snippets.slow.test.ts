/** The TypeScript of README and docs type-checks against the source, as modules of somebody's project. */
import { execFile } from 'node:child_process';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { expect, it } from 'vitest';
import { type Block, blocksOf, pages, ROOT } from '../helpers/markdown.ts';
import { createTestFolder } from '../helpers/services.ts';

/** What pages take for granted: things of the reader's own. */
const READERS_OWN = `import type { Kysely } from 'kysely';
import type { chargeJob } from './jobs.ts';
import type { Cursor, Fleet } from 'oncefleet';
declare global {
  const fleet: Fleet;
  const db: Kysely<{ orders: { id: number } }>;
  const chargeOrder: import('oncefleet').JobDefinition<{ orderId: number }, void>;
  const payments: { charge(orderId: number, options: { idempotencyKey: string }): Promise<{ id: string }> };
  const counters: { inc(labels: Record<string, string | undefined>): void };
  const histogram: { observe(labels: Record<string, string>, seconds: number): void };
  const id: string;
  const after: Cursor;
  const signal: AbortSignal;
  function show(what: unknown): void;
  function save(what: unknown): void;
  function write(topic: string, options: { after: string }): AsyncIterable<string>;
}
`;

/** The job that the guide of clients asks for. */
const SUMMARIZE = `import { defineJob } from 'oncefleet';
import { z } from 'zod';
export const summarize = defineJob({ name: 'summarize', input: z.object({ text: z.string() }), run: async () => 'short' });
`;

/** Packages that this repository does not have: packed.slow.test.ts checks what pages do with them. */
const OTHERS = /from '(@nestjs\/|express')/;

const snippets = pages()
  .flatMap(blocksOf)
  .filter(({ language, code }) => (language === 'ts' || language === 'js') && !OTHERS.test(code));

/** What the compiler says, with the page and line of each snippet. */
async function compile(blocks: readonly Block[]): Promise<string> {
  const folder = await createTestFolder();
  const write = async (path: string, text: string) => {
    await mkdir(dirname(join(folder, path)), { recursive: true });
    await writeFile(join(folder, path), text);
  };
  await symlink(join(ROOT, 'node_modules'), join(folder, 'node_modules'));
  await write('package.json', '{ "type": "module" }');
  await write('src/readers-own.d.ts', READERS_OWN);
  await write('pages/jobs.ts', SUMMARIZE);
  await write('src/jobs.ts', "export { repairedCharge as chargeJob } from 'examples/charge-job';\n");
  const source = (path: string) => [join(ROOT, path)];
  await write(
    'tsconfig.json',
    JSON.stringify({
      extends: join(ROOT, 'tsconfig.json'),
      compilerOptions: {
        noUnusedLocals: false,
        noUnusedParameters: false,
        allowJs: true,
        paths: {
          oncefleet: source('src/index.ts'),
          'oncefleet/client': source('src/web-client/index.ts'),
          'oncefleet/testing': source('src/testing/index.ts'),
          'oncefleet/fold': source('src/journal/fold.ts'),
          'examples/charge-job': source('examples/charge-job.ts'),
        },
      },
      include: ['src', 'pages'],
    }),
  );
  for (const { page, line, language, code } of blocks)
    await write(`pages/${page.replaceAll('/', '_')}_${line}.${language}`, `${code}\nexport {};\n`);
  const tsc = join(ROOT, 'node_modules/typescript/bin/tsc');
  return new Promise((resolve) => {
    execFile(process.execPath, [tsc, '-p', folder, '--pretty', 'false'], (_error, stdout, stderr) =>
      resolve(stdout + stderr),
    );
  });
}

it('every snippet type-checks, and one that does not is named with its place', async () => {
  expect(snippets.length).toBeGreaterThan(12);
  const code = "import { createFleets } from 'oncefleet';\ncreateFleets(fleet);";
  const said = await compile([
    ...snippets,
    { page: 'docs/wrong.md', line: 7, language: 'ts', code, notRun: undefined },
  ]);
  expect(said.split('\n').filter((line) => line.includes('error'))).toEqual([
    expect.stringMatching(/pages\/docs_wrong\.md_7\.ts\(1,10\): error/),
  ]);
});
