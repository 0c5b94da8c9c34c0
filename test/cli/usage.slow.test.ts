/** What needs no service: help, usage and configuration, by the real command. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { createTestFolder } from '../helpers/services.ts';
import { type CliResult, runCli } from './run-cli.ts';

const COMMANDS = [
  'dev',
  'web',
  'work',
  'migrate',
  'enqueue',
  'ingest',
  'ask',
  'eval',
  'follow',
  'status',
  'cancel',
  'redrive',
  'sweep',
  'retention',
  'schedules',
  'token',
  'doctor',
];
const ID = '0198c5f2-0000-7000-8000-000000000000';
/** Nothing listens there, and nothing should be asked. */
const NOWHERE = { DATABASE_URL: 'postgres://nobody@127.0.0.1:1/none', REDIS_URL: 'redis://127.0.0.1:1' };

let folder: string;

beforeAll(async () => {
  folder = await createTestFolder();
  await writeFile(join(folder, 'empty.md'), '');
  await writeFile(join(folder, 'good.md'), '# Good\n\nText.\n');
  await writeFile(join(folder, 'broken.mjs'), 'throw new Error("broken")');
  await mkdir(join(folder, 'nothing'));
});

/** Exit code and exactly one line, the error's. */
function expectError({ code, stdout, stderr }: CliResult, expectedCode: number, line: RegExp): void {
  expect(stderr).toMatch(line);
  expect(stderr.trimEnd().split('\n')).toHaveLength(1);
  expect(stdout).toBe('');
  expect(code).toBe(expectedCode);
}

