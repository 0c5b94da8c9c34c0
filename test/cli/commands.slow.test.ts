/** The real commands against real services, with a real worker beside them. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createDb, type Db } from '../../src/db/client.ts';
import {
  createEmptyDatabase,
  createTestDatabase,
  createTestFolder,
  type TestDatabase,
  testRedisUrl,
  uniquePrefix,
} from '../helpers/services.ts';
import { makeDocx, makePdf } from '../jobs/ingest/parse/documents.ts';
import { Cli, type CliResult, runCli } from './run-cli.ts';

const JOBS = fileURLToPath(new URL('fixtures/jobs.ts', import.meta.url));
const UNKNOWN_ID = '0198c5f2-0000-7000-8000-000000000000';
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$/;

let database: TestDatabase;
let db: Db;
let env: Record<string, string>;
let folder: string;
let worker: Cli;

beforeAll(async () => {
  database = await createTestDatabase();
  db = createDb({ url: database.url, maxConnections: 2, applicationName: 'cli test', onError: () => {} });
  folder = await createTestFolder();
  env = {
    DATABASE_URL: database.url,
    REDIS_URL: testRedisUrl(),
    ONCEFLEET_PREFIX: uniquePrefix(),
    ONCEFLEET_JOBS: JOBS,
  };
  worker = new Cli(['work'], { env });
  await worker.prints('"msg":"Working"');
});

afterAll(async () => {
  worker.kill('SIGTERM');
  expect(await worker.ended).toMatchObject({ code: 0, stderr: '' });
  await db.close();
  await database.drop();
});

function run(
  args: readonly string[],
  options: { input?: string; cwd?: string; env?: Record<string, string> } = {},
): Promise<CliResult> {
  return runCli(args, { cwd: folder, ...options, env: { ...env, ...options.env } });
}

async function runJson(args: readonly string[]): Promise<Record<string, unknown>> {
  const { code, stdout, stderr } = await run([...args, '--json']);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect(stdout.endsWith('\n')).toBe(true);
  return JSON.parse(stdout) as Record<string, unknown>;
}

async function enqueue(...args: string[]): Promise<string> {
  return (await runJson(['enqueue', ...args])).id as string;
}

function jsonLines(text: string): Record<string, unknown>[] {
  return text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

async function failedJob(): Promise<string> {
  const id = await enqueue('failing', '{}');
  expect((await run(['follow', id])).code).toBe(1);
  return id;
}

async function jobCount(): Promise<number> {
  const rows = await db.kysely
    .selectFrom('jobs')
    .select(({ fn }) => fn.countAll<number>().as('count'))
    .executeTakeFirstOrThrow();
  return Number(rows.count);
}

function expectNoEscapes({ stdout, stderr }: CliResult): void {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be there.
  expect(stdout + stderr).not.toMatch(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/);
}

async function refused(args: readonly string[], code: number, line: RegExp): Promise<void> {
  const before = await jobCount();
  const result = await run(args);
  expect(result.stderr).toMatch(line);
  expect(result.stderr.trimEnd().split('\n')).toHaveLength(1);
  expect(result.stdout).toBe('');
  expect(result.code).toBe(code);
  expect(await jobCount()).toBe(before);
}

describe('migrate', () => {
  test('applies what is missing, once, and --check tells before and after', async () => {
    const empty = await createEmptyDatabase();
    const settings = { env: { DATABASE_URL: empty.url } };
    const before = await runCli(['migrate', '--check'], settings);
    expect(before).toMatchObject({
      code: 4,
      stdout: '',
      stderr: expect.stringMatching(/^error SCHEMA_OUTDATED: The database lacks 0001_/),
    });
    const first = await runCli(['migrate', '--json'], settings);
    expect(JSON.parse(first.stdout)).toEqual({ applied: expect.arrayContaining(['0001_jobs_and_journal']) });
    expect(await runCli(['migrate'], settings)).toMatchObject({
      code: 0,
      stdout: 'Nothing to apply: the schema is up to date.\n',
      stderr: '',
    });
    expect(await runCli(['migrate', '--check'], settings)).toMatchObject({ code: 0, stderr: '' });
    await empty.drop();
  });

  test.each(['web', 'work', 'status', 'enqueue'])('%s refuses a schema that is outdated', async (command) => {
    const empty = await createEmptyDatabase();
    const args = command === 'enqueue' ? ['enqueue', 'echo'] : [command];
    const { code, stderr } = await runCli(args, {
      env: { ...env, DATABASE_URL: empty.url, PORT: '0', LOG_LEVEL: 'silent' },
    });
    expect(stderr).toMatch(/^error SCHEMA_OUTDATED: The database lacks 0001_[^\n]* run `oncefleet migrate`\n$/);
    expect(code).toBe(4);
    await empty.drop();
  });
});

describe('enqueue', () => {
  test('prints the id alone on standard output', async () => {
    const { code, stdout, stderr } = await run(['enqueue', 'echo', '{"value":1}']);
    expect(code).toBe(0);
    expect(stdout.trimEnd()).toMatch(UUID);
    expect(stderr).toBe(`Job ${stdout.trimEnd()} (echo) created\n`);
  });

  test('--wait prints the result; input comes from a pipe', async () => {
    const result = await run(['enqueue', 'echo', '-', '--wait'], { input: '{"value":{"a":["é",null]}}' });
    expect(result.code).toBe(0);
    expect(result.stdout).toBe('{"a":["é",null]}\n');
    expectNoEscapes(result);
  });

  test('null is a result', async () => {
    expect(await runJson(['enqueue', 'echo', '{"nothing":true}', '--wait'])).toMatchObject({
      status: 'completed',
      result: null,
    });
  });

  test('a key gives one job, then its outcome, and refuses another input', async () => {
    const first = await runJson(['enqueue', 'echo', '{"value":"x"}', '--key', 'k 1', '--wait']);
    expect(first).toEqual({ id: expect.stringMatching(UUID), outcome: 'created', status: 'completed', result: 'x' });
    expect(await runJson(['enqueue', 'echo', '{"value":"x"}', '--key', 'k 1', '--wait'])).toEqual({
      ...first,
      outcome: 'replayed',
    });
    await refused(['enqueue', 'echo', '{"value":"y"}', '--key', 'k 1'], 6, /^error KEY_MISMATCH: /);
  });

  test('--follow prints the job, then each event, and --json makes them lines', async () => {
    const plain = await run(['enqueue', 'echo', '{"value":"\\u001b[31m"}', '--follow']);
    expect(plain.code).toBe(0);
    expect(plain.stdout).toMatch(
      /^[0-9a-f-]{36}\n {4}0 {2}echo {8}\{"value":"\\u001b\[31m"\}\n {4}1 {2}progress .*\n {4}2 {2}end .*\n$/,
    );
    expectNoEscapes(plain);
    const { stdout } = await run(['enqueue', 'echo', '{"value":1}', '--follow', '--json']);
    const [job, ...events] = jsonLines(stdout);
    expect(job).toEqual({ id: expect.stringMatching(UUID), outcome: 'created', status: 'pending' });
    expect(events).toEqual([
      { seq: 0, fence: 1, event: { type: 'echo', value: 1 } },
      { seq: 1, fence: 1, event: { type: 'progress', done: 1, total: 1 } },
      { seq: 2, fence: 1, event: { type: 'end', result: 1 } },
    ]);
  });

  test('a job that fails exits with 1 and its error', async () => {
    const { code, stdout, stderr } = await run(['enqueue', 'failing', '{}', '--wait', '--json']);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(JSON.parse(stderr)).toEqual({
      error: {
        code: 'NON_RETRYABLE',
        message: 'no use',
        details: { jobId: expect.stringMatching(UUID), status: 'failed' },
      },
    });
  });

  test('a delayed job does not start before its time', async () => {
    const id = await enqueue('echo', '{"value":1}', '--delay', '1h');
    const job = await runJson(['status', id]);
    expect(job.status).toBe('pending');
    expect(Date.parse(job.runAt as string) - Date.parse(job.createdAt as string)).toBeGreaterThan(3_590_000);
    expect(await runJson(['cancel', id])).toEqual({ id, outcome: 'cancelled', status: 'cancelled' });
  });

  test('--jsonl enqueues a job a line, names the lines that are refused, and cancel --waiting discards what waits', async () => {
    const lines = [
      '{"input":{"value":1},"key":"lines/1","delayMs":3600000}',
      '',
      '{"input":',
      '{"input":{"value":2},"key":"lines/1"}',
      '{"input":{"value":1},"key":"lines/2","delayMs":3600000}',
      '{"input":{"value":1},"key":""}',
    ];
    const input = `${lines.join('\n')}\n`;
    const { code, stdout, stderr } = await run(['enqueue', 'echo', '--jsonl', '-'], { input });
    expect(code).toBe(2);
    expect(stdout).toBe('2 created, 1 conflict, 2 invalid\n');
    expect(stderr).toMatch(/^Line 3: INPUT_INVALID: .*\nLine 4: KEY_MISMATCH: .*\nLine 6: KEY_INVALID: /);
    expect(stderr).toContain('3 of 5 lines were not enqueued; the others were');
    await writeFile(join(folder, 'again.jsonl'), [lines[0], lines[4]].join('\n'));
    const again = await run(['enqueue', 'echo', '--jsonl', 'again.jsonl', '--json']);
    expect(jsonLines(again.stdout)).toMatchObject([
      { line: 1, outcome: 'attached', status: 'pending' },
      { line: 2, outcome: 'attached', status: 'pending' },
    ]);
    expect(await runJson(['cancel', '--waiting', '--name', 'echo', '--key-prefix', 'lines/'])).toEqual({
      matched: 2,
      cancelled: 2,
      requested: 0,
    });
    expect((await run(['enqueue', 'echo', '--jsonl', 'gone.jsonl'])).stderr).toMatch(
      /FILE_UNREADABLE: gone.jsonl does not exist/,
    );
  });

  test('schedules are set, shown, paused, resumed and removed', async () => {
    const set = [
      'schedules',
      'set',
      'nightly',
      'echo',
      '--cron',
      '30 2 * * *',
      '--time-zone',
      'Europe/Berlin',
      '--input',
      '{"value":1}',
    ];
    expect(await runJson(set)).toMatchObject({
      name: 'nightly',
      job: 'echo',
      input: { value: 1 },
      timeZone: 'Europe/Berlin',
    });
    expect((await run(['schedules'])).stdout).toMatch(
      /^NAME +JOB +WHEN .*\nnightly +echo +30 2 \* \* \* Europe\/Berlin +\d{4}-/,
    );
    expect((await run(['schedules', 'pause', 'nightly'])).stdout).toBe('nightly: paused\n');
    expect(await runJson(['schedules', 'resume', 'nightly'])).toMatchObject({ pausedAt: null });
    expect(await runJson(['schedules', 'remove', 'nightly'])).toEqual({ name: 'nightly', removed: true });
    await refused(['schedules', 'remove', 'nightly'], 3, /^error SCHEDULE_NOT_FOUND/);
    await refused(
      ['schedules', 'set', 'n', 'echo', '--cron', '0 0 30 2 *'],
      2,
      /^error INPUT_INVALID: .*cron: never fires/,
    );
  });

  test('--timeout ends the waiting with 7, not the job', async () => {
    const gate = join(folder, 'gate-timeout');
    const { code, stderr } = await run(['enqueue', 'gated', JSON.stringify({ gate }), '--wait', '--timeout', '500ms']);
    expect(stderr).toMatch(
      /error WAIT_TIMEOUT: Job [0-9a-f-]{36} has not ended within 500 ms and continues\. Follow it: oncefleet follow/,
    );
    expect(code).toBe(7);
    await writeFile(gate, '');
  });

  test.each<[string[], number, RegExp]>([
    [['enqueue', 'nothing'], 3, /^error JOB_NAME_UNKNOWN: /],
    [['enqueue', 'gated', '{"gate":1}'], 2, /^error INPUT_INVALID: .*gate: /],
    [['enqueue', 'echo', '{}', '--key', ''], 2, /^error KEY_INVALID: /],
    [['enqueue', 'echo', '{}', '--key', 'k'.repeat(256)], 2, /^error KEY_INVALID: /],
    [['enqueue', 'echo', '{}', '--key', 'a\nb'], 2, /^error KEY_INVALID: /],
  ])('%j is refused and nothing is enqueued', (args, code, line) => refused(args, code, line));
});

describe('follow, status, cancel and redrive', () => {
  test('follow goes on after a seq, and exits as the job ended', async () => {
    const id = await enqueue('echo', '{"value":"x"}', '--wait');
    const whole = await run(['follow', id, '--json']);
    expect(jsonLines(whole.stdout).map(({ seq }) => seq)).toEqual([0, 1, 2]);
    const rest = await run(['follow', id, '--after', '1', '--json']);
    expect(jsonLines(rest.stdout)).toEqual(jsonLines(whole.stdout).slice(2));
    const past = await run(['follow', id, '--after', '2']);
    expect(past).toMatchObject({ code: 0, stdout: '', stderr: 'No events after 2: the job is completed\n' });
    // A finished stream has nothing after any cursor.
    expect(await run(['follow', id, '--after', '99'])).toMatchObject({ code: 0, stdout: '' });

    const failed = await enqueue('failing', '{}');
    const { code, stderr } = await run(['follow', failed]);
    expect({ code, stderr }).toEqual({ code: 1, stderr: 'error NON_RETRYABLE: no use\n' });
  });

  test('follow --text in a pipe is the text of the last attempt, without what could move a cursor', async () => {
    const id = await enqueue('stammering');
    const result = await run(['follow', id, '--text']);
    expect(result).toMatchObject({ code: 0, stdout: 'attempt 2 ends [31mwell\n' });
    expect(result.stderr).toMatch(
      /-- Attempt 1 failed \(HANDLER_ERROR: broke off\); the next starts in .* --\n-- Attempt 2 \(the one before failed\): the answer starts again --/,
    );
    expectNoEscapes(result);
  });

  test('cancel tells a running job, and whoever follows it exits with 5', async () => {
    const id = await enqueue('gated', JSON.stringify({ gate: join(folder, 'never') }));
    const follower = new Cli(['follow', id], { env });
    await follower.prints('waiting');
    await refused(['follow', id, '--after', '99'], 2, /^error CURSOR_INVALID: /);
    expect(await runJson(['cancel', id])).toMatchObject({ id, outcome: 'requested' });
    expect(await follower.ended).toMatchObject({ code: 5, stderr: expect.stringMatching(/^error CANCELLED: /) });
    expect(await runJson(['cancel', id])).toEqual({ id, outcome: 'finished', status: 'cancelled' });
    expect(await runJson(['status', id])).toMatchObject({ status: 'cancelled' });
  });

  test('redrive runs a failed job again, and no other', async () => {
    const failed = await enqueue('failing', '{}');
    expect((await run(['follow', failed])).code).toBe(1);
    expect(await runJson(['redrive', failed])).toEqual({ id: failed, status: 'pending' });
    await expect
      .poll(async () => runJson(['status', failed]), { timeout: 20_000 })
      .toMatchObject({ status: 'failed', fence: 2 });
    const completed = await enqueue('echo', '{"value":1}', '--wait');
    await refused(['redrive', completed], 6, /^error JOB_NOT_FAILED: /);
  });

  test('status shows one job, or a table that a search narrows', async () => {
    const id = await enqueue('echo', '{"value":"shown"}', '--key', 'a key', '--wait');
    const one = await run(['status', id]);
    expect(one.stdout).toContain(`Job         ${id}\nName        echo\nQueue       echo\n`);
    expect(one.stdout).toMatch(/^Status {6}completed$/m);
    expect(one.stdout).toMatch(/^Result {6}"shown"$/m);
    expect(one.stdout).toMatch(/^1 +1 +completed /m);
    expect(one.stdout).toMatch(/^Counts {6}0 crashes, 0 errors, 0 deferrals, 0 interruptions, 0 met limits$/m);
    expect((await run(['status', await failedJob()])).stdout).toMatch(/^Counts {6}0 crashes, 1 error, 0 deferrals, /m);
    const table = await run(['status', '--name', 'echo', '--key', 'a key']);
    expect(table.stdout.split('\n')[0]).toMatch(/^ID +NAME +STATUS +KEY +CREATED +TOOK +ERROR$/);
    expect(table.stdout.split('\n')[1]).toMatch(new RegExp(`^${id} +echo +completed +a key +\\d{4}-`));
    for (const result of [one, table]) expectNoEscapes(result);
    expect(await runJson(['status', '--key', 'a key'])).toMatchObject({ jobs: [{ id }], nextCursor: null });
    expect(await run(['status', '--name', 'nobody'])).toMatchObject({ code: 0, stdout: '', stderr: 'No jobs.\n' });
  });

  test('pages of a search are joined by their cursor', async () => {
    for (let i = 0; i < 3; i++) await enqueue('echo', `{"value":${i}}`);
    const first = await run(['status', '--name', 'echo', '--limit', '2']);
    const next = /^More: oncefleet (status --name echo --limit 2 --cursor \S+)$/m.exec(first.stderr)?.[1];
    expect(next).toBeDefined();
    const second = await run((next as string).split(' '));
    const ids = (text: string) => text.match(/^[0-9a-f-]{36}/gm) ?? [];
    expect(new Set([...ids(first.stdout), ...ids(second.stdout)]).size).toBe(4);
  });

  test.each([['follow'], ['status'], ['cancel'], ['redrive']])('%s of an unknown id exits with 3', (command) =>
    refused([command, UNKNOWN_ID], 3, /^error JOB_NOT_FOUND: /),
  );
});

describe('ingest and ask', () => {
  beforeAll(async () => {
    await mkdir(join(folder, 'docs/more'), { recursive: true });
    await writeFile(
      join(folder, 'docs/apples.md'),
      '# Apples\n\nApples are stored in a cool cellar through the winter.\n',
    );
    await writeFile(join(folder, 'docs/more/pears.txt'), 'Pears ripen after the harvest, in a warm kitchen.\n');
  });

  test('documents go in once; the same command again shows the outcome', async () => {
    const first = await run(['ingest', 'docs', '--collection', 'fruit']);
    expect(first).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^fruit: 2 documents: 2 added, 0 updated, 0 unchanged; 2 chunks\n$/),
    });
    expect(first.stderr).toMatch(/^ingest +0% 0\/2\n(.*\n)*ingest 100% 2\/2.*\n$/);
    expectNoEscapes(first);
    const again = await runJson(['ingest', 'docs', '-c', 'fruit']);
    expect(again).toMatchObject({
      collection: 'fruit',
      documents: 2,
      jobs: [{ outcome: 'replayed', status: 'completed', result: { added: 2 } }],
    });
    const anew = await runJson(['ingest', 'docs', '-c', 'fruit', '--again']);
    expect(anew).toMatchObject({ jobs: [{ outcome: 'created', result: { added: 0, unchanged: 2 } }] });
  });

  test('a question gets an answer from the documents, with its sources', async () => {
    await run(['ingest', 'docs', '-c', 'answers']);
    const piped = await run(['ask', 'Where are apples stored?', '-c', 'answers']);
    expect(piped.code).toBe(0);
    expect(piped.stdout).toMatch(/cellar[\s\S]*\n\nSources\n {2}\[1\] docs\/apples\.md · Apples\n/);
    expectNoEscapes(piped);
    const asked = await runJson(['ask', 'Where are apples stored?', '-c', 'answers', '--key', 'q1']);
    expect(asked).toMatchObject({
      outcome: 'created',
      text: expect.stringContaining('cellar'),
      sources: [expect.objectContaining({ n: 1, path: 'docs/apples.md' })],
    });
    expect(await runJson(['ask', 'Where are apples stored?', '-c', 'answers', '--key', 'q1'])).toEqual({
      ...asked,
      outcome: 'replayed',
    });
    const streamed = await run(['ask', 'Where are apples stored?', '-c', 'answers', '--key', 'q1', '--stream']);
    expect(streamed.stdout).toBe(piped.stdout);
  });

  test('one bad file fails alone and is named', async () => {
    await mkdir(join(folder, 'mixed'), { recursive: true });
    await writeFile(join(folder, 'mixed/a.md'), '# A\n\nText.\n');
    await writeFile(join(folder, 'mixed/b.md'), Buffer.from([0, 1, 2]));
    await writeFile(join(folder, 'mixed/c.md'), '<!-- nothing -->\n');
    await writeFile(join(folder, 'mixed/d.png'), 'x');
    const ingested = await run(['ingest', 'mixed', '-c', 'mixed']);
    expect(ingested).toMatchObject({ code: 0, stdout: expect.stringContaining('3 documents: 1 added') });
    expect(ingested.stdout).toContain('2 failed');
    expect(ingested.stderr).toContain('Left out: 1 .png');
    expect(ingested.stderr).toContain('Failed: mixed/b.md is binary');
    expect(ingested.stderr).toContain('Failed: mixed/c.md has no text in it');
  });

  test('PDF and DOCX go in with the rest, by a pattern too, and what another program writes', async () => {
    await mkdir(join(folder, 'office'), { recursive: true });
    await writeFile(
      join(folder, 'office/a.pdf'),
      await makePdf([{ paragraphs: ['The cellar is kept at four degrees.'] }]),
    );
    await writeFile(join(folder, 'office/b.docx'), await makeDocx('Machine'));
    await writeFile(join(folder, 'office/c.md'), '# Plums\n\nPlums are dried.\n');
    const all = await run(['ingest', 'office', '-c', 'office']);
    expect(all.stdout).toMatch(/^office: 3 documents: 3 added/);
    const pattern = await runJson(['ingest', 'office/*.pdf', '-c', 'office']);
    expect(pattern).toMatchObject({ documents: 1, jobs: [{ result: { unchanged: 1 } }] });
    const piped = await run(['ingest', '-', '--name', 'said.md', '-c', 'office'], {
      input: '# Quinces\n\nQuinces are cooked.\n',
    });
    expect(piped.stdout).toMatch(/^office: 1 document: 1 added/);
    expect((await run(['ask', 'How cold is the cellar?', '-c', 'office'])).stdout).toContain('office/a.pdf');
    await refused(['ingest', '-', '-c', 'office'], 2, /^error INPUT_INVALID: --name belongs to -/);
  }, 60_000);

  describe('eval', () => {
    const SET = [
      { question: 'Where are apples stored?', path: 'docs/apples.md', heading: 'apples', words: ['cellar'] },
      { question: 'When do pears ripen?', path: 'docs/more/pears.txt', words: 'harvest' },
      { question: 'When do pears ripen?', path: 'docs/apples.md', words: 'a submarine' },
    ];
    beforeAll(async () => {
      await run(['ingest', 'docs', '-c', 'measured']);
      await writeFile(join(folder, 'set.jsonl'), SET.map((line) => JSON.stringify(line)).join('\n'));
      await writeFile(join(folder, 'set.json'), JSON.stringify(SET.slice(0, 2)));
    });

    test('asks and counts, and names what missed', async () => {
      const all = await run(['eval', 'set.jsonl', '-c', 'measured']);
      expect(all.code).toBe(0);
      expect(all.stdout).toMatch(/^3 questions\namong the first source +66\.7 % +of 3\n/);
      expect(all.stdout).toMatch(
        /among the first 5 +66\.7 % +MRR 0\.67\nanswers with their words +66\.7 % +of 3\ncitations that hold +100\.0 % +of 3\n$/,
      );
      expect(all.stderr).toContain('3: When do pears ripen?: its passage is not among the sources');
      const json = await runJson([
        'eval',
        'set.json',
        '-c',
        'measured',
        '--min-recall',
        '1',
        '--min-words',
        '1',
        '--min-citations',
        '1',
      ]);
      expect(json).toEqual({
        questions: 2,
        failed: 0,
        recall: { of: 2, hit1: 1, hit3: 1, hit5: 1, mrr: 1 },
        words: { of: 2, share: 1 },
        citations: { total: 2, invalid: 0, share: 1 },
        misses: [],
      });
    }, 60_000);

    test('searches alone, without a job', async () => {
      const before = await count();
      const json = await runJson(['eval', 'set.jsonl', '-c', 'measured', '--retrieve-only']);
      expect(json).toMatchObject({
        recall: { of: 3, hit1: 0.6667 },
        words: { of: 0, share: null },
        misses: [{ line: 3, found: [{ path: 'docs/more/pears.txt' }] }],
      });
      expect(await count()).toBe(before);
      async function count() {
        const { rows } = await sql<{ n: number }>`select count(*)::int as n from oncefleet.jobs`.execute(db.kysely);
        return rows[0]?.n;
      }
    });

    test.each<[string, string[], number, RegExp]>([
      [
        'a share that is not reached',
        ['set.jsonl', '-c', 'measured', '--retrieve-only', '--min-recall', '0.7'],
        1,
        /error EVAL_FAILED: recall \(first five\): 0\.6667, less than 0\.7\n$/,
      ],
      [
        'a share of nothing',
        ['set.jsonl', '-c', 'measured', '--retrieve-only', '--min-words', '0.1'],
        1,
        /error EVAL_FAILED: words: nothing to count/,
      ],
      [
        'a collection that is not there',
        ['set.jsonl', '-c', 'nowhere', '--retrieve-only'],
        3,
        /error COLLECTION_NOT_FOUND/,
      ],
      [
        'a file that is not there',
        ['gone.jsonl', '-c', 'measured'],
        2,
        /^error FILE_UNREADABLE: gone\.jsonl does not exist/,
      ],
      [
        'a share that is none',
        ['set.jsonl', '-c', 'measured', '--min-recall', '80'],
        2,
        /^error INPUT_INVALID: .*Expected a number from 0 to 1/,
      ],
      ['no collection', ['set.jsonl'], 2, /^error INPUT_INVALID: set\.jsonl: line 1\.collection: is missing/],
    ])('%s', async (_name, args, code, message) => {
      const ended = await run(['eval', ...args]);
      expect(ended).toMatchObject({ code, stderr: expect.stringMatching(message) });
    });
  });

  test('a bad collection name is refused and nothing is enqueued', () =>
    refused(['ingest', 'docs', '-c', 'x'.repeat(101)], 2, /^error INPUT_INVALID: Input of ingest: collection: /));

  test('a folder over the limit becomes several jobs, shown as one', async () => {
    await mkdir(join(folder, 'large'), { recursive: true });
    const paragraph = 'Sentences about orchards, repeated until there are many of them.\n\n';
    await writeFile(join(folder, 'large/0.txt'), paragraph);
    // Read in a moment: it is no text.
    await writeFile(join(folder, 'large/1.txt'), Buffer.alloc(16 * 1024 * 1024 - 1_000));
    await writeFile(join(folder, 'large/2.txt'), paragraph.repeat(20));
    const result = await runJson(['ingest', 'large', '-c', 'large', '--detach']);
    expect(result).toMatchObject({ documents: 3, jobs: [{ outcome: 'created' }, { outcome: 'created' }] });
    const attached = await runJson(['ingest', 'large', '-c', 'large']);
    expect(attached.jobs).toMatchObject([{ result: { added: 1, failedCount: 1 } }, { result: { added: 1 } }]);
  }, 60_000);

  test('Ctrl-C stops following, says how to go on, and leaves the job alone', async () => {
    const gate = join(folder, 'gate-interrupt');
    const id = await enqueue('gated', JSON.stringify({ gate }));
    const follower = new Cli(['follow', id], { env });
    await follower.prints('waiting');
    follower.kill('SIGINT');
    expect(await follower.ended).toMatchObject({
      code: 130,
      stderr: `Stopped following; job ${id} continues. Follow it: oncefleet follow ${id} --after 0\n`,
    });
    await writeFile(gate, '');
    expect(await run(['follow', id, '--after', '0'])).toMatchObject({ code: 0 });
  });
});

test('ask says how to see its text again, and --cancel-on-exit cancels', async () => {
  const ask = ['ask', 'Where are apples stored?', '-c', 'answers', '--timeout', '1ms'];
  const plain = await run(ask);
  expect(plain).toMatchObject({ code: 7, stdout: '' });
  const again = /continues\. Follow it: oncefleet (follow \S+ --text)$/m.exec(plain.stderr)?.[1];
  expect((await run((again as string).split(' '))).stdout).toContain('cellar');
  const cancelled = await run([...ask, '--cancel-on-exit']);
  expect(cancelled.code).toBe(7);
  const id = /Stopped following; job (\S+) is cancelled$/m.exec(cancelled.stderr)?.[1] as string;
  await expect.poll(() => runJson(['status', id]), { timeout: 20_000 }).toMatchObject({ status: 'cancelled' });
});

test('a reader that goes away ends the command quietly', async () => {
  const id = await enqueue('gated', JSON.stringify({ gate: join(folder, 'gate-pipe') }));
  const follower = new Cli(['follow', id], { env });
  await follower.prints('waiting');
  follower.child.stdout?.destroy();
  await writeFile(join(folder, 'gate-pipe'), '');
  expect(await follower.ended).toMatchObject({ code: 141, stderr: '' });
});

describe('token', () => {
  test('create shows a token once, list what it is, and revoke ends it', async () => {
    const made = await run(['token', 'create', '--name', 'dashboard', '--scope', 'read', '--expires', '30d']);
    expect(made.stdout).toMatch(/^ofl_[\w-]{43}[0-9a-f]{6}\n$/);
    expect(made.stderr).toMatch(/not shown again/);
    const { tokens } = (await runJson(['token', 'list'])) as { tokens: { id: string }[] };
    const [{ id = '' } = {}] = tokens;
    expect(tokens).toEqual([
      expect.objectContaining({ tenant: 'default', name: 'dashboard', scopes: ['read'], status: 'active' }),
    ]);
    const table = (await run(['token'])).stdout;
    expect(table).toContain('dashboard');
    expect(table).not.toContain(made.stdout.trim().slice(4));
    expect((await run(['token', 'revoke', id])).stdout).toBe(`Revoked ${id}\n`);
    expect(await runJson(['token', 'list', '--tenant', 'default'])).toMatchObject({ tokens: [{ status: 'revoked' }] });
    await refused(['token', 'revoke', '0198c5f2-0000-7000-8000-000000000000'], 3, /^error TOKEN_NOT_FOUND/);
    await refused(['token', 'create', '--name', 'x', '--scope', 'all'], 2, /Expected one of enqueue, read, admin/);
    await refused(['token', 'create', '--name', ''], 2, /^error INPUT_INVALID/);
    await refused(['token', 'create'], 2, /--name/);
    await refused(['collections', 'documents'], 2, /missing required argument/);
  });
});

describe('retention and sweep', () => {
  /** The finished job of a key as if it had ended that many days ago, under an id of that age. */
  async function aged(id: string, days: number): Promise<string> {
    const old = `00000000${id.slice(8)}`;
    await sql`
      update oncefleet.jobs set id = ${old}, finished_at = finished_at - ${days}::float8 * interval '1 day' where id = ${id}`.execute(
      db.kysely,
    );
    for (const table of ['stream_heads', 'journal_segments'])
      await sql`update ${sql.table(`oncefleet.${table}`)} set stream_id = ${old} where stream_id = ${id}`.execute(
        db.kysely,
      );
    return old;
  }

  test('sweep removes what is past its limit, and says so; what is kept longer is still given', async () => {
    const keyed = ['enqueue', 'echo', '{"value":"kept"}', '--key', 'to sweep', '--wait'];
    const id = await aged((await runJson(keyed)).id as string, 8);
    expect(await runJson(['sweep'])).toMatchObject({ busy: false, expiredStreams: 1, removedJobs: 0 });
    expect((await run(['sweep'])).stdout).toMatch(
      /^folded \d+ streams? .*, removed the events of 0 jobs, 0 jobs and 0 uploads\n$/,
    );
    await refused(['follow', id], 3, /^error STREAM_EXPIRED: /);
    expect(await runJson(keyed)).toMatchObject({ id, outcome: 'replayed', result: 'kept' });
    expect((await run(keyed)).stderr).toContain('Its events are no longer kept; this is its outcome');
    expect(await runJson(['status', id])).toMatchObject({ status: 'completed', result: 'kept' });
  });

  test('retention shows the limits and sets those of a tenant', async () => {
    expect((await run(['retention'])).stdout).toBe('default  events 7d, jobs 30d\n');
    expect(await runJson(['retention', 'acme', '--events', '90d', '--jobs', 'never'])).toEqual({
      default: { streamMs: 604_800_000, jobMs: 2_592_000_000 },
      tenants: [{ tenant: 'acme', streamMs: 7_776_000_000, jobMs: 'never' }],
    });
    expect((await run(['retention'], { env: { ONCEFLEET_JOB_RETENTION_MS: 'never' } })).stdout).toBe(
      'default  events 7d, jobs never\nacme  events 90d, jobs never\n',
    );
    await run(['retention', 'acme', '--events', 'default']);
    expect((await run(['retention', 'acme'])).stdout).toBe(
      'default  events 7d, jobs 30d\nacme  events by default, jobs never\n',
    );
    await run(['retention', 'acme', '--jobs', 'default']);
    expect((await runJson(['retention'])).tenants).toEqual([]);
    await refused(['retention', '--jobs', '1d'], 2, /^error INPUT_INVALID: Name the tenant/);
    await refused(['retention', 'acme', '--jobs', '5ms'], 2, /^error INPUT_INVALID: .*1s or more/);
  });
});
