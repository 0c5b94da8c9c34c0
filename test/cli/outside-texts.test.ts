/**
 * Texts from outside (names, keys, tenants, inputs, errors, documents, models, files) on every way out of a
 * command: no control character of theirs gets to a terminal, a pipe or a log.
 */
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Screen } from '../../scripts/demo/screen.ts';
import type { CliContext } from '../../src/cli/context.ts';
import { createProgram } from '../../src/cli/program.ts';
import { Progress } from '../../src/cli/progress.ts';
import { reportError } from '../../src/cli/report.ts';
import { createTerminal } from '../../src/cli/terminal.ts';
import { settleJobs } from '../../src/db/jobs/settle.ts';
import { setPolicy } from '../../src/db/retention.ts';
import { appendBatches } from '../../src/db/streams/segments.ts';
import { JobFailedError, OncefleetError } from '../../src/errors.ts';
import { printable, printableJson, printableLine } from '../../src/printable.ts';
import { claimFree, insertJob, settlement, useDatabase } from '../helpers/fixtures.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';
import { Sink } from './output.ts';

const ESCAPES: readonly (readonly [string, string])[] = [
  ['a colour', '\x1b[31m'],
  ['a cleared screen', '\x1b[2J\x1b[H'],
  ['a window title', '\x1b]0;title\x07'],
  ['a link', '\x1b]8;;https://example.com\x1b\\'],
  ['a C1 control sequence', '\x9b31m'],
  ['other C1 controls', '\x80\x84\x85\x90\x9d\x9e\x9f'],
  ['a carriage return', 'good\rbad'],
  ['backspaces and DEL', 'ab\b\b\x7f\x7f'],
  ['a bell, a form feed, a shift out', '\x07\x0b\x0c\x0e'],
  ['an override of direction', '\u202egnp.exe\u202c'],
  ['isolates and marks of direction', '\u2066a\u2069\u200e\u200f\u061c'],
  ['characters without width', 'a\u200bb\u2060c\ufeffd\u00ad'],
  ['tags', '\u{e0001}\u{e0061}\u{e007f}'],
  ['line and paragraph separators', 'a\u2028b\u2029c'],
  ['half of a pair', 'a\ud800b'],
];

/** What no way out may have: all of the above as code points, however they came there. */
function isForbidden(character: string): boolean {
  const code = character.codePointAt(0) as number;
  const ranges: readonly (readonly [number, number])[] = [
    [0, 8],
    [0x0b, 0x1f],
    [0x7f, 0x9f],
    [0xad, 0xad],
    [0x61c, 0x61c],
    [0x200b, 0x200b],
    [0x200e, 0x200f],
    [0x2028, 0x202e],
    [0x2060, 0x206f],
    [0xd800, 0xdfff],
    [0xfeff, 0xfeff],
    [0xe0000, 0xe0fff],
  ];
  return ranges.some(([from, to]) => code >= from && code <= to);
}

const ESC = '\x1b';
/** The only sequences that are ours. */
const OURS = new RegExp(`${ESC}\\[(?:1|2|22|31|32|33|36|39)m|\r${ESC}\\[K`, 'g');

function expectHarmless(text: string, what = ''): void {
  expect(JSON.stringify([...text.replaceAll(OURS, '')].filter(isForbidden)), what).toBe('[]');
}

