import { DefaultChatTransport, type UIMessage } from 'ai';
import { DefaultChatTransport as DefaultChatTransport6 } from 'ai6';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { gate, type Harness, startHarness } from '../harness.ts';
import { inject, listenLocally } from '../requests.ts';
import { Chat6, Chat7, textOf } from './chats.ts';
import { runs, scripted } from './scripted.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness({}, [scripted]);
});
afterAll(() => harness?.close());

let names = 0;
/** A gate of the test's own, which is also what makes its script unlike others. */
const newGate = () => `ui-${++names}`;

const post = (path: string, headers: Record<string, string> = {}) =>
  fetch(harness.url(path), { method: 'POST', headers });

describe.each([
  ['7', Chat7, DefaultChatTransport],
  ['6', Chat6, DefaultChatTransport6 as unknown as typeof DefaultChatTransport],
] as const)('useChat of the ai package, major %s,', (_, Chat, Transport) => {
  const transportTo = (options: ConstructorParameters<typeof Transport>[0] = {}) =>
    new Transport({ api: harness.url('/api/chat'), body: { model: 'scripted' }, ...options });
  const open = (id: string, messages: UIMessage[] = [], options?: ConstructorParameters<typeof Transport>[0]) =>
    new Chat({ id, messages, transport: transportTo(options) });
  /** A chat whose answer has come as far as its gate. */
  const askTo = async (text: string, before: string) => {
    const id = crypto.randomUUID();
    const chat = open(id);
    const answered = chat.sendMessage({ text });
    await expect.poll(() => textOf(chat.messages[1]), { timeout: 15_000 }).toBe(before);
    return { id, chat, answered };
  };

  it('streams an answer with its reasoning, sources and data', async () => {
    const chat = open(crypto.randomUUID());
    await chat.sendMessage({ text: `think:hm sources data:Oslo Hello usage ${newGate()}` });
    expect(chat.error).toBeUndefined();
    expect(chat.status).toBe('ready');
    const [, message] = chat.messages;
    expect(message?.role).toBe('assistant');
    expect(message?.id).toMatch(/^msg_[0-9a-f]{32}$/);
    expect(message?.parts).toMatchObject([
      { type: 'step-start' },
      { type: 'reasoning', text: 'hm', state: 'done' },
      { type: 'source-document', sourceId: '1', mediaType: 'text/markdown', title: 'Start', filename: 'guide.md' },
      { type: 'data-weather', data: { city: 'Oslo' } },
      { type: 'text', text: expect.stringMatching(/^Hello ui-\d+ $/), state: 'done' },
      { type: 'data-usage', id: 'usage', data: { inputTokens: 7, outputTokens: 3 } },
    ]);
  });

  it('gets a conversation across, without what is no text', async () => {
    const chat = open(crypto.randomUUID());
    await chat.sendMessage({ text: 'think:hm sources first' });
    await chat.sendMessage({ text: 'history second' });
    expect(textOf(chat.messages[3])).toBe('[user=think:hm sources first|assistant=first ]second ');
  });

  it('reloaded in the middle of an answer resumes it: the same message, whole, once', async () => {
    const name = newGate();
    const { id, chat, answered } = await askTo(`one two gate:${name} three`, 'one two ');
    await chat.stop();
    await answered;
    const again = open(id, chat.messages.slice(0, 1));
    const resumed = again.resumeStream();
    await expect.poll(() => textOf(again.messages[1])).toBe('one two ');
    expect(again.messages[1]?.id).toBe(chat.messages[1]?.id);
    gate.open(name);
    await resumed;
    expect(again.error).toBeUndefined();
    expect(textOf(again.messages[1])).toBe('one two three ');
    expect(again.messages).toHaveLength(2);
  });

  it('finds nothing to resume where nothing is in flight', async () => {
    const id = crypto.randomUUID();
    const transport = transportTo();
    expect(await transport.reconnectToStream({ chatId: id })).toBeNull();
    const chat = open(id);
    await chat.sendMessage({ text: 'done' });
    expect(await transport.reconnectToStream({ chatId: id })).toBeNull();
    const response = await fetch(harness.url(`/api/chat/${id}/stream`));
    expect(response.status).toBe(204);
  });

  it('asks once, however often the same message is sent; edited it is another, and so is a new answer to it', async () => {
    const id = crypto.randomUUID();
    const text = `a ${newGate()}`;
    const message = { id: `m-${text}`, role: 'user' as const, parts: [{ type: 'text' as const, text }] };
    const chats = [open(id), open(id)];
    await Promise.all(chats.map((chat) => chat.sendMessage(message)));
    expect(runs.get(text)).toBe(1);
    const [chat, other] = chats as [InstanceType<typeof Chat7>, InstanceType<typeof Chat7>];
    expect(chat.messages).toEqual(other.messages);
    expect(textOf(chat.messages[1])).toBe(`${text} `);
    await chat.regenerate();
    expect(runs.get(text)).toBe(2);
    expect(chat.messages).toHaveLength(2);
    expect(chat.messages[1]?.id).not.toBe(other.messages[1]?.id);
    await chat.sendMessage({ text: `b ${text}`, messageId: message.id });
    expect(textOf(chat.messages[1])).toBe(`b ${text} `);
    // The same id in another chat is another message.
    await open(crypto.randomUUID()).sendMessage(message);
    expect(runs.get(text)).toBe(3);
  });

  it('goes on when its page is left, and is stopped by a request; again is the same as once', async () => {
    const { id, chat, answered } = await askTo(`begun gate:${newGate()}`, 'begun ');
    await chat.stop();
    await answered;
    const again = open(id, chat.messages.slice(0, 1));
    const resumed = again.resumeStream();
    await expect.poll(() => textOf(again.messages[1])).toBe('begun ');
    const stopped = await post(`/api/chat/${id}/stop`);
    expect(stopped.status).toBe(200);
    const { id: jobId } = (await stopped.json()) as { id: string };
    await resumed;
    expect(again.error).toBeUndefined();
    expect(textOf(again.messages[1])).toBe('begun ');
    expect((await harness.fleet.get(jobId))?.status).toBe('cancelled');
    expect((await post(`/api/chat/${id}/stop`)).status).toBe(200);
  });

  it('is told of a failure, with the text so far', async () => {
    const chat = open(crypto.randomUUID());
    await chat.sendMessage({ text: `half fail ${newGate()}` });
    expect(chat.status).toBe('error');
    expect(chat.error?.message).toBe('the script says so');
    expect(textOf(chat.messages[1])).toBe('half ');
  });

  it('is cut off where an attempt starts over, and resumed has the last one alone', async () => {
    const name = newGate();
    const first = newGate();
    const { id, chat, answered } = await askTo(`a gate:${first} error b gate:${name} c`, 'a ');
    gate.open(first, 2);
    await answered;
    expect(chat.status).toBe('error');
    const again = open(id, chat.messages.slice(0, 1));
    const resumed = again.resumeStream();
    await expect.poll(() => textOf(again.messages[1]), { timeout: 15_000 }).toBe('a b ');
    gate.open(name);
    await resumed;
    expect(again.error).toBeUndefined();
    expect(textOf(again.messages[1])).toBe('a b c ');
  });
});

