import { readFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { AnswerView } from '../../src/cli/answer-view.ts';
import { cutTo, formatTable, padEnd, widthOf } from '../../src/cli/columns.ts';
import { formatEventJson, formatEventLine } from '../../src/cli/event-text.ts';
import { EXIT_CODE_BY_ERROR, EXIT_CODES } from '../../src/cli/exit-codes.ts';
import { parseDuration, parseInteger, parseJobId } from '../../src/cli/options.ts';
import { formatProgress, Progress } from '../../src/cli/progress.ts';
import { CommandInterruptedError, reportError } from '../../src/cli/report.ts';
import { counted, createTerminal, type Terminal } from '../../src/cli/terminal.ts';
import { ERROR_CODES, InputInvalidError, JobFailedError, OncefleetError } from '../../src/errors.ts';
import type { JobEvent, StreamEvent, SystemEvent } from '../../src/journal/event.ts';
import { printable, printableLine } from '../../src/printable.ts';
import { Sink } from './output.ts';

function open({
  tty = false,
  json = false,
  env = {},
}: {
  tty?: boolean;
  json?: boolean;
  env?: Record<string, string>;
} = {}) {
  const [stdout, stderr] = [new Sink(tty), new Sink(tty)];
  return { stdout, stderr, terminal: createTerminal({ stdout, stderr, json, env }) };
}

const ESCAPE = '\x1b';
const event = (seq: number, content: JobEvent | SystemEvent): StreamEvent => ({
  seq,
  fence: 1,
  cursor: seq,
  event: content,
  json: JSON.stringify(content),
});

describe('the terminal', () => {
  test('styles only for a terminal that takes colour', async () => {
    const { terminal, stdout } = open({ tty: true });
    await terminal.line(`a ${terminal.style('red', 'x')} b`);
    expect(stdout.text).toBe('a \x1b[31mx\x1b[39m b\n');
    expect(open({ tty: false }).terminal.style('red', 'x')).toBe('x');
    expect(open({ tty: true, env: { NO_COLOR: '1' } }).terminal.style('red', 'x')).toBe('x');
    expect(open({ tty: true, env: { NO_COLOR: '' } }).terminal.style('red', 'x')).not.toBe('x');
    expect(open({ tty: true, env: { TERM: 'dumb' } }).terminal.style('red', 'x')).toBe('x');
    expect(open({ tty: true, json: true }).terminal.style('red', 'x')).toBe('x');
  });

  test('--json silences notes and progress', () => {
    const { terminal, stderr } = open({ json: true, tty: true });
    terminal.note('a remark');
    new Progress(terminal, 'ingest').update({ done: 1, total: 2 });
    expect(stderr.text).toBe('');
  });

  test('control characters of foreign text are not printed', () => {
    expect(printable('a\x1b[31mb\x9b2Jc\r\nd\te\x07')).toBe('a[31mb2Jc\nd\te');
    expect(printableLine('one\ntwo\u2028three')).toBe('one two three');
  });

  test('a table has columns as wide as their cells', () => {
    expect(
      formatTable(
        ['A', 'LONG'],
        [
          ['xyz', '1'],
          ['x', ''],
        ],
      ),
    ).toEqual(['A    LONG', 'xyz  1', 'x']);
  });
});

describe('a table that has to fit', () => {
  const headings = ['ID', 'NAME', 'ERROR'];
  const id = '01a21899-6860-75c8-93aa-0123456789ab';

  test.each([
    ['long names', [id, 'n'.repeat(200), 'HANDLER_ERROR']],
    ['long errors', [id, 'ingest', 'e'.repeat(200)]],
    ['both', [id, 'n'.repeat(90), 'e'.repeat(90)]],
    ['lines and escapes', [id, 'two\nlines', `${ESCAPE}[2J`.repeat(60)]],
    ['ideographs', [id, '文'.repeat(90), 'ほ'.repeat(90)]],
    ['emoji', [id, '👩‍👩‍👧‍👦'.repeat(60), '🇪🇺'.repeat(60)]],
    ['marks without an end', [id, `e${'\u0301'.repeat(5_000)}`, 'x'.repeat(90)]],
  ])('cuts the widest of the columns that may be cut (%s)', (_what, row) => {
    const lines = formatTable(headings, [row], { columns: 100, cut: ['NAME', 'ERROR'] });
    expect(lines).toHaveLength(2);
    expect(Math.max(...lines.map(widthOf))).toBeLessThanOrEqual(100);
    expect(lines.every((line) => line.isWellFormed())).toBe(true);
    expect(lines[1]).toContain(id);
  });

  test('cuts nothing that fits', () => {
    expect(formatTable(headings, [[id, 'ingest', '']], { columns: 100, cut: ['NAME'] }).join()).not.toContain('…');
  });
});

describe('columns', () => {
  test.each([
    ['abcdef', 4, 'abc…'],
    ['abcd', 4, 'abcd'],
    ['漢字漢字', 8, '漢字漢字'],
    ['漢字漢字', 7, '漢字漢…'],
    ['漢字漢字', 6, '漢字…'],
    ['a😀b😀', 3, 'a…'],
    ['a😀b😀', 4, 'a😀…'],
    ['👩‍👩‍👧‍👦👩‍👩‍👧‍👦', 3, '👩‍👩‍👧‍👦…'],
    ['e\u0301e\u0301e\u0301', 2, 'e\u0301…'],
    ['two\nlines', 20, 'two lines'],
    ['', 4, ''],
  ])('%j cut to %i columns is %j', (text, columns, cut) => {
    expect(cutTo(text, columns)).toBe(cut);
    expect(widthOf(cut)).toBeLessThanOrEqual(columns);
  });

  test('are filled by what a person sees, not by code units', () => {
    expect(padEnd('漢😀', 6)).toBe('漢😀  ');
  });

  test.each(['😀', '\u0301', 'x'])('the length of a text of %j is no matter', (unit) => {
    expect(cutTo(unit.repeat(4_000_000), 10).length).toBeLessThan(200);
  });
});

test.each([
  [0, '0 jobs'],
  [1, '1 job'],
  [2, '2 jobs'],
])('%i is counted as %s', (count, text) => {
  expect(counted(count, 'job')).toBe(text);
});

describe('progress', () => {
  test('redraws its line on a terminal and ends it', () => {
    const { terminal, stderr } = open({ tty: true });
    let now = 0;
    const progress = new Progress(terminal, 'ingest', () => now);
    progress.update({ done: 0, total: 4 });
    now += 10;
    progress.update({ done: 1, total: 4 });
    now += 1_000;
    progress.update({ done: 2, total: 4, message: 'docs/a.md' });
    progress.finish();
    expect(stderr.text.split('\r\x1b[K').slice(1)).toEqual([
      'ingest [........................]   0% 0/4',
      'ingest [############............]  50% 2/4  docs/a.md',
      'ingest [############............]  50% 2/4  docs/a.md\n',
    ]);
  });

  test('is a plain line now and then in a pipe, the last state always', () => {
    const { terminal, stderr } = open();
    let now = 0;
    const progress = new Progress(terminal, 'ingest', () => now);
    for (let done = 0; done <= 10; done++, now += 500) progress.update({ done, total: 10 });
    progress.finish();
    progress.finish();
    expect(stderr.text).toBe('ingest   0% 0/10\ningest  40% 4/10\ningest  80% 8/10\ningest 100% 10/10\n');
  });

  test('never gets wider than the terminal', () => {
    const state = { done: 3, total: 10, message: 'a/very/long/path/'.repeat(20) };
    expect(formatProgress('ingest', state, 40)).toHaveLength(40);
  });

  test('has no share without a total, nor with none to do', () => {
    expect(formatProgress('job', { done: 7 })).toBe('job 7');
    expect(formatProgress('job', { done: 0, total: 0 })).toBe('job 0/0');
  });
});

describe('reports', () => {
  const report = (error: unknown, { json = false, debug = false } = {}) => {
    const stderr = new Sink(false);
    return { code: reportError(error, { stderr, json, debug }), text: stderr.text };
  };

  test('an error is one line with its code', () => {
    expect(report(new InputInvalidError('Input', [{ path: 'a.b', message: 'is\nrequired' }]))).toEqual({
      code: 2,
      text: 'error INPUT_INVALID: Input: a.b: is required\n',
    });
  });

  test('with --json an object, details included', () => {
    const { text } = report(new OncefleetError('KEY_MISMATCH', 'No', { details: { jobId: 'x' } }), { json: true });
    expect(JSON.parse(text)).toEqual({ error: { code: 'KEY_MISMATCH', message: 'No', details: { jobId: 'x' } } });
  });

  test('a failed job exits with 1 and a cancelled one with 5, whatever their codes', () => {
    expect(report(new JobFailedError('x', 'failed', { code: 'INPUT_INVALID', message: 'm' })).code).toBe(1);
    expect(report(new JobFailedError('x', 'cancelled', { code: 'CANCELLED', message: 'm' })).code).toBe(5);
  });

  test('an interrupted command exits as its signal says', () => {
    expect(report(new CommandInterruptedError('SIGINT', 'Stopped')).code).toBe(130);
    expect(report(new CommandInterruptedError('SIGTERM', 'Stopped')).code).toBe(143);
  });

  test('a refused connection to both addresses of localhost is named', () => {
    const refused = (port: string) =>
      Object.assign(new Error(`connect ECONNREFUSED ${port}`), { code: 'ECONNREFUSED' });
    const both = Object.assign(new AggregateError([refused('::1:5432'), refused('127.0.0.1:5432')]), {
      code: 'ECONNREFUSED',
    });
    expect(report(both)).toEqual({
      code: 4,
      text: 'error STORE_UNAVAILABLE: Postgres cannot be reached: connect ECONNREFUSED ::1:5432; connect ECONNREFUSED 127.0.0.1:5432\n',
    });
  });

  test('the unplanned is INTERNAL, with a stack only for people who debug', () => {
    expect(report(new TypeError('x is undefined'))).toEqual({ code: 70, text: 'error INTERNAL: x is undefined\n' });
    expect(report(new TypeError('x is undefined'), { debug: true }).text).toContain('output.test.ts');
    expect(report('a string').text).toBe('error INTERNAL: a string\n');
  });

  test('a reader that went away gets no report', () => {
    expect(report(Object.assign(new Error('write EPIPE'), { code: 'EPIPE', syscall: 'write' }))).toEqual({
      code: 141,
      text: '',
    });
  });
});

describe('the table of exit codes', () => {
  test('has every error code, and only codes it explains', () => {
    expect(Object.keys(EXIT_CODE_BY_ERROR).sort()).toEqual(Object.keys(ERROR_CODES).sort());
    for (const code of Object.values(EXIT_CODE_BY_ERROR)) expect(EXIT_CODES).toHaveProperty(String(code));
  });

  test('is the one that docs/reference/cli.md prints', async () => {
    const docs = await readFile(new URL('../../docs/reference/cli.md', import.meta.url), 'utf8');
    const rows = [...docs.matchAll(/^\| (\d+) \| (.*?) \| (.*?) \|$/gm)].map(([, code, meaning, errors]) => ({
      code,
      meaning,
      errors,
    }));
    const expected = Object.entries(EXIT_CODES).map(([code, meaning]) => ({
      code,
      meaning,
      errors: Object.entries(EXIT_CODE_BY_ERROR)
        .filter(([, exitCode]) => String(exitCode) === code)
        .map(([name]) => `\`${name}\``)
        .join(' '),
    }));
    expect(rows).toEqual(expected);
  });
});

describe('values of options', () => {
  test.each([
    ['1500', 1_500],
    ['0', 0],
    ['250ms', 250],
    ['1.5s', 1_500],
    ['5m', 300_000],
    ['2h', 7_200_000],
    ['1d', 86_400_000],
  ])('a duration of %s is %i ms', (text, ms) => expect(parseDuration(text)).toBe(ms));

  test.each(['', '-1', '5 parsecs', '1e3', 'NaN', `${'9'.repeat(30)}d`])('%j is no duration', (text) => {
    expect(() => parseDuration(text)).toThrow(/duration/);
  });

  test.each(['', ' ', '1.5', '0x10', '11', '-1', 'ten'])('%j is no whole number from 0 to 10', (text) => {
    expect(() => parseInteger(0, 10)(text)).toThrow(/whole number from 0 to 10/);
  });

  test('a job id is a UUID, in any case of letters', () => {
    expect(parseJobId('0198C5F2-0000-7000-8000-000000000000')).toBe('0198c5f2-0000-7000-8000-000000000000');
    for (const text of ['', '42', '0198c5f2', "0198c5f2-0000-7000-8000-00000000000'"])
      expect(() => parseJobId(text)).toThrow(/UUID/);
  });
});

describe('events', () => {
  test('for scripts they are the text of the journal', () => {
    const json = '{"type":"x","n":1.0,"s":"\\u0000\\ud800"}';
    expect(formatEventJson({ seq: 3, fence: 2, cursor: 3, event: JSON.parse(json) as JobEvent, json })).toBe(
      `{"seq":3,"fence":2,"event":${json}}`,
    );
  });

  test('for people they are a line that moves no cursor', () => {
    expect(formatEventLine(event(7, { type: 'delta', text: 'a\x1b[31m\n\x9b' }))).toBe(
      '    7  delta       {"text":"a\\u001b[31m\\n\\u009b"}',
    );
    expect(formatEventLine(event(8, { type: 'end' }))).toBe('    8  end');
  });
});

describe('an answer', () => {
  const delta = (seq: number, text: string) => event(seq, { type: 'delta', text });
  const attempt = (seq: number, fields: object) =>
    event(seq, { type: 'attempt', attempt: 2, reason: 'crash', resumed: false, ...fields } as SystemEvent);

  async function view(
    tty: boolean,
    events: StreamEvent[],
    result: unknown,
    live = tty,
  ): Promise<{ stdout: string; stderr: string; view: AnswerView }> {
    const { stdout, stderr, terminal } = open({ tty, env: { NO_COLOR: '1' } });
    const answer = new AnswerView(terminal as Terminal, live);
    for (const each of events) await answer.accept(each);
    await answer.finish(result);
    return { stdout: stdout.text, stderr: stderr.text, view: answer };
  }

  test('is printed as it comes, then its sources', async () => {
    const sources = [{ n: 1, path: 'docs/a.md', heading: 'Title > Part', documentId: 'x', ordinal: 0 }];
    const { stdout } = await view(true, [event(0, { type: 'sources', sources }), delta(1, 'One '), delta(2, 'two.')], {
      text: 'One two.',
      sources,
    });
    expect(stdout).toBe('One two.\n\nSources\n  [1] docs/a.md · Title > Part\n');
  });

  test.each([true, false])('that starts over says so where its text is (terminal: %s)', async (tty) => {
    const events = [delta(0, 'Old'), attempt(1, {}), delta(2, 'New')];
    const { stdout, stderr } = await view(tty, events, { text: 'New' }, true);
    expect(stdout).toBe('Old\n-- Attempt 2 (its worker was lost): the answer starts again --\nNew\n');
    expect(stderr).toBe('');
  });

  test('that goes on is whole in a pipe, and the remark is on standard error', async () => {
    const events = [delta(0, 'One '), attempt(1, { resumed: true, from: 1 }), delta(2, 'two')];
    const { stdout, stderr } = await view(false, events, { text: 'One two' }, true);
    expect(stdout).toBe('One two\n');
    expect(stderr).toBe('-- Attempt 2 (its worker was lost): it continues --\n');
  });

  test('in a pipe is the last attempt alone', async () => {
    const { stdout } = await view(false, [delta(0, 'Old'), attempt(1, {}), delta(2, 'New')], { text: 'New' });
    expect(stdout).toBe('New\n');
  });

  test('that goes on from a checkpoint keeps what came before it', async () => {
    const events = [delta(0, 'Kept '), delta(1, 'lost'), attempt(2, { resumed: true, from: 1 }), delta(3, 'new')];
    const { view: answer, stdout } = await view(true, events, { text: 'Kept new' });
    expect(answer.text).toBe('Kept new');
    expect(stdout).toBe('Kept lost\n-- Attempt 2 (its worker was lost): the answer starts again --\nKept new\n');
  });

  test('that is stored differently from what was seen is printed as it is stored', async () => {
    const { stdout } = await view(true, [delta(0, 'Seen')], { text: 'Stored' });
    expect(stdout).toBe('Seen\n-- The answer as it is stored: --\nStored\n');
  });

  test('whose tokens split a surrogate pair is printed whole', async () => {
    const { stdout } = await view(true, [delta(0, 'a\ud83d'), delta(1, '\ude00b')], { text: 'a😀b' });
    expect(stdout).toBe('a😀b\n');
  });

  test('whose attempt breaks off inside a surrogate pair leaves no half of it to the next', async () => {
    const { stdout } = await view(true, [delta(0, '\ud83d'), attempt(1, {}), delta(2, 'New')], { text: 'New' });
    expect(stdout).toBe('\ufffd\n-- Attempt 2 (its worker was lost): the answer starts again --\nNew\n');
  });

  test('whose worker changes inside a surrogate pair is printed whole in a pipe', async () => {
    const events = [delta(0, 'a\ud83d'), attempt(1, { resumed: true, from: 1 }), delta(2, '\ude00b')];
    const { stdout } = await view(false, events, { text: 'a😀b' }, true);
    expect(stdout).toBe('a😀b\n');
  });

  test('cannot move the cursor', async () => {
    const { stdout } = await view(true, [delta(0, 'a\x1b]0;title\x07b')], { text: 'a\x1b]0;title\x07b' });
    expect(stdout).toBe('a]0;titleb\n');
  });
});
