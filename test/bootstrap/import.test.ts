/** What `import 'oncefleet'` loads: packages, not milliseconds. */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));

/** Packages that a process of its own loads for this code. */
function packagesOf(code: string): string[] {
  const script = `
    import { registerHooks } from 'node:module';
    const seen = new Set();
    registerHooks({
      load(url, context, next) {
        const [, name] = /node_modules\\/((?:@[^/]+\\/)?[^/]+)/.exec(url) ?? [];
        if (name !== undefined) seen.add(name);
        return next(url, context);
      },
    });
    const library = await import('oncefleet');
    ${code}
    console.log(JSON.stringify([...seen].toSorted()));`;
  const args = ['--conditions=oncefleet-source', '--input-type=module', '-e', script];
  return JSON.parse(execFileSync(process.execPath, args, { cwd: ROOT, encoding: 'utf8' })) as string[];
}

/** Every page of the documentation. */
function docs(): string {
  const pages = readdirSync(join(ROOT, 'docs'), { recursive: true, encoding: 'utf8' }).filter((page) =>
    page.endsWith('.md'),
  );
  return ['README.md', ...pages.map((page) => join('docs', page))]
    .map((page) => readFileSync(join(ROOT, page), 'utf8'))
    .join('\n');
}

const SERVICE = /^(fastify|@fastify\/|fastify-|@bull-board\/|ai$|@ai-sdk\/|commander$)/;

it('the import alone loads no package', () => {
  expect(packagesOf('')).toEqual([]);
});

it('a definition loads zod, and no driver', () => {
  const code = "library.defineJob({ name: 'a', input: { safeParse: () => ({ success: true }) }, run: () => 1 });";
  expect(packagesOf(code)).toEqual(['zod']);
});

it.each([
  [
    'a fleet',
    "library.createFleet({ databaseUrl: 'postgres://localhost/x', redisUrl: 'redis://localhost', jobs: [] });",
  ],
  [
    'a processor',
    "library.withIdempotency(() => 1, { databaseUrl: 'postgres://localhost/x', redisUrl: 'redis://localhost' });",
  ],
])('%s loads drivers, and nothing that only the service needs', (_what, code) => {
  const loaded = packagesOf(`try { ${code} } finally { setImmediate(() => process.exit()); }`);
  expect(loaded).toEqual(expect.arrayContaining(['bullmq', 'ioredis', 'kysely', 'pg', 'zod']));
  expect(loaded.filter((name) => SERVICE.test(name))).toEqual([]);
});

it('what is loaded late is there under its own name: functions and the variables', () => {
  packagesOf(`
    import assert from 'node:assert';
    import * as all from './src/library.ts';
    assert.deepEqual(Object.keys(library).toSorted(), Object.keys(all).toSorted());
    assert.deepEqual(Object.keys(library.CONFIG_VARIABLES), Object.keys(all.CONFIG_VARIABLES));
    assert.equal(library.OncefleetError, all.OncefleetError);
    assert.throws(() => library.createFleet({}), library.InputInvalidError);`);
});

it.each([
  ['oncefleet', () => import('../../src/index.ts')],
  ['oncefleet/fold', () => import('../../src/journal/fold.ts')],
  ['oncefleet/testing', () => import('../../src/testing/index.ts')],
])('%s exports nothing that the documentation does not mention', async (_, load) => {
  const text = docs();
  const missing = Object.keys(await load()).filter((name) => !new RegExp(`\\b${name}\\b`).test(text));
  expect(missing).toEqual([]);
});
