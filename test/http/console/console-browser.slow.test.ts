/**
 * The console in a browser: what is live, what stays a text, and that it can be used by keyboard and on a phone.
 *
 * With CONSOLE_SCREENSHOTS set to a folder, pictures of the pages are left there.
 */
import { join } from 'node:path';
import { sql } from 'kysely';
import type { Page } from 'playwright-core';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { createBuiltinJobs } from '../../../src/jobs/builtin-jobs.ts';
import { defineJob } from '../../../src/jobs/define-job.ts';
import { type Browser, findChromium, openBrowser } from '../../helpers/browser.ts';
import { gate, type Harness, startHarness } from '../harness.ts';

const program = findChromium();
if (program === undefined)
  process.stderr.write(
    'Chromium is not installed: the tests of the console in a browser are skipped (apt-get install chromium)\n',
  );

const WAIT = { timeout: 20_000, interval: 50 };
const EVIL = '</pre><script>window.hurt=1</script><img src=x onerror="window.hurt=1">';

const many = defineJob({
  name: 'many',
  input: z.object({ events: z.number() }),
  async run({ events }, ctx) {
    for (let n = 0; n < events; n++) await ctx.emit({ type: 'delta', text: `${n} ` });
    return events;
  },
});

/** Emits what it is given. */
const raw = defineJob({
  name: 'raw',
  input: z.array(z.looseObject({ type: z.string() })),
  async run(events, ctx) {
    for (const event of events) await ctx.emit(event);
    return null;
  },
});

