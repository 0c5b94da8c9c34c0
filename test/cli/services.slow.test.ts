/** `web`, `work` and `dev` as processes: how they start, drain, hurry and end. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import {
  createTestDatabase,
  createTestFolder,
  startTestPostgres,
  type TestDatabase,
  testRedisUrl,
  uniquePrefix,
} from '../helpers/services.ts';
import { Cli, runCli } from './run-cli.ts';

const JOBS = fileURLToPath(new URL('fixtures/jobs.ts', import.meta.url));
const HELLO = fileURLToPath(new URL('../../examples/hello.ts', import.meta.url));
const GREET = fileURLToPath(new URL('../../examples/greet-job.ts', import.meta.url));

let database: TestDatabase;
let env: Record<string, string>;
let folder: string;
const started: Cli[] = [];

beforeAll(async () => {
  database = await createTestDatabase();
  folder = await createTestFolder();
  env = {
    DATABASE_URL: database.url,
    REDIS_URL: testRedisUrl(),
    ONCEFLEET_PREFIX: uniquePrefix(),
    ONCEFLEET_JOBS: JOBS,
    // No lease is to run out here, however slow the machine is.
    ONCEFLEET_LEASE_TTL_MS: '30000',
    ONCEFLEET_HEARTBEAT_MS: '1000',
    ONCEFLEET_RECONCILE_MS: '500',
    PORT: '0',
  };
});

afterEach(async () => {
  for (const cli of started.splice(0)) {
    cli.kill('SIGKILL');
    await cli.ended;
  }
});

afterAll(async () => {
  await database.drop();
});

function start(args: readonly string[], settings: Record<string, string> = {}): Cli {
  const cli = new Cli(args, { env: { ...env, ...settings }, cwd: folder });
  started.push(cli);
  return cli;
}

async function startWorker(settings: Record<string, string> = {}): Promise<Cli> {
  const worker = start(['work'], settings);
  await worker.prints('"msg":"Working"');
  return worker;
}

/** A job that runs until `open()`; resolves once it does run. */
async function runGatedJob(
  name: string,
): Promise<{ id: string; open(): Promise<void>; status(): Promise<Record<string, unknown>> }> {
  const gate = join(folder, name);
  const { stdout } = await runCli(['enqueue', 'gated', JSON.stringify({ gate }), '--json'], { env });
  const { id } = JSON.parse(stdout) as { id: string };
  const status = async () =>
    JSON.parse((await runCli(['status', id, '--json'], { env })).stdout) as Record<string, unknown>;
  await expect.poll(status, { timeout: 20_000 }).toMatchObject({ status: 'running' });
  return { id, open: () => writeFile(gate, ''), status };
}