it('A client that understands reset-step starts over within the answer', async () => {
  const transport = new DefaultChatTransport({
    api: harness.url('/api/chat?reset-step=true'),
    body: { model: 'scripted' },
  });
  const chat = new Chat7({ id: crypto.randomUUID(), transport });
  await chat.sendMessage({ text: `think:x a error b ${newGate()}` });
  expect(chat.error).toBeUndefined();
  expect(textOf(chat.messages[1])).toMatch(/^a b ui-\d+ $/);
  expect(chat.messages[1]?.parts.filter(({ type }) => type === 'reasoning')).toHaveLength(1);
});

/** As `WorkflowChatTransport` calls: JSON without its type, and chunks counted. */
describe('A client that counts chunks', () => {
  const bodyOf = (text: string, id: string = crypto.randomUUID()) =>
    JSON.stringify({
      id,
      model: 'scripted',
      trigger: 'submit-message',
      messages: [{ id: `m-${text}`, role: 'user', parts: [{ type: 'text', text }] }],
    });
  const ask = (text: string) => fetch(harness.url('/api/chat'), { method: 'POST', body: bodyOf(text) });
  const framesOf = async (response: Response) => (await response.text()).split('\n\n').slice(0, -1);

  it('goes on from any of them by the id of the run, also after the end', async () => {
    const response = await ask(`a error b ${newGate()}`);
    expect(response.status).toBe(200);
    expect(response.headers.get('content-type')).toBe('text/event-stream');
    expect(response.headers.get('x-vercel-ai-ui-message-stream')).toBe('v1');
    expect(response.headers.get('x-accel-buffering')).toBe('no');
    expect(response.headers.get('cache-control')).toContain('no-cache');
    const run = response.headers.get('x-workflow-run-id') as string;
    const frames = await framesOf(response);
    expect(frames.at(-1)).toBe('data: [DONE]');
    expect(frames.filter((frame) => frame.includes('"reset-step"'))).toHaveLength(1);
    for (const from of [0, 3, frames.length - 1, frames.length + 5]) {
      const rest = await fetch(harness.url(`/api/chat/${run}/stream?startIndex=${from}`));
      expect(rest.status).toBe(200);
      const expected = from >= frames.length ? frames.slice(-1) : frames.slice(from);
      expect(await framesOf(rest)).toEqual(expected);
    }
  });

  it.each([
    ['GET', 'stream'],
    ['POST', 'stop'],
  ] as const)('is refused an id with a NUL: %s …/%s', async (method, path) => {
    const bad = await inject(harness.app, { method, url: `/api/chat/a%00/${path}` });
    expect([bad.statusCode, bad.json().code]).toEqual([400, 'INPUT_INVALID']);
  });

  it.each(['-1', 'x', '1.5'])('is refused startIndex=%s, and a run that is not there is 404', async (from) => {
    const bad = await inject(harness.app, `/api/chat/x/stream?startIndex=${from}`);
    expect([bad.statusCode, bad.json().code]).toEqual([400, 'INPUT_INVALID']);
    const absent = await inject(harness.app, `/api/chat/${crypto.randomUUID()}/stream?startIndex=0`);
    expect([absent.statusCode, absent.json().code]).toEqual([404, 'JOB_NOT_FOUND']);
  });
});

