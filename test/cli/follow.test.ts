/** `oncefleet follow` as a person at a terminal sees it. */
import { expect, test } from 'vitest';
import type { CliContext } from '../../src/cli/context.ts';
import { createProgram } from '../../src/cli/program.ts';
import { settleJobs } from '../../src/db/jobs/settle.ts';
import { appendBatches } from '../../src/db/streams/segments.ts';
import { claimFree, insertJob, settlement, useDatabase } from '../helpers/fixtures.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';
import { Sink } from './output.ts';

const file = useDatabase();

async function finishedJob(name: string): Promise<string> {
  const id = await insertJob(file.db, { name });
  await claimFree(file.db, id);
  const texts = ['{"type":"delta","text":"Once "}', '{"type":"delta","text":"only.\\u001b[2J"}'];
  await appendBatches(file.db, [{ streamId: id, fence: 1, firstSeq: 0, events: texts }]);
  const result = '{"text":"Once only."}';
  const batch = { streamId: id, fence: 1, firstSeq: 2, events: [`{"type":"end","result":${result}}`] };
  await settleJobs(file.db, [settlement(id, 1, { result, batch })]);
  return id;
}

async function follow(args: readonly string[], { tty }: { tty: boolean }): Promise<string> {
  const stdout = new Sink(tty);
  const context: CliContext = {
    env: { DATABASE_URL: file.url, REDIS_URL: testRedisUrl(), ONCEFLEET_PREFIX: uniquePrefix(), NO_COLOR: '1' },
    cwd: '/',
    stdin: (async function* () {})(),
    stdout,
    stderr: new Sink(tty),
    exitCode: 0,
  };
  await createProgram(context, '0').parseAsync(['follow', ...args], { from: 'user' });
  return stdout.text;
}

test.each([
  ['an answer on a terminal is text', 'answer', [], true, /^Once only\.\[2J\n/],
  [
    'an answer on a terminal with --no-text is its events',
    'answer',
    ['--no-text'],
    true,
    /^ +0 +delta +\{"text":"Once "\}\n/,
  ],
  ['an answer in a pipe is its events', 'answer', [], false, /^ +0 +delta /],
  ['the rest of an answer is its events', 'answer', ['--after', '0'], true, /^ +1 +delta /],
  ['another job on a terminal is its events', 'echo', [], true, /^ +0 +delta /],
])('%s', async (_title, name, flags, tty, printed) => {
  expect(await follow([await finishedJob(name), ...flags], { tty })).toMatch(printed);
});