describe('help', () => {
  test.each(COMMANDS)('of %s has a description, examples and exits with 0', async (command) => {
    const { code, stdout, stderr } = await runCli([command, '--help'], { cwd: folder });
    expect(code).toBe(0);
    expect(stderr).toBe('');
    expect(stdout).toContain(`Usage: oncefleet ${command}`);
    expect(stdout).toContain(`Examples:\n  `);
    expect(stdout).not.toContain('\x1b');
  });

  test('shows no default that only a program can read', async () => {
    for (const command of COMMANDS) {
      const { stdout } = await runCli([command, '--help'], { cwd: folder });
      expect(stdout, command).not.toContain('[]');
    }
  }, 60_000);

  test('of the whole lists every command and the exit codes', async () => {
    const { code, stdout } = await runCli(['--help']);
    expect(code).toBe(0);
    for (const command of COMMANDS) expect(stdout).toMatch(new RegExp(`^  ${command}\\b`, 'm'));
    expect(stdout).toMatch(/^ {4}3 {2}No job, schedule, collection, document or token of that id or name,/m);
  });

  test('without a command is on standard error, and wrong usage', async () => {
    const { code, stdout, stderr } = await runCli([]);
    expect(code).toBe(2);
    expect(stdout).toBe('');
    expect(stderr).toContain('Usage: oncefleet');
  });

  test('the version is that of package.json', async () => {
    expect((await runCli(['--version'])).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });
});

describe('wrong usage', () => {
  test.each<[string[], RegExp]>([
    [['nonsense'], /^error INPUT_INVALID: unknown command 'nonsense'/],
    [['enqueu', 'x'], /Did you mean enqueue\?/],
    [['status', '--limt', '3'], /^error INPUT_INVALID: unknown option '--limt' \(Did you mean --limit\?\)/],
    [['dev', 'x'], /^error INPUT_INVALID: too many arguments/],
    [['web', '--port', '70000'], /^error INPUT_INVALID: option '--port <number>' argument '70000' is invalid/],
    [['work', '--concurrency', '0'], /^error INPUT_INVALID: option '--concurrency <number>'/],
    [['migrate', '--now'], /^error INPUT_INVALID: unknown option '--now'/],
    [['enqueue'], /^error INPUT_INVALID: missing required argument 'name'/],
    [['enqueue', 'x', '{a:1}'], /^error INPUT_INVALID: The input is not valid JSON/],
    [['enqueue', 'x', '-'], /^error INPUT_INVALID: Standard input is empty/],
    [['enqueue', 'x', '@gone.json'], /^error FILE_UNREADABLE: gone\.json does not exist/],
    [['enqueue', 'x', '--delay', 'soon'], /^error INPUT_INVALID: option '--delay <duration>'/],
    [['enqueue', 'x', '--priority', '-1'], /^error INPUT_INVALID: option '--priority <number>'/],
    [['enqueue', 'x', '--wait', '--follow'], /^error INPUT_INVALID: .*cannot be used with/],
    [['enqueue', 'x', '--timeout', '5s'], /^error INPUT_INVALID: --timeout says how long to wait/],
    [['ingest', '-c', 'docs'], /^error INPUT_INVALID: missing required argument 'paths'/],
    [['ingest', 'good.md'], /^error INPUT_INVALID: required option '-c, --collection <name>' not specified/],
    [['ingest', 'gone', '-c', 'docs'], /^error FILE_UNREADABLE: gone does not exist/],
    [['ingest', 'empty.md', '-c', 'docs'], /^error FILE_EMPTY: empty\.md has no text in it/],
    [['ingest', 'nothing', '-c', 'docs'], /^error NOTHING_TO_INGEST: No document in nothing/],
    [['ask', 'Why?'], /^error INPUT_INVALID: required option '-c, --collection <name>' not specified/],
    [['ask', ' ', '-c', 'docs'], /^error INPUT_INVALID: The question is empty/],
    [['follow', '42'], /^error INPUT_INVALID: .*A job id is a UUID/],
    [['follow', ID, '--after', 'x'], /^error INPUT_INVALID: option '--after <seq>'/],
    [['status', 'nope'], /^error INPUT_INVALID: 'nope' is not a valid id\. A job id is a UUID, as /],
    [['status', '--status', 'done'], /^error INPUT_INVALID: option '--status <status>' argument 'done' is invalid/],
    [['status', ID, '--name', 'x'], /^error INPUT_INVALID: An id names one job; leave out --name/],
    [['cancel'], /^error INPUT_INVALID: Name one job by its id, or several with --waiting or --unfinished/],
    [['cancel', ID, '--name', 'x'], /^error INPUT_INVALID: Name one job/],
    [['enqueue', 'x', '{}', '--jsonl', '-'], /^error INPUT_INVALID: With --jsonl each line has its input/],
    [['redrive', 'x'], /^error INPUT_INVALID: .*A job id is a UUID/],
    [['enqueue', 'x', '--jobs', './gone.ts'], /^error CONFIG_INVALID: Job modules: \.\/gone\.ts: does not exist/],
    [
      ['work', '--jobs', './broken.mjs'],
      /^error CONFIG_INVALID: Job modules: \.\/broken\.mjs: failed to load: Error: broken/,
    ],
  ])('%j is one line and exit code 2', async (args, line) => {
    expectError(await runCli(args, { cwd: folder, env: NOWHERE }), 2, line);
  });

  test('a job that no module defines cannot be worked on', async () => {
    expectError(
      await runCli(['work', '--only', 'nothing'], { cwd: folder, env: NOWHERE }),
      3,
      /^error JOB_NAME_UNKNOWN: .*"nothing"/,
    );
  });

  test('with --json the error is a JSON object', async () => {
    const { code, stdout, stderr } = await runCli(['follow', '42', '--json']);
    expect(code).toBe(2);
    expect(stdout).toBe('');
    expect(JSON.parse(stderr)).toEqual({
      error: { code: 'INPUT_INVALID', message: expect.stringContaining('UUID'), details: {} },
    });
  });
});

describe('configuration', () => {
  test.each([
    ['web'],
    ['work'],
    ['dev'],
    ['status'],
    ['cancel', ID],
    ['redrive', ID],
    ['follow', ID],
    ['enqueue', 'x'],
    ['ask', 'Why?', '-c', 'x'],
  ])('%s tells every problem at once', async (...args) => {
    const env = { REDIS_URL: 'http://127.0.0.1', ONCEFLEET_CONCURENCY: '3' };
    expectError(
      await runCli(args, { cwd: folder, env }),
      2,
      /^error CONFIG_INVALID: Configuration: .*DATABASE_URL: is required; .*REDIS_URL: .*; ONCEFLEET_CONCURENCY: is not a setting; did you mean ONCEFLEET_CONCURRENCY\?/,
    );
  });

  test('a .env file of the working directory is read, and the environment wins', async () => {
    const cwd = await createTestFolder();
    await writeFile(join(cwd, '.env'), 'DATABASE_URL=postgres://127.0.0.1:1/none\nREDIS_URL=nonsense\nPORT=abc\n');
    const { stderr } = await runCli(['status'], { cwd, env: { PORT: '80' } });
    expect(stderr).toMatch(/^error CONFIG_INVALID: Configuration: REDIS_URL: expected a URL[^;]*\n$/);
  });

  describe('beside `npm run dev`', () => {
    const DEV = `DATABASE_URL='postgres://nobody@127.0.0.1:1/dev'\nREDIS_URL='redis://127.0.0.1:1'\n`;
    const withDevEnv = async (devEnv: string, dotEnv = '') => {
      const cwd = await createTestFolder();
      await mkdir(join(cwd, '.oncefleet'));
      await writeFile(join(cwd, '.oncefleet/dev.env'), devEnv);
      await writeFile(join(cwd, '.env'), dotEnv);
      return cwd;
    };

    test.each([['status'], ['migrate'], ['enqueue', 'ingest']])('%s finds its servers by itself', async (...args) => {
      const { code, stderr } = await runCli(args, { cwd: await withDevEnv(DEV) });
      expect(stderr).toMatch(
        /^error STORE_UNAVAILABLE: Postgres cannot be reached: connect ECONNREFUSED 127\.0\.0\.1:1\n$/,
      );
      expect(code).toBe(4);
    });

    test('the environment and .env win', async () => {
      const cwd = await withDevEnv(
        `${DEV}ONCEFLEET_PREFIX=x/y\nHOST=\nONCEFLEET_HEARTBEAT_MS=a\nONCEFLEET_LEASE_TTL_MS=b\n`,
        'ONCEFLEET_HEARTBEAT_MS=5000\n',
      );
      const { stderr } = await runCli(['status'], { cwd, env: { ONCEFLEET_PREFIX: 'mine', DATABASE_URL: ' ' } });
      expect(stderr).toMatch(/^error CONFIG_INVALID: Configuration: ONCEFLEET_LEASE_TTL_MS: [^;]*\n$/);
    });

    test.each([
      ['the environment', '', { DATABASE_URL: 'postgres://127.0.0.1:1/other' }],
      ['.env', 'DATABASE_URL=postgres://127.0.0.1:1/other\n', {}],
    ])('its servers are not mixed with another one that %s names', async (_which, dotEnv, env) => {
      const { stderr } = await runCli(['status'], { cwd: await withDevEnv(DEV, dotEnv), env });
      expect(stderr).toBe('error CONFIG_INVALID: Configuration: REDIS_URL: is required\n');
    });

    test('a server that both name is no other', async () => {
      const env = { DATABASE_URL: 'postgres://nobody@127.0.0.1:1/dev' };
      const { stderr } = await runCli(['status'], { cwd: await withDevEnv(DEV), env });
      expect(stderr).toContain('STORE_UNAVAILABLE');
    });
  });

  test.each([['web'], ['work'], ['dev'], ['migrate'], ['status'], ['cancel', ID], ['enqueue', 'ingest']])(
    '%s without Postgres exits with 4',
    async (...args) => {
      const { code, stderr } = await runCli(args, { cwd: folder, env: { ...NOWHERE, LOG_LEVEL: 'silent', PORT: '0' } });
      expect(stderr).toMatch(/^error STORE_UNAVAILABLE: Postgres cannot be reached: connect ECONNREFUSED[^\n]*\n$/);
      expect(code).toBe(4);
    },
  );
});