describe('A bad request is refused with its place', () => {
  const message = { id: 'm', role: 'user', parts: [{ type: 'text', text: 'x' }] };
  const good = { id: 'c', model: 'scripted', messages: [message] };
  it.each<[unknown, string | undefined, number]>([
    [undefined, undefined, 400],
    [[], '', 400],
    [{ ...good, id: 7 }, 'id', 400],
    [{ ...good, id: '' }, 'id', 400],
    [{ ...good, id: 'a\0' }, 'id', 400],
    [{ ...good, id: '\ud83d' }, 'id', 400],
    [{ ...good, id: 'x'.repeat(201) }, 'id', 400],
    [{ ...good, messages: [] }, 'messages', 400],
    [{ ...good, messages: 'x' }, 'messages', 400],
    [{ ...good, messages: [{ ...message, role: 'assistant' }] }, 'messages', 400],
    [{ ...good, messages: [{ ...message, parts: [{ type: 'file', url: 'data:' }] }] }, 'messages[0].parts', 400],
    [{ ...good, messages: [{ ...message, parts: [{ type: 'text', text: '' }] }] }, 'messages', 400],
    [{ ...good, trigger: 'other' }, 'trigger', 400],
    [{ ...good, model: 'nobody' }, undefined, 404],
    [{ ...good, model: undefined }, undefined, 404],
  ])('%j', async (payload, path, status) => {
    const answer = await inject(harness.app, {
      method: 'POST',
      url: '/api/chat',
      headers: { 'content-type': 'application/json' },
      ...(payload === undefined ? {} : { payload: JSON.stringify(payload) }),
    });
    expect(answer.statusCode).toBe(status);
    expect(answer.headers['content-type']).toBe('application/problem+json');
    expect((answer.json() as { issues?: { path: string }[] }).issues?.[0]?.path).toBe(path);
  });
});

it('A chat is of its tenant alone', async () => {
  const tokens = new Map([
    ['one', 'a'],
    ['two', 'b'],
  ]);
  const port = await listenLocally(harness.another({ tokens }, { board: false }));
  const name = newGate();
  const id = crypto.randomUUID();
  const call = (path: string, token: string | undefined, init: RequestInit = {}) =>
    fetch(`http://127.0.0.1:${port}/api/chat${path}`, {
      ...init,
      headers: {
        'content-type': 'application/json',
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      },
    });
  const messages = [{ id: 'm', role: 'user', parts: [{ type: 'text', text: `x gate:${name}` }] }];
  const body = JSON.stringify({ id, model: 'scripted', messages });
  const asked = await call('', 'one', { method: 'POST', body });
  const run = asked.headers.get('x-workflow-run-id') as string;
  for (const path of [id, run]) {
    expect((await call(`/${path}/stream`, 'two')).status).toBe(204);
    expect((await call(`/${path}/stream?startIndex=0`, 'two')).status).toBe(404);
    expect((await call(`/${path}/stop`, 'two', { method: 'POST', body: '{}' })).status).toBe(404);
    expect((await call(`/${path}/stream`, undefined)).status).toBe(401);
  }
  gate.open(name);
  expect(await asked.text()).toContain('[DONE]');
  const preflight = await call('', undefined, { method: 'OPTIONS' });
  expect(preflight.status).toBe(204);
  expect(preflight.headers.get('access-control-allow-origin')).toBe('*');
});
