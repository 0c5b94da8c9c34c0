/** The packed package in projects of their own: installed, type-checked and run. Installs from the configured registry. */
import { execFileSync, spawnSync } from 'node:child_process';
import { accessSync, constants, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import { createEmptyDatabase, createTestFolder, testRedisUrl } from '../helpers/services.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));

/** Of BullMQ 5 and 6, as package.json pins them. */
const VERSIONS = ['5.81.5', '6.7.0'];

let folder: string;
const databases: { url: string; drop(): Promise<void> }[] = [];

beforeAll(async () => {
  folder = await createTestFolder();
  execFileSync('npm', ['run', '--silent', 'build'], { cwd: ROOT });
  execFileSync('npm', ['pack', '--ignore-scripts', '--pack-destination', folder], { cwd: ROOT, stdio: 'ignore' });
  const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string };
  for (const bullmq of VERSIONS) {
    const project = join(folder, bullmq);
    mkdirSync(project);
    writeFileSync(join(project, 'package.json'), '{"private":true}');
    const packages = [`../oncefleet-${version}.tgz`, `bullmq@${bullmq}`, 'ioredis', 'pg', 'zod', 'typescript@5.9.3'];
    execFileSync('npm', ['install', ...packages, '@types/node@24.19.2'], { cwd: project, stdio: 'ignore' });
  }
  return async () => {
    for (const database of databases) await database.drop();
  };
}, 300_000);

/** The fenced TypeScript of a page that names nothing that is not installed. */
function snippetsOf(page: string): string[] {
  const text = readFileSync(join(ROOT, page), 'utf8');
  const all = [...text.matchAll(/^```ts\n([\s\S]*?)^```/gm)].map(([, code = '']) => code);
  return all.filter((code) => code.includes("from 'oncefleet'") && !code.includes('@nestjs/'));
}

const MODULES = {
  nodenext: ['--module', 'nodenext'],
  bundler: ['--module', 'esnext', '--moduleResolution', 'bundler', '--exactOptionalPropertyTypes'],
};

describe.each(VERSIONS)('with BullMQ %s', (bullmq) => {
  const project = () => join(folder, bullmq);
  const run = (command: string, args: string[], env: Record<string, string> = {}) =>
    spawnSync(command, args, { cwd: project(), encoding: 'utf8', env: { ...process.env, ...env }, timeout: 60_000 });

  it.each(Object.entries(MODULES))(
    'every snippet of README and guide type-checks in a strict project (%s), libraries too',
    (_name, args) => {
      const snippets = ['README.md', 'docs/guides/bullmq.md'].flatMap(snippetsOf);
      expect(snippets.length).toBeGreaterThanOrEqual(5);
      const files = snippets.map((code, i) => {
        const file = join(project(), `snippet-${i}.mts`);
        writeFileSync(file, code);
        return file;
      });
      const options = ['--noEmit', '--strict', '--target', 'es2024', '--skipLibCheck', 'false', '--types', 'node'];
      const { stdout } = run('npx', ['tsc', ...options, ...args, ...files]);
      expect(stdout).toBe('');
    },
    120_000,
  );

  it('a worker type-checks with a wrapped processor of its own data, and not with one of other data', () => {
    const file = join(project(), 'data.mts');
    writeFileSync(
      file,
      `import { type Job, Worker } from 'bullmq';
import { withIdempotency } from 'oncefleet';
const options = { databaseUrl: '', redisUrl: '' };
const connection = { url: '' };
new Worker<{ cents: number }, number>('q', withIdempotency(async (job: Job<{ cents: number }>) => job.data.cents, options), { connection });
const apart = withIdempotency(async (job) => job.data.cents as number, options);
new Worker<{ cents: number }, number>('q', apart, { connection });
// @ts-expect-error other data
new Worker<{ cents: number }, number>('q', withIdempotency(async (job: Job<{ euros: number }>) => job.data.euros, options), { connection });
// @ts-expect-error no such option
withIdempotency(async () => 1, { ...options, keys: 1 });
`,
    );
    const options = ['--noEmit', '--strict', '--target', 'es2024', '--module', 'nodenext', '--types', 'node'];
    expect(run('npx', ['tsc', ...options, file]).stdout).toBe('');
  }, 120_000);

  it('its command keeps its mode, migrates, and a wrapped processor runs a key once: import and require', async () => {
    accessSync(join(project(), 'node_modules/oncefleet/bin/oncefleet.mjs'), constants.X_OK);
    const database = await createEmptyDatabase();
    databases.push(database);
    const env = { DATABASE_URL: database.url, REDIS_URL: testRedisUrl(), PREFIX: `packed-${bullmq}-${process.pid}` };
    expect(run('npx', ['oncefleet', '--version']).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
    expect(run('npx', ['oncefleet', 'migrate'], env).status).toBe(0);
    const body = `
const { Queue, Worker } = bullmq;
const { DATABASE_URL: databaseUrl, REDIS_URL: redisUrl, PREFIX: prefix } = process.env;
(async () => {
  let runs = 0;
  const guarded = oncefleet.withIdempotency(async (job) => job.data.n + runs++, { databaseUrl, redisUrl, prefix });
  const connection = { url: redisUrl };
  const worker = new Worker('packed', guarded, { connection, prefix });
  const queue = new Queue('packed', { connection, prefix });
  const jobs = [];
  for (let i = 0; i < 3; i++) jobs.push(await queue.add('x', { n: 7, idempotencyKey: KIND }));
  for (;;) {
    const states = await Promise.all(jobs.map((job) => job.getState()));
    if (states.every((state) => state === 'completed')) break;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const results = await Promise.all(jobs.map(async ({ id }) => (await queue.getJob(id)).returnvalue));
  await queue.obliterate({ force: true });
  await worker.close();
  await guarded.close();
  await queue.close();
  console.log(JSON.stringify({ runs, results }));
})();
`;
    const heads = {
      'run.mjs': `import * as bullmq from 'bullmq';\nimport * as oncefleet from 'oncefleet';\nconst KIND = 'esm';`,
      'run.cjs': `const bullmq = require('bullmq');\nconst oncefleet = require('oncefleet');\nconst KIND = 'cjs';`,
    };
    for (const [file, head] of Object.entries(heads)) {
      writeFileSync(join(project(), file), head + body);
      const { stdout, stderr } = run(process.execPath, [file], env);
      expect({ file, stdout, stderr }).toEqual({ file, stdout: '{"runs":1,"results":[7,7,7]}\n', stderr: '' });
    }
  }, 120_000);
});