describe.each(ESCAPES)('%s', (_what, evil) => {
  test.each([
    ['printable', printable],
    ['printableLine', printableLine],
    ['printableJson', (text: string) => printableJson(JSON.stringify(text))],
    ['printableJson of JSON that escapes nothing', (text: string) => printableJson(`"${text}"`).replaceAll('\r', '')],
  ])('does not get through %s', (_name, render) => {
    expectHarmless(render(`x${evil}y`));
  });

  test('is still there in what --json writes', async () => {
    const stdout = new Sink(true);
    await createTerminal({ stdout, stderr: stdout, json: true, env: {} }).jsonLine(JSON.stringify({ evil }));
    expectHarmless(stdout.text);
    expect(stdout.text.endsWith('}\n')).toBe(true);
    expect(JSON.parse(stdout.text)).toEqual({ evil });
  });

  test.each([true, false])('does not get through the terminal or the screen of the demo (tty: %s)', async (tty) => {
    const [stdout, stderr] = [new Sink(tty), new Sink(tty)];
    const terminal = createTerminal({ stdout, stderr, json: false, env: {} });
    await terminal.text(evil);
    await terminal.line(evil);
    await terminal.line(`${terminal.style('red', evil)} ${evil}`);
    await terminal.lines([evil, evil]);
    terminal.note(evil);
    terminal.note(terminal.style('dim', evil));
    let now = 0;
    const progress = new Progress(terminal, evil, () => (now += 10_000));
    progress.update({ done: 1, total: 2, message: evil });
    progress.note(evil);
    progress.finish();
    const screen = new Screen(stdout, {});
    for (const say of [screen.title, screen.section, screen.line, screen.item, screen.check, screen.block, screen.text])
      say.call(screen, evil);
    screen.progress(1, 2, evil);
    screen.line(screen.style('cyan', evil));
    expectHarmless(stdout.text);
    expectHarmless(stderr.text);
  });

  test.each([
    [true, true],
    [true, false],
    [false, true],
    [false, false],
  ])('does not get through an error report (--json: %s, debug: %s)', (json, debug) => {
    const cause = new Error(`cause ${evil}`);
    for (const error of [
      new OncefleetError('INTERNAL', evil, { cause, details: { path: evil } }),
      new JobFailedError('x', 'failed', { code: evil, message: evil } as never),
      Object.assign(new Error(evil), { stack: `Error: ${evil}\n    at ${evil}` }),
      evil,
    ]) {
      const stderr = new Sink(true);
      reportError(error, { stderr, json, debug });
      expectHarmless(stderr.text);
      if (!debug) expect(stderr.text.trimEnd().split('\n')).toHaveLength(1);
    }
  });
});

test('nobody outside can write the marks of a style', async () => {
  const [ours, theirs] = [new Sink(true), new Sink(true)];
  const terminal = createTerminal({ stdout: ours, stderr: ours, json: false, env: {} });
  await terminal.line(terminal.style('red', 'x'));
  expect(ours.text).toBe('\x1b[31mx\x1b[39m\n');
  await createTerminal({ stdout: theirs, stderr: theirs, json: false, env: {} }).line(ours.text.trimEnd());
  expect(theirs.text).toBe('[31mx[39m\n');
});