describe.skipIf(program === undefined)('the console in a browser', { timeout: 60_000 }, () => {
  let harness: Harness;
  let browser: Browser;
  let page: Page;
  let wrong: string[];
  beforeAll(async () => {
    harness = await startHarness({}, [many, raw, ...createBuiltinJobs({ model: undefined, answerPaceMs: 5 })]);
    browser = await openBrowser(program as string);
    page = browser.page;
    page.on('console', (message) => {
      if (message.type() === 'error') wrong.push(message.text());
    });
    page.on('pageerror', (error) => wrong.push(error.message));
  }, 60_000);
  afterAll(async () => {
    await browser?.close();
    await harness?.close();
  });
  beforeEach(() => {
    wrong = [];
  });

  const open = (path: string) => page.goto(harness.url(path));
  const part = (name: string) => page.locator(`[data-part=${name}]`);
  async function shoot(name: string): Promise<void> {
    const folder = process.env['CONSOLE_SCREENSHOTS'];
    if (folder === undefined) return;
    for (const width of [390, 1440])
      for (const colorScheme of ['light', 'dark'] as const) {
        await page.setViewportSize({ width, height: 900 });
        await page.emulateMedia({ colorScheme });
        await page.screenshot({ path: join(folder, `${name}-${width}-${colorScheme}.png`) });
      }
  }

  it('a stream is shown as it comes, as text and as events, and the page follows its end', async () => {
    const { id } = await harness.fleet.enqueue('stepper', { gate: 'live', steps: 3 });
    await open(`/jobs/${id}`);
    await expect.poll(() => part('state').textContent(), WAIT).toMatch(/connecting|live/);
    gate.open('live');
    await expect.poll(() => part('events').locator('li').count(), WAIT).toBe(1);
    expect(await part('events').textContent()).toContain('"n":0');
    expect(await part('last').getAttribute('datetime')).toMatch(/^\d{4}/);
    await shoot('job-running');
    gate.open('live', 2);
    await page.locator('.status.completed').first().waitFor();
    expect(wrong).toEqual([]);
  });

  it('10,000 events do not hold the page up, and it keeps the last of them', async () => {
    const { id } = await harness.fleet.enqueue('many', { events: 10_000 });
    await harness.fleet.result(id);
    await open(`/jobs/${id}`);
    await page.evaluate(`(() => {
      window.longest = 0;
      let last = performance.now();
      const tick = () => { const now = performance.now(); window.longest = Math.max(window.longest, now - last); last = now; setTimeout(tick, 10); };
      tick();
    })()`);
    await expect.poll(() => part('count').textContent(), WAIT).toBe('10001 events, the last 500 shown');
    expect(await part('events').locator('li').count()).toBe(500);
    expect(await part('text').textContent()).toMatch(/^0 1 2 .* 9999 $/);
    // Two seconds would be felt as a frozen page on any machine; the tests' are slow ones.
    expect(await page.evaluate('window.longest')).toBeLessThan(2_000);
    await shoot('job-many');
    expect(wrong).toEqual([]);
  });

  it('scripts in any field of a job, and in its events, are texts', async () => {
    const events = [
      { type: EVIL, text: EVIL },
      { type: 'delta', text: EVIL },
      { type: 'sources', sources: [{ n: EVIL, path: EVIL, heading: EVIL }] },
    ];
    const { id } = await harness.fleet.enqueue('raw', events, { key: EVIL });
    await harness.fleet.result(id);
    const error = JSON.stringify({ code: EVIL, message: EVIL });
    await sql`update oncefleet.jobs set status = 'failed', queue = ${EVIL}, name = ${EVIL}, tenant = ${EVIL}, error = ${error},
      result = null where id = ${id}`.execute(harness.fleet.db);
    for (const path of [`/jobs/${id}`, '/', '/fleet', `/jobs/${id}/redrive`, `/?error=${encodeURIComponent(EVIL)}`]) {
      await open(path);
      if (path === `/jobs/${id}`) await expect.poll(() => part('count').textContent(), WAIT).toBe('4 events');
      expect(await page.evaluate('window.hurt')).toBeUndefined();
      expect(await page.locator('main img, main script').count()).toBe(0);
    }
    expect(wrong).toEqual([]);
  });

  it('documents go in, an answer streams, and a source opens at its place', async () => {
    await open('/playground');
    await page.getByLabel('Collection').first().fill('bees');
    const text = '# Bees\n\n## Honey\n\nBees make honey from nectar.\n\n## Wax\n\nWax is made by young bees.\n';
    await page
      .getByLabel('Documents')
      .setInputFiles([{ name: 'bees.md', mimeType: 'text/markdown', buffer: Buffer.from(text) }]);
    await page.getByRole('button', { name: 'Upload' }).click();
    await page.locator('.status.completed').first().waitFor();
    await open('/playground');
    await page.getByLabel('Question').fill('What do bees make from nectar?');
    await page.getByRole('button', { name: 'Ask' }).click();
    await expect.poll(() => part('text').textContent(), WAIT).toMatch(/honey/i);
    await expect.poll(() => part('state').textContent(), WAIT).toBe('ended: end');
    await shoot('playground');
    await part('sources').getByRole('link').first().click();
    await page.locator('.chunk:target').waitFor();
    expect(await page.locator('.chunk:target').textContent()).toMatch(/Bees|honey/);
    expect(wrong).toEqual([]);
  });

  it('everything is reached by keyboard: the content, a search, a job, and an action that is asked again', async () => {
    await harness.fleet
      .enqueue('failing', { text: 'x' }, { key: 'by keyboard' })
      .then((handle) => handle.result().catch(() => {}));
    await page.setViewportSize({ width: 1440, height: 900 });
    await open('/');
    await page.keyboard.press('Tab');
    expect(await page.evaluate('document.activeElement.textContent')).toBe('Skip to the content');
    await page.keyboard.press('Enter');
    await page.keyboard.press('Tab');
    await page.keyboard.press('Tab');
    await page.keyboard.type('by keyboard');
    await page.keyboard.press('Enter');
    await page.waitForURL(/key=by\+keyboard/);
    await page.getByRole('link', { name: 'failing', exact: true }).focus();
    await page.keyboard.press('Enter');
    await page.getByRole('link', { name: 'Redrive…' }).focus();
    await shoot('job-failed');
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { name: 'Run this failed job again?' }).waitFor();
    await shoot('ask-again');
    // The button that does it has the focus.
    await page.keyboard.press('Enter');
    await page.getByText('Done in the console').waitFor();
    expect(wrong).toEqual([]);
  });

  it.each(['/', '/fleet', '/playground', '/redrive', 'job'])(
    '%s fits a phone, and names its parts for screen readers',
    async (path) => {
      const { jobs } = await harness.fleet.find({ limit: 1, status: 'completed' });
      await page.setViewportSize({ width: 390, height: 844 });
      await open(path === 'job' ? `/jobs/${jobs[0]?.id}` : path);
      const { scroll, client } = (await page.evaluate(
        '({ scroll: document.documentElement.scrollWidth, client: document.documentElement.clientWidth })',
      )) as { scroll: number; client: number };
      expect(scroll).toBeLessThanOrEqual(client);
      expect(await page.locator('main').count()).toBe(1);
      expect(await page.locator('h1').count()).toBe(1);
      const unnamed = await page.evaluate(
        "[...document.querySelectorAll('input:not([type=hidden]), select, textarea')].filter((field) => field.labels.length === 0).map((field) => field.outerHTML)",
      );
      expect(unnamed).toEqual([]);
      await shoot(path === 'job' ? 'job' : path === '/' ? 'jobs' : path.slice(1));
      expect(wrong).toEqual([]);
    },
  );
});
