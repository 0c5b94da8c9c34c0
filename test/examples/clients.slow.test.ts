/** The examples of clients, each run as a person runs it, twice: it is the same job, and ran once. */
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { summarize } from '../../examples/clients/summarize-job.ts';
import { createApp } from '../../src/http/app.ts';
import { silentLogger } from '../../src/log.ts';
import { createFleet, type Fleet } from '../../src/workers/fleet.ts';
import { findChromium, openBrowser } from '../helpers/browser.ts';
import { createTestDatabase, testRedisUrl, uniquePrefix } from '../helpers/services.ts';
import { listenLocally } from '../http/requests.ts';

const FOLDER = join(import.meta.dirname, '../../examples/clients');
const TOKEN = 'token-of-the-examples';
const WAIT = { timeout: 60_000, interval: 50 };
const run = promisify(execFile);
const chromium = findChromium();

let fleet: Fleet;
let url: string;
const prefix = uniquePrefix();
const closers: (() => Promise<unknown>)[] = [];

beforeAll(async () => {
  const database = await createTestDatabase();
  const log = silentLogger();
  fleet = createFleet({ databaseUrl: database.url, redisUrl: testRedisUrl(), prefix, jobs: [summarize], log });
  const worker = await fleet.work();
  const tokens = new Map([[TOKEN, 'default']]);
  const config = { tokens, adminToken: undefined, tenant: 'default', bodyLimitBytes: 64 * 1024 };
  const app = createApp({ client: fleet, log, config, board: false });
  url = `http://127.0.0.1:${await listenLocally(app)}`;
  closers.push(
    () => app.close(),
    () => worker.close(),
    () => fleet.close(),
    () => database.drop(),
  );
});
afterAll(async () => {
  for (const close of closers) await close();
});

async function runExample(name: string): Promise<string> {
  const env = {
    ...process.env,
    NODE_OPTIONS: '',
    ONCEFLEET_URL: url,
    ONCEFLEET_TOKEN: TOKEN,
    ONCEFLEET_PREFIX: prefix,
    REDIS_URL: testRedisUrl(),
  };
  const path = join(FOLDER, name);
  const [command, args] = name.endsWith('.sh')
    ? ['sh', [path]]
    : [process.execPath, ['--conditions=oncefleet-source', path]];
  return (await run(command, args, { env, timeout: 60_000 })).stdout;
}

/** Jobs that were made of a text, and how they ended. */
async function jobsOf(text: string) {
  const rows = await fleet.db.selectFrom('jobs').select(['status', 'fence', 'input']).execute();
  return rows
    .filter(({ input }) => JSON.stringify(input).includes(text))
    .map(({ status, fence }) => [status, Number(fence)]);
}

describe('each example', { timeout: 120_000 }, () => {
  it.each([
    ['curl.sh', 'A text of curl', /event: delta\ndata: .*"A "[\s\S]*event: end[\s\S]*"status":"completed"/],
    ['openai.ts', 'A text of openai', /^A text of openai $/],
    ['oncefleet-client.ts', 'A text of oncefleet', /^(delta\n){4}end\nA text of oncefleet\n$/],
    ['any-bullmq.ts', 'A text of bullmq', /^$/],
  ])('%s', async (name, text, said) => {
    expect(await runExample(name)).toMatch(said);
    expect(await runExample(name)).toMatch(said);
    await expect.poll(() => jobsOf(text), WAIT).toEqual([['completed', 1]]);
  });

  it.skipIf(chromium === undefined)('event-source.html, with a ticket and no token', async () => {
    const { id } = await fleet.enqueue(summarize, { text: 'A text of a page' });
    const made = await fetch(`${url}/v1/jobs/${id}/ticket`, {
      method: 'POST',
      headers: { authorization: `Bearer ${TOKEN}` },
    });
    const { ticket } = (await made.json()) as { ticket: string };
    const { page, close } = await openBrowser(chromium as string);
    try {
      const body = await readFile(join(FOLDER, 'event-source.html'), 'utf8');
      await page.route('**/page?*', (route) => route.fulfill({ contentType: 'text/html', body }));
      await page.goto(`${url}/page?${new URLSearchParams({ url, id, ticket })}`);
      await expect.poll(() => page.locator('pre').textContent(), WAIT).toBe('A text of a page (end)');
    } finally {
      await close();
    }
  });
});