test('the terminal is the only door: no other file of the command line writes', async () => {
  const folder = fileURLToPath(new URL('../../src/cli/', import.meta.url));
  const files = (await readdir(folder)).filter((file) => file !== 'terminal.ts');
  const writing = [];
  for (const file of files) {
    const text = await readFile(join(folder, file), 'utf8');
    if (/\bconsole\.|\bwriteSync\(|\.write\((?!'',)/.test(text)) writing.push(file);
  }
  expect(writing).toEqual([]);
});

describe('every command', () => {
  const file = useDatabase();
  const ALL = `n${ESCAPES.map(([, evil]) => evil).join('x')}`.toWellFormed();
  // What a file system takes in a name.
  const NAME = ALL.replaceAll('/', '');
  let [folder, failed, done, env] = ['', '', '', {} as Record<string, string>];

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'oncefleet-texts-'));
    await mkdir(join(folder, 'documents'));
    await writeFile(join(folder, 'documents', `${NAME.slice(0, 40)}.md`), '');
    await writeFile(join(folder, 'bad.json'), `{"${ALL}": x`);
    env = { DATABASE_URL: file.url, REDIS_URL: testRedisUrl(), ONCEFLEET_PREFIX: uniquePrefix() };
    failed = await insertJob(file.db, { name: ALL, queue: ALL, key: ALL, input: JSON.stringify({ [ALL]: ALL }) });
    await claimFree(file.db, failed);
    const error = { code: ALL, message: ALL };
    const retry = JSON.stringify({ type: 'retry', attempt: 1, delayMs: 1, error });
    const events = [`{"type":${JSON.stringify(ALL)},"n":"\x9b\u202e"}`, retry];
    await appendBatches(file.db, [{ streamId: failed, fence: 1, firstSeq: 0, events }]);
    const end = JSON.stringify({ type: 'error', error });
    await settleJobs(file.db, [
      settlement(failed, 1, {
        status: 'failed',
        outcome: 'failed',
        result: null,
        error: JSON.stringify(error),
        batch: { streamId: failed, fence: 1, firstSeq: 2, events: [end] },
      } as never),
    ]);
    done = await insertJob(file.db, { name: 'answer', tenant: 'default', key: 'k' });
    await claimFree(file.db, done);
    const sources = [{ n: 1, path: ALL, heading: ALL }];
    const result = JSON.stringify({ text: ALL, sources });
    const story = [JSON.stringify({ type: 'sources', sources }), retry, JSON.stringify({ type: 'delta', text: ALL })];
    await appendBatches(file.db, [{ streamId: done, fence: 1, firstSeq: 0, events: story }]);
    const last = { streamId: done, fence: 1, firstSeq: 3, events: [`{"type":"end","result":${result}}`] };
    await settleJobs(file.db, [settlement(done, 1, { result, batch: last })]);
    await setPolicy(file.db, ALL, { streamMs: 90_000 } as never);
    await sql`update oncefleet.jobs set lease_owner = null`.execute(file.db);
    await sql`insert into oncefleet.api_tokens (id, kind, tenant, name, token_hash, scopes)
      values (gen_random_uuid(), 'token', ${ALL}, ${ALL}, sha256('x'), '{read}')`.execute(file.db);
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  const commands: readonly (readonly [string, () => string[]])[] = [
    ['status', () => ['status']],
    ['status of a name', () => ['status', '--name', ALL, '--limit', '1']],
    ['status of a job', () => ['status', failed]],
    ['status of an answer', () => ['status', done]],
    ['follow', () => ['follow', failed]],
    ['follow an answer', () => ['follow', done]],
    ['follow --text', () => ['follow', done, '--text']],
    ['follow --no-text', () => ['follow', done, '--no-text']],
    ['cancel', () => ['cancel', failed]],
    ['retention', () => ['retention']],
    ['retention of a tenant', () => ['retention', ALL]],
    ['token list', () => ['token', 'list']],
    ['token revoke', () => ['token', 'revoke', ALL]],
    ['doctor', () => ['doctor']],
    ['doctor with modules', () => ['doctor', '--jobs', `./${NAME}`]],
    ['redrive --failed', () => ['redrive', '--failed', '--name', ALL, '--code', 'none']],
    ['redrive of what has not failed', () => ['redrive', done]],
    ['sweep', () => ['sweep']],
    ['enqueue of an unknown name', () => ['enqueue', ALL, '{}']],
    ['enqueue of what is no JSON', () => ['enqueue', 'answer', ALL]],
    ['enqueue of a file that is no JSON', () => ['enqueue', 'answer', '@bad.json']],
    ['enqueue of a file that is not there', () => ['enqueue', 'answer', `@${NAME}`]],
    ['enqueue of a bad input', () => ['enqueue', 'answer', JSON.stringify({ question: 1, [ALL]: 2 })]],
    ['ingest of a bad file', () => ['ingest', 'documents', '-c', ALL]],
    ['ingest of nothing', () => ['ingest', NAME, '-c', 'c', '--skip-bad']],
    ['ingest without bad files', () => ['ingest', 'documents', '-c', 'c', '--skip-bad']],
    ['ask with an empty question', () => ['ask', ' ', '-c', ALL]],
    ['ask in a bad collection', () => ['ask', 'q', '-c', ALL]],
    ['migrate', () => ['migrate', '--check']],
    ['an unknown command', () => [ALL]],
    ['an unknown option', () => ['status', `--${ALL}`]],
    ['a bad value', () => ['status', '--status', ALL]],
    ['a bad id', () => ['follow', ALL]],
    ['help', () => ['follow', '--help']],
  ];

  test.each(commands)('%s', async (_title, args) => {
    let shown = '';
    for (const [tty, json, level] of [
      [true, false, 'debug'],
      [true, true, 'info'],
      [false, false, 'info'],
      [false, true, 'info'],
    ] as const) {
      const [stdout, stderr] = [new Sink(tty), new Sink(tty)];
      const context: CliContext = {
        // The log goes to the file descriptor itself; the report of an error is asked for its stack below.
        env,
        cwd: folder,
        stdin: (async function* () {})(),
        stdout,
        stderr,
        exitCode: 0,
      };
      try {
        const program = createProgram(context, '0');
        const given = args();
        const hasJson = program.commands
          .find((command) => command.name() === given[0])
          ?.options.some(({ long }) => long === '--json');
        await program.parseAsync([...given, ...(json && hasJson === true ? ['--json'] : [])], { from: 'user' });
      } catch (error) {
        reportError(error, { stderr, json, debug: level === 'debug' });
      }
      expectHarmless(stdout.text, 'standard output');
      expectHarmless(stderr.text, 'standard error');
      shown += stdout.text + stderr.text;
    }
    expect(shown).not.toBe('');
  });
});
