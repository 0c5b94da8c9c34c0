/**
 * The buttons of Bull Board, pressed in a browser, against Postgres. What each request does stands in
 * board-actions.test.ts; here a person sees that it was done, or why not.
 *
 * With BOARD_SCREENSHOTS set to a folder, a picture of the page is left there for each test.
 */
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { sql } from 'kysely';
import type { Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type Browser, findChromium, openBrowser } from '../helpers/browser.ts';
import { type BoardStage, type ForeignQueue, startBoardStage, startForeignQueue } from './board-stage.ts';
import { listenLocally } from './requests.ts';

const program = findChromium();
if (program === undefined)
  process.stderr.write(
    'Chromium is not installed: the tests of Bull Board in a browser are skipped (apt-get install chromium)\n',
  );

const WAIT = { timeout: 20_000, interval: 50 };
const HOUR = 3_600_000;

/** The buttons of a job in the order in which the board has them. */
const BUTTONS = {
  failed: ['Retry', 'Duplicate', 'Update Data', 'Clean'],
  delayed: ['Promote', 'Reschedule', 'Duplicate', 'Update Data', 'Clean'],
  completed: ['Duplicate', 'Clean'],
  waiting: ['Duplicate', 'Update Data', 'Clean'],
  prioritized: ['Change priority', 'Duplicate', 'Update Data', 'Clean'],
} as const;
type Status = keyof typeof BUTTONS;

