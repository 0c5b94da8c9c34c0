/** A worker is killed in the middle of answers, with the real packages reading them: the text is right in the end, once. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { DefaultChatTransport } from 'ai';
import { DefaultChatTransport as DefaultChatTransport6 } from 'ai6';
import OpenAI from 'openai';
import OpenAI6 from 'openai6';
import { expect, it, onTestFinished } from 'vitest';
import { createApp } from '../../../src/http/app.ts';
import { silentLogger } from '../../../src/log.ts';
import { useDatabase } from '../../helpers/fixtures.ts';
import { createTestFleet } from '../../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../../helpers/services.ts';
import { listenLocally } from '../requests.ts';
import { Chat6, Chat7, textOf } from './chats.ts';
import { killJobs } from './kill-process.ts';

const file = useDatabase();
const PROCESS = fileURLToPath(new URL('./kill-process.ts', import.meta.url));
const LEASE = { leaseTtlMs: 2_000, heartbeatMs: 300 };
const WAIT = { timeout: 60_000, interval: 50 };
const [BEGUN, WHOLE] = ['one two ', 'one two three '];

interface Asking {
  url: string;
  model: string;
  /** Unlike that of others. */
  question: string;
  /** Called with the text so far, as often as a reader likes. */
  saw(text: string): void;
}

type Event = OpenAI.Responses.ResponseStreamEvent;

/** One stream, to its end. */
async function byResponses(Client: typeof OpenAI, { url, model, question, saw }: Asking): Promise<string> {
  const client = new Client({ apiKey: 'unused', baseURL: `${url}/v1` });
  const stream = await client.responses.create({ model, input: question, stream: true, background: true });
  let [text, itemsDone] = ['', 0];
  for await (const event of stream as AsyncIterable<Event>) {
    if (event.type === 'response.output_item.added') text = '';
    if (event.type === 'response.output_item.done') itemsDone++;
    if (event.type === 'response.output_text.delta') {
      text += event.delta;
      saw(text);
    }
    if (event.type !== 'response.completed') continue;
    const { output } = event.response as { output: unknown[] };
    expect(output).toMatchObject([{ status: 'completed', content: [{ text }] }]);
    const again = await client.responses.retrieve(event.response.id);
    expect(again.output).toEqual(output);
  }
  // What was taken back has an item of its own.
  expect(itemsDone).toBe(model === 'keeps-all' ? 1 : 2);
  return text;
}

/** Cut off where the text is taken back; asked again under its key until it is whole. */
async function byCompletions(Client: typeof OpenAI, { url, model, question, saw }: Asking): Promise<string> {
  const client = new Client({ apiKey: 'unused', baseURL: `${url}/v1` });
  let cuts = 0;
  for (;;) {
    let text = '';
    try {
      const stream = await client.chat.completions.create(
        { model, messages: [{ role: 'user', content: question }], stream: true },
        { headers: { 'Idempotency-Key': question } },
      );
      let reason: string | null | undefined;
      for await (const { choices } of stream) {
        text += choices[0]?.delta.content ?? '';
        reason = choices[0]?.finish_reason ?? reason;
        saw(text);
      }
      expect(reason).toBe('stop');
      expect(cuts).toBe(model === 'keeps-all' ? 0 : 1);
      return text;
    } catch (error) {
      expect(text).toBe(BEGUN);
      if (++cuts > 1) throw error;
    }
  }
}

