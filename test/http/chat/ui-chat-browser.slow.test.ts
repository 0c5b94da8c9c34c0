/** A page with `useChat` in a browser, loaded again in the middle of an answer. */
import { join } from 'node:path';
import type { Page } from 'playwright-core';
import { build, type Rolldown } from 'vite';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Browser, findChromium, openBrowser } from '../../helpers/browser.ts';
import { gate, type Harness, startHarness } from '../harness.ts';
import { scripted } from './scripted.ts';

const program = findChromium();
if (program === undefined)
  process.stderr.write('Chromium is not installed: the test of useChat is skipped (apt-get install chromium)\n');

const WAIT = { timeout: 20_000, interval: 50 };

/** The page keeps the questions that it has asked, and no answers. */
const PAGE = `
  import { useChat } from '@ai-sdk/react';
  import { DefaultChatTransport } from 'ai';
  import { createElement as h, useEffect } from 'react';
  import { createRoot } from 'react-dom/client';

  const transport = new DefaultChatTransport({ body: { model: 'scripted' } });
  const saved = JSON.parse(localStorage.getItem('messages') ?? '[]');

  function Chat() {
    const { messages, sendMessage, status } = useChat({ id: 'page', messages: saved, transport, resume: saved.length > 0 });
    useEffect(() => {
      localStorage.setItem('messages', JSON.stringify(messages.filter(({ role }) => role === 'user')));
    }, [messages]);
    const textOf = ({ parts }) => parts.map((part) => (part.type === 'text' ? part.text : '')).join('');
    const onSubmit = (event) => {
      event.preventDefault();
      sendMessage({ text: new FormData(event.currentTarget).get('text') });
    };
    return h('main', null,
      messages.map((message) => h('p', { key: message.id, className: message.role }, textOf(message))),
      h('form', { onSubmit }, h('input', { name: 'text' }), h('button', null, 'Ask')),
      h('output', null, status));
  }
  createRoot(document.getElementById('root')).render(h(Chat));
`;

async function bundle(): Promise<string> {
  const entry = join(import.meta.dirname, 'chat-page.js');
  const built = (await build({
    configFile: false,
    logLevel: 'silent',
    define: { 'process.env.NODE_ENV': '"production"' },
    plugins: [
      {
        name: 'chat-page',
        enforce: 'pre',
        resolveId: (id) => (id === entry ? id : null),
        load: (id) => (id === entry ? PAGE : null),
      },
    ],
    build: { write: false, minify: false, rolldownOptions: { input: entry } },
  })) as Rolldown.RolldownOutput;
  return built.output[0].code;
}

describe.skipIf(program === undefined)('useChat in a browser', { timeout: 60_000 }, () => {
  let harness: Harness;
  let browser: Browser;
  let page: Page;
  beforeAll(async () => {
    const [started, script] = await Promise.all([startHarness({}, [scripted]), bundle()]);
    harness = started;
    browser = await openBrowser(program as string);
    page = browser.page;
    await page.route('**/chat', (route) =>
      route.request().method() === 'GET'
        ? route.fulfill({
            contentType: 'text/html',
            body: '<div id="root"></div><script type="module" src="/chat.js"></script>',
          })
        : route.continue(),
    );
    await page.route('**/chat.js', (route) => route.fulfill({ contentType: 'text/javascript', body: script }));
  }, 60_000);
  afterAll(async () => {
    await browser?.close();
    await harness?.close();
  });

  const answers = () => page.locator('.assistant').allTextContents();

  it('loaded again in the middle of an answer, the page shows it complete, once', async () => {
    await page.goto(harness.url('/chat'));
    await page.locator('input').fill('one two gate:page three gate:page four');
    await page.getByRole('button').click();
    await expect.poll(answers, WAIT).toEqual(['one two ']);
    await page.reload();
    await expect.poll(answers, WAIT).toEqual(['one two ']);
    gate.open('page');
    await expect.poll(answers, WAIT).toEqual(['one two three ']);
    await page.reload();
    await expect.poll(answers, WAIT).toEqual(['one two three ']);
    gate.open('page');
    await expect.poll(answers, WAIT).toEqual(['one two three four ']);
    await expect.poll(() => page.locator('output').textContent(), WAIT).toBe('ready');
    expect(await page.locator('.user').count()).toBe(1);
  });
});
