/** `oncefleet/client` in a browser: a page that is loaded again in the middle continues where it was. */
import { join } from 'node:path';
import type { Page } from 'playwright-core';
import { build, type Rolldown } from 'vite';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Browser, findChromium, openBrowser } from '../helpers/browser.ts';
import { gate, type Harness, startHarness } from '../http/harness.ts';

const program = findChromium();
if (program === undefined)
  process.stderr.write('Chromium is not installed: a test of oncefleet/client is skipped (apt-get install chromium)\n');

const WAIT = { timeout: 20_000, interval: 50 };

/** What it has seen, and where it stands, survive in the browser. */
const PAGE = `
  import { createClient } from 'CLIENT';
  const client = createClient({ url: location.origin });
  const saved = JSON.parse(localStorage.getItem('saved') ?? '{"seen":[]}');
  const show = () => {
    localStorage.setItem('saved', JSON.stringify(saved));
    document.body.textContent = saved.seen.join(' ');
  };
  saved.id ??= (await client.enqueue('stepper', { gate: 'page', steps: 3 }, { key: 'page' })).id;
  show();
  for await (const { cursor, event } of client.follow(saved.id, { after: saved.cursor })) {
    saved.cursor = cursor;
    saved.seen.push(event.type === 'delta' ? event.n : event.type);
    show();
  }
  saved.seen.push(await client.result(saved.id));
  show();
`;

async function bundle(): Promise<string> {
  const entry = join(import.meta.dirname, 'client-page.js');
  const source = join(import.meta.dirname, '../../src/web-client/index.ts');
  const built = (await build({
    configFile: false,
    logLevel: 'silent',
    plugins: [
      {
        name: 'client-page',
        enforce: 'pre',
        resolveId: (id) => (id === entry ? id : id === 'CLIENT' ? source : null),
        load: (id) => (id === entry ? PAGE : null),
      },
    ],
    build: { write: false, minify: false, target: 'es2022', rolldownOptions: { input: entry } },
  })) as Rolldown.RolldownOutput;
  return built.output[0].code;
}

describe.skipIf(program === undefined)('oncefleet/client in a browser', { timeout: 60_000 }, () => {
  let harness: Harness;
  let browser: Browser;
  let page: Page;
  beforeAll(async () => {
    const [started, script] = await Promise.all([startHarness(), bundle()]);
    harness = started;
    browser = await openBrowser(program as string);
    page = browser.page;
    await page.route('**/page', (route) =>
      route.fulfill({ contentType: 'text/html', body: `<body></body><script type="module">${script}</script>` }),
    );
  }, 60_000);
  afterAll(async () => {
    await browser?.close();
    await harness?.close();
  });

  const text = () => page.locator('body').textContent();

  it('has each event once over two reloads, and the result', async () => {
    await page.goto(harness.url('/page'));
    gate.open('page');
    await expect.poll(text, WAIT).toBe('0');
    await page.reload();
    await expect.poll(text, WAIT).toBe('0');
    gate.open('page');
    await expect.poll(text, WAIT).toBe('0 1');
    await page.reload();
    gate.open('page');
    await expect.poll(text, WAIT).toBe('0 1 2 end 3');
  });
});