describe('work', () => {
  test('SIGTERM lets a running job finish, then exits with 0', async () => {
    const worker = await startWorker();
    const job = await runGatedJob('drain');
    worker.kill('SIGTERM');
    await worker.prints('"msg":"Closing: ');
    expect(worker.child.exitCode).toBeNull();
    await job.open();
    expect(await worker.ended).toMatchObject({ code: 0, stderr: '' });
    expect(worker.stdout).toContain('"msg":"Closed"');
    expect(await job.status()).toMatchObject({ status: 'completed', fence: 1, crashCount: 0, interruptionCount: 0 });
  });

  test('goes on after rejections that a handler leaves to nobody, and logs them', async () => {
    const worker = await startWorker();
    const bystander = await runGatedJob('bystander');
    const gate = join(folder, 'careless');
    const { stdout } = await runCli(['enqueue', 'careless', JSON.stringify({ gate }), '--json'], { env });
    const { id } = JSON.parse(stdout) as { id: string };
    await worker.prints('of the handler alone');
    const lines = worker.stdout.split('\n').filter((line) => line.includes('nobody'));
    expect(lines.filter((line) => line.includes(id))).toHaveLength(1);
    expect(lines).toHaveLength(2);
    await writeFile(gate, '');
    await bystander.open();
    await expect.poll(bystander.status, { timeout: 20_000 }).toMatchObject({ status: 'completed', crashCount: 0 });
    worker.kill('SIGTERM');
    expect(await worker.ended).toMatchObject({ code: 0 });
  });

  test('a second SIGTERM interrupts the job, which runs again elsewhere', async () => {
    const worker = await startWorker({ ONCEFLEET_SHUTDOWN_MS: '600000' });
    const job = await runGatedJob('hurry');
    worker.kill('SIGTERM');
    await worker.prints('"msg":"Closing: ');
    // Within 200 ms of the first it would count as the same press.
    await expect
      .poll(
        () => {
          worker.kill('SIGTERM');
          return worker.stdout;
        },
        { interval: 300, timeout: 20_000 },
      )
      .toContain('"msg":"Closing now');
    expect(await worker.ended).toMatchObject({ code: 0, stderr: '' });
    expect(await job.status()).toMatchObject({ crashCount: 0, interruptionCount: 1 });
    await job.open();
    await startWorker();
    await expect.poll(job.status, { timeout: 20_000 }).toMatchObject({ status: 'completed', fence: 2 });
  });

  test('at the deadline running jobs are interrupted, and the exit is still 0', async () => {
    const worker = await startWorker({ ONCEFLEET_SHUTDOWN_MS: '200' });
    const job = await runGatedJob('deadline');
    worker.kill('SIGTERM');
    expect(await worker.ended).toMatchObject({ code: 0 });
    expect(await job.status()).toMatchObject({ crashCount: 0, interruptionCount: 1 });
    await runCli(['cancel', job.id], { env });
  });

  test('SIGINT closes as SIGTERM does', async () => {
    const worker = await startWorker();
    worker.kill('SIGINT');
    expect(await worker.ended).toMatchObject({ code: 0, stderr: '' });
  });

  test('a signal during the start closes what was opened', async () => {
    const worker = start(['work'], { LOG_LEVEL: 'debug' });
    await expect
      .poll(() => worker.stdout.length > 0 || worker.child.exitCode !== null, { timeout: 20_000, interval: 5 })
      .toBe(true);
    worker.kill('SIGTERM');
    expect(await worker.ended).toMatchObject({ code: 0, stderr: '' });
  });

  test('--only runs jobs of that name alone', async () => {
    const worker = start(['work', '--only', 'echo']);
    await worker.prints('"jobs":["echo"]');
    const { stdout } = await runCli(['enqueue', 'echo', '{"value":1}', '--wait'], { env });
    expect(stdout).toBe('1\n');
  });
});

test('whoever follows a job is not cut off by a restart of Postgres', async () => {
  const own = await startTestPostgres();
  const settings = { env: { ...env, DATABASE_URL: own.postgres.url, ONCEFLEET_PREFIX: uniquePrefix() } };
  try {
    expect(await runCli(['migrate'], settings)).toMatchObject({ code: 0 });
    await startWorker(settings.env);
    const gate = join(folder, 'outage');
    const follower = start(['enqueue', 'gated', JSON.stringify({ gate }), '--follow'], settings.env);
    await follower.prints('waiting');
    await own.postgres.stop();
    await expect
      .poll(() => follower.stderr, { timeout: 20_000 })
      .toMatch(/^Postgres cannot be reached: .*; trying again for 60 s$/m);
    await own.postgres.start();
    await writeFile(gate, '');
    expect(await follower.ended).toMatchObject({ code: 0, stdout: expect.stringMatching(/ end .*\n$/) });
  } finally {
    await own.stop();
  }
});