describe.skipIf(program === undefined)('in a browser', { timeout: 60_000 }, () => {
  let stage: BoardStage;
  let browser: Browser;
  let page: Page;
  let port: number;
  beforeAll(async () => {
    stage = await startBoardStage();
    port = await listenLocally(stage.app);
    browser = await openBrowser(program as string);
    page = browser.page;
  }, 60_000);
  afterAll(async () => {
    await browser?.close();
    await stage?.close();
  });
  beforeEach(async () => {
    await stage.loseRedis();
    await sql`truncate oncefleet.jobs, oncefleet.unfinished_jobs, oncefleet.ended_attempts, oncefleet.stream_heads, oncefleet.journal_segments, oncefleet.dispatch_outbox,
      oncefleet.reconciler_rounds, oncefleet.paused_queues`.execute(stage.db);
    stage.ran.length = 0;
  });
  afterEach(async ({ task }) => {
    const folder = process.env['BOARD_SCREENSHOTS'];
    if (folder !== undefined) await page.screenshot({ path: join(folder, `${task.name.replace(/\W+/g, '-')}.png`) });
  });

  async function create(status: Status): Promise<string> {
    const text = status === 'failed' ? 'fail' : 'kept';
    const options = { delayed: { delayMs: HOUR }, prioritized: { priority: 5 } }[status as 'delayed'] ?? {};
    const { id } = await stage.fleet.enqueue('keep', { text }, { key: randomUUID(), ...options });
    const worker = status === 'failed' || status === 'completed' ? await stage.work() : undefined;
    const look = async () => {
      const now = await stage.queue.getJobState(id);
      if (now === 'unknown') await stage.reconcile();
      return now;
    };
    await expect.poll(look, WAIT).toBe(status);
    await worker?.close();
    return id;
  }

  const open = (path: string) => page.goto(`http://127.0.0.1:${port}/admin/queues/${path}`);
  const statusOf = async (id: string) => (await stage.rowOf(id)).status;
  const confirm = () => page.getByRole('button', { name: 'Confirm' }).click();

  /** Presses a button of the only job that a queue shows in a state. The tooltip says that it is the one. */
  async function press(status: Status, title: string, queue = 'work'): Promise<void> {
    await open(`queue/${queue}?status=${status}`);
    await pressOn(status, title);
  }

  /** The same on the page as it is. */
  async function pressOn(status: Status, title: string): Promise<void> {
    const buttons = page.locator('ul[class^="jobActions"] button');
    await expect.poll(() => buttons.count(), WAIT).toBe(BUTTONS[status].length);
    const button = buttons.nth((BUTTONS[status] as readonly string[]).indexOf(title));
    await button.hover();
    await page.getByText(title, { exact: true }).last().waitFor();
    await button.click();
  }

  async function pressMenu(title: string): Promise<void> {
    await open('queue/work');
    await openMenu();
    await page.getByRole('menuitem', { name: title }).click();
  }

  /** The menu of the page, not that of the person in the corner. */
  const openMenu = () => page.locator('main button[aria-haspopup="menu"]').first().click();

  const toast = (sentence: RegExp) => page.getByText(sentence).first().waitFor();
  /** Writes into one of the dialog's editors, which are no plain fields. */
  async function write(place: number, text: string): Promise<void> {
    await page.getByRole('dialog').locator('.cm-content').nth(place).click();
    await page.keyboard.press('Control+A');
    await page.keyboard.insertText(text);
  }
  const submit = (name: string) => page.getByRole('dialog').getByRole('button', { name, exact: true }).click();

  it.each(['waiting', 'delayed'] as const)('Clean cancels a job that waits (%s)', async (status) => {
    const id = await create(status);
    await press(status, 'Clean');
    await confirm();
    await expect.poll(() => statusOf(id), WAIT).toBe('cancelled');
    await page.getByText(`No ${status} jobs in this queue.`).waitFor();
  });

  it('Clean takes an ended job out of BullMQ alone', async () => {
    const status = 'failed';
    const id = await create(status);
    await press(status, 'Clean');
    await confirm();
    await expect.poll(() => stage.queue.getJobState(id), WAIT).toBe('unknown');
    expect(await statusOf(id)).toBe(status);
  });

  it.each([
    ['delayed', 'cancelled'],
    ['failed', 'failed'],
  ] as const)('Clean all takes all of a state (%s), whose rows are then %s', async (status, after) => {
    const id = await create(status);
    await open(`queue/work?status=${status}`);
    await page.getByRole('button', { name: 'Clean all' }).click();
    await confirm();
    await expect.poll(() => stage.queue.getJobState(id), WAIT).toBe('unknown');
    expect(await statusOf(id)).toBe(after);
  });

  it('Promote and Promote all have delayed jobs run now', async () => {
    const first = await create('delayed');
    await press('delayed', 'Promote');
    await confirm();
    await expect.poll(() => stage.queue.getJobState(first), WAIT).toBe('waiting');
    const second = await create('delayed');
    await open('queue/work?status=delayed');
    await page.getByRole('button', { name: 'Promote all' }).click();
    await confirm();
    await expect.poll(() => stage.queue.getJobState(second), WAIT).toBe('waiting');
    for (const id of [first, second]) expect((await stage.rowOf(id)).run_at.getTime()).toBeLessThan(Date.now() + 1_000);
  });

  it('Reschedule moves the row', async () => {
    const id = await create('delayed');
    await press('delayed', 'Reschedule');
    const field = page.getByRole('dialog').locator('input').first();
    const at = new Date(Date.now() + 24 * HOUR);
    const two = (n: number) => String(n).padStart(2, '0');
    await field.fill(
      `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}T${two(at.getHours())}:${two(at.getMinutes())}`,
    );
    await submit('Save');
    await expect
      .poll(async () => (await stage.rowOf(id)).run_at.getTime(), WAIT)
      .toBeGreaterThan(Date.now() + 23 * HOUR);
  });

  it('Change priority changes the row', async () => {
    const id = await create('prioritized');
    await press('prioritized', 'Change priority');
    await page.getByRole('dialog').locator('input').first().fill('9');
    await submit('Save');
    await expect.poll(async () => JSON.parse((await stage.rowOf(id)).options).priority, WAIT).toBe(9);
  });

  it('Retry and Retry all redrive failed jobs', async () => {
    const id = await create('failed');
    await press('failed', 'Retry');
    await confirm();
    await expect.poll(() => statusOf(id), WAIT).toBe('pending');
    const worker = await stage.work();
    await expect.poll(() => statusOf(id), WAIT).toBe('failed');
    await expect.poll(() => stage.queue.getJobState(id), WAIT).toBe('failed');
    await worker.close();
    await open('queue/work?status=failed');
    await page.getByRole('button', { name: 'Retry all' }).click();
    await confirm();
    await expect.poll(() => statusOf(id), WAIT).toBe('pending');
  });

  it('Retry of a job whose row was cancelled is refused with a sentence', async () => {
    const id = await create('failed');
    await sql`update oncefleet.jobs set status = 'cancelled' where id = ${id}`.execute(stage.db);
    await press('failed', 'Retry');
    await confirm();
    await toast(/was cancelled, which its row in Postgres keeps/);
  });

  it.each(['failed', 'completed'] as const)(
    'Update Data and Duplicate of a job of this fleet are refused with a sentence (%s)',
    async (status) => {
      const id = await create(status);
      const before = (await stage.queue.getJob(id))?.data;
      await press(status, 'Duplicate');
      await submit('Duplicate');
      await toast(/These data name a job of the fleet/);
      if (status !== 'completed') {
        await pressOn(status, 'Update Data');
        await submit('Update');
        await toast(/its input is kept in Postgres and belongs to its key/);
      }
      expect((await stage.queue.getJob(id))?.data).toEqual(before);
      expect(await stage.db.selectFrom('jobs').select('id').execute()).toEqual([{ id }]);
    },
  );

  it('Add job refuses an empty and an unknown name, and enqueues a known one', async () => {
    await pressMenu('Add job');
    await submit('Add');
    await toast(/The job needs a name: queue work runs keep, other/);
    await pressMenu('Add job');
    await page.locator('#job-name').fill('nobody');
    await submit('Add');
    await toast(/No job named "nobody": queue work runs keep, other/);
    await pressMenu('Add job');
    await page.locator('#job-name').fill('keep');
    await write(0, '{"text":"added"}');
    await submit('Add');
    await expect
      .poll(() => stage.db.selectFrom('jobs').select(['name', 'status']).execute(), WAIT)
      .toEqual([{ name: 'keep', status: 'pending' }]);
  });

  it('Pause, Obliterate and Resume: the queue stays paused until it is resumed', async () => {
    const id = await create('waiting');
    await pressMenu('Pause');
    await confirm();
    await page.getByText('[ Paused ]').waitFor();
    expect(await stage.db.selectFrom('paused_queues').select('paused_by').execute()).toEqual([
      { paused_by: 'bull-board' },
    ]);
    await pressMenu('Obliterate');
    await confirm();
    await expect.poll(() => statusOf(id), WAIT).toBe('cancelled');
    await open('queue/work');
    await page.getByText('[ Paused ]').waitFor();
    await pressMenu('Resume');
    await confirm();
    await expect.poll(() => stage.queue.isPaused(), WAIT).toBe(false);
    await expect.poll(() => stage.db.selectFrom('paused_queues').selectAll().execute(), WAIT).toEqual([]);
  });

  it('Obliterate of a queue that runs is refused with a sentence', async () => {
    await pressMenu('Obliterate');
    await confirm();
    await toast(/Queue must be paused before obliteration/);
  });

  it('Empty cancels what waits', async () => {
    const id = await create('waiting');
    await pressMenu('Empty');
    await confirm();
    await expect.poll(() => statusOf(id), WAIT).toBe('cancelled');
  });

  it('Pause all, Resume all and Retry failed of the overview', async () => {
    const id = await create('failed');
    const pick = async (name: string | RegExp) => {
      await open('');
      await openMenu();
      await page.getByRole('menuitem', { name }).click();
      await confirm();
    };
    await pick('Pause all');
    await expect.poll(() => stage.queue.isPaused(), WAIT).toBe(true);
    await pick('Resume all');
    await expect.poll(() => stage.queue.isPaused(), WAIT).toBe(false);
    await pick(/^Retry 1 failed/);
    await expect.poll(() => statusOf(id), WAIT).toBe('pending');
  });

  it('Set concurrency and Set rate limit are kept by BullMQ', async () => {
    await pressMenu('Set concurrency');
    await page.getByRole('dialog').locator('input').first().fill('3');
    await submit('Save');
    await expect.poll(() => stage.queue.getGlobalConcurrency(), WAIT).toBe(3);
    await pressMenu('Set rate limit');
    const fields = page.getByRole('dialog').locator('input');
    await fields.nth(0).fill('7');
    await fields.nth(1).fill('1000');
    await submit('Save');
    await expect.poll(() => stage.queue.getGlobalRateLimit(), WAIT).toEqual({ max: 7, duration: 1_000 });
  });

  it('a scheduler is run and removed; one of a name that no worker knows is not run', async () => {
    for (const [id, name] of [
      ['a-known', 'keep'],
      ['b-unknown', 'nobody'],
    ] as const)
      await stage.queue.upsertJobScheduler(id, { pattern: '0 0 1 1 *' }, { name, data: { text: 'scheduled' } });
    await open('job-schedulers');
    const row = (id: string) => page.locator('tr', { hasText: id });
    const button = async (id: string, title: string) => {
      for (const one of await row(id).getByRole('button').all()) {
        await one.hover();
        if (
          (await one.getAttribute('aria-label')) === title ||
          (await page.getByText(title, { exact: true }).count()) > 0
        )
          return one;
      }
      throw new Error(`no button ${title}`);
    };
    await row('b-unknown').waitFor();
    await (await button('b-unknown', 'Run now')).click();
    await confirm();
    await toast(/No job named "nobody": queue work runs keep, other/);
    await (await button('a-known', 'Run now')).click();
    await confirm();
    await expect.poll(() => stage.queue.getWaitingCount(), WAIT).toBe(1);
    for (const id of ['a-known', 'b-unknown']) {
      await (await button(id, 'Remove scheduler')).click();
      await confirm();
      await row(id).waitFor({ state: 'detached' });
    }
    expect(await stage.queue.getJobSchedulersCount()).toBe(0);
  });

  it('a guarded queue of another client appears, and its buttons act on its rows', async () => {
    const foreign: ForeignQueue = await startForeignQueue(stage);
    const { bullId, rowId } = await foreign.addFailingOnce({ amount: 1, idempotencyKey: randomUUID() });
    await open('');
    await page.getByText(`bull:${foreign.queue.name}`).first().waitFor({ timeout: 25_000 });
    await press('delayed', 'Clean', foreign.shown);
    await confirm();
    await expect.poll(() => statusOf(rowId), WAIT).toBe('cancelled');
    await expect.poll(() => foreign.queue.getJobState(bullId), WAIT).toBe('unknown');
    await foreign.close();
  });
});