/** Resumed where it is cut off; with `reset-step` it never is. */
async function byChat(
  [Chat, Transport, query]: readonly [typeof Chat7, typeof DefaultChatTransport, string],
  { url, model, question, saw }: Asking,
): Promise<string> {
  const id = crypto.randomUUID();
  const open = (messages: InstanceType<typeof Chat7>['messages']) => {
    const transport = new Transport({
      api: `${url}/api/chat`,
      body: { model },
      prepareSendMessagesRequest: ({ id: chat, messages: all }) => ({
        api: `${url}/api/chat${query}`,
        body: { id: chat, messages: all, model },
      }),
    });
    return new Chat({ id, messages, transport });
  };
  const chat = open([]);
  const asked = chat.sendMessage({ text: question });
  await expect.poll(() => textOf(chat.messages[1]), WAIT).toBe(BEGUN);
  saw(textOf(chat.messages[1]));
  await asked;
  const cut = model !== 'keeps-all' && query === '';
  expect([chat.error?.message, chat.status, textOf(chat.messages[1])]).toEqual(
    cut ? [expect.any(String), 'error', BEGUN] : [undefined, 'ready', WHOLE],
  );
  if (!cut) return textOf(chat.messages[1]);
  let again = open(chat.messages.slice(0, 1));
  await again.resumeStream();
  if (again.messages.length === 1) {
    // It had ended before the page came back: the same question in the same chat has the same answer.
    again = open([]);
    await again.sendMessage(chat.messages[0] as never);
  }
  expect(again.error).toBeUndefined();
  const answers = again.messages.filter(({ role }) => role === 'assistant');
  expect(answers.map((message) => message.id)).toEqual([chat.messages[1]?.id]);
  return textOf(answers[0]);
}

const READERS: Readonly<Record<string, (asking: Asking) => Promise<string>>> = {
  'responses, openai 7': (asking) => byResponses(OpenAI, asking),
  'responses, openai 6': (asking) => byResponses(OpenAI6 as unknown as typeof OpenAI, asking),
  'completions, openai 7': (asking) => byCompletions(OpenAI, asking),
  'completions, openai 6': (asking) => byCompletions(OpenAI6 as unknown as typeof OpenAI, asking),
  'useChat, ai 7': (asking) => byChat([Chat7, DefaultChatTransport, ''], asking),
  'useChat, ai 7, reset-step': (asking) => byChat([Chat7, DefaultChatTransport, '?reset-step=true'], asking),
  'useChat, ai 6': (asking) =>
    byChat([Chat6, DefaultChatTransport6 as unknown as typeof DefaultChatTransport, ''], asking),
};

function startWorker(options: object) {
  const worker = fork(PROCESS, [JSON.stringify(options)], {
    execArgv: ['--conditions=oncefleet-source'],
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  const gone = once(worker, 'exit');
  const kill = async () => {
    worker.kill('SIGKILL');
    await gone;
  };
  onTestFinished(kill);
  return kill;
}

it.each(killJobs.map(({ name }) => name))('of a job that %s', { timeout: 120_000 }, async (model) => {
  const options = { databaseUrl: file.url, redisUrl: testRedisUrl(), prefix: uniquePrefix(), ...LEASE };
  const fleet = createTestFleet(file.url, killJobs, { prefix: options.prefix, ...LEASE });
  const config = { tokens: undefined, adminToken: undefined, tenant: 'default', bodyLimitBytes: 64 * 1024 };
  const app = createApp({ client: fleet, log: silentLogger(), config, board: false });
  onTestFinished(() => app.close());
  const url = `http://127.0.0.1:${await listenLocally(app)}`;
  const kill = startWorker(options);
  const begun = new Set<string>();
  const reading = Object.entries(READERS).map(async ([name, read]) => {
    const saw = (text: string) => {
      if (text === BEGUN) begun.add(name);
    };
    return [name, await read({ url, model, question: `${model}, ${name}`, saw })];
  });
  const ended = Promise.all(reading);
  ended.catch(() => undefined);
  await Promise.race([ended, expect.poll(() => begun.size, WAIT).toBe(reading.length)]);
  // Words are seen before the checkpoint after them is durable.
  const checkpoints = file.db
    .selectFrom('jobs')
    .select('id')
    .where('name', '=', model)
    .where('checkpoint', 'is not', null);
  if (model !== 'starts-over')
    await expect.poll(async () => (await checkpoints.execute()).length, WAIT).toBe(reading.length);
  await kill();
  startWorker(options);
  expect(Object.fromEntries(await ended)).toEqual(
    Object.fromEntries(Object.keys(READERS).map((name) => [name, WHOLE])),
  );
});