describe('web', () => {
  test('logs its address, answers, and ends with 0 on SIGTERM', async () => {
    const web = start(['web']);
    await web.prints('Listening on');
    const address = /Listening on (http:\/\/[\w.:[\]]+)/.exec(web.stdout)?.[1] as string;
    expect((await fetch(`${address}/readyz`)).status).toBe(200);
    const answer = await fetch(`${address}/v1/jobs/echo`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{"value":1}',
    });
    expect(answer.status).toBe(202);
    web.kill('SIGTERM');
    expect(await web.ended).toMatchObject({ code: 0, stderr: '' });
  });

  test.each(['999.1.1.1', 'host.invalid', '192.0.2.1'])('%s to listen on is wrong configuration', async (host) => {
    const settings = { env: { ...env, HOST: host, ONCEFLEET_ALLOW_ANYONE: 'true', LOG_LEVEL: 'silent' } };
    for (const command of ['web', 'dev']) {
      expect(await runCli([command], settings)).toMatchObject({
        code: 2,
        stderr: expect.stringMatching(/^error CONFIG_INVALID: Cannot listen on HOST and PORT: [^\n]+\n$/),
      });
    }
  });

  test('a port that is taken is one line and exit code 2', async () => {
    const first = start(['web']);
    await first.prints('Listening on');
    const port = /Listening on http:\/\/[^:]+:(\d+)/.exec(first.stdout)?.[1] as string;
    const second = await runCli(['web', '--port', port], { env: { ...env, LOG_LEVEL: 'silent' } });
    expect(second).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/^error CONFIG_INVALID: Cannot listen on HOST and PORT: [^\n]*EADDRINUSE[^\n]*\n$/),
    });
  });
});

test('dev is web and worker at once, and says where', async () => {
  const dev = start(['dev', '--jobs', GREET]);
  await dev.prints('greet\n');
  expect(dev.stdout).toMatch(
    /^API {9}http:\/\/127\.0\.0\.1:\d+\/v1\/jobs\nBull Board {2}http:\/\/127\.0\.0\.1:\d+\/admin\/queues\nJobs {8}ingest, answer, .*greet\n$/,
  );
  const greeting = await runCli(['enqueue', 'greet', '{"name":"Ada","pauseMs":0}', '--jobs', GREET, '--wait'], { env });
  expect(greeting).toMatchObject({ code: 0, stdout: '{"text":"Hello from attempt 1, Ada!"}\n' });
  dev.kill('SIGINT');
  expect(await dev.ended).toMatchObject({ code: 0 });
});

test('the example of the library runs and ends by itself', async () => {
  const { DATABASE_URL, REDIS_URL } = env;
  const example = new Cli([], {
    script: HELLO,
    flags: ['--conditions=oncefleet-source'],
    env: { DATABASE_URL, REDIS_URL },
  });
  started.push(example);
  const { code, stdout, stderr } = await example.ended;
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect(stdout).toContain("0 { type: 'word', word: 'Hello,' }");
  expect(stdout).toContain('created Hello, Ada!');
});

describe('bin/oncefleet.mjs under a Node that cannot run the source', () => {
  /** Without type stripping the current Node is as unfit as an old one. */
  const startWrapped = (args: readonly string[]) => {
    const cli = new Cli(args, { flags: ['--no-strip-types'], env });
    started.push(cli);
    return cli;
  };
  const pidOf = ({ stdout }: Cli) => Number(/"pid":(\d+)/.exec(stdout)?.[1]);

  test('passes on output and exit code', async () => {
    expect(await startWrapped(['--version']).ended).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^\d+\.\d+\.\d+\n$/),
    });
    expect(await startWrapped(['follow', 'x']).ended).toMatchObject({ code: 2, signal: null });
  });

  test('forwards SIGTERM, so that the worker drains', async () => {
    const wrapped = startWrapped(['work']);
    await wrapped.prints('"msg":"Working"');
    expect(pidOf(wrapped)).not.toBe(wrapped.child.pid);
    wrapped.kill('SIGTERM');
    expect(await wrapped.ended).toMatchObject({ code: 0, signal: null });
    expect(wrapped.stdout).toContain('"msg":"Closed"');
  });

  test('killed, it takes the worker along', async () => {
    const wrapped = startWrapped(['work']);
    await wrapped.prints('"msg":"Working"');
    wrapped.kill('SIGKILL');
    // The worker holds the same pipes, so they close with the last of the two.
    expect(await wrapped.ended).toMatchObject({ code: null, signal: 'SIGKILL' });
    expect(wrapped.stdout).not.toContain('"msg":"Closed"');
  });

  test('ends as its child was ended', async () => {
    const wrapped = startWrapped(['work']);
    await wrapped.prints('"msg":"Working"');
    process.kill(pidOf(wrapped), 'SIGKILL');
    expect(await wrapped.ended).toMatchObject({ code: null, signal: 'SIGKILL' });
  });
});
