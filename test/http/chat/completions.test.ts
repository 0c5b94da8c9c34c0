import { sql } from 'kysely';
import OpenAI from 'openai';
import OpenAI6 from 'openai6';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { gate, type Harness, startHarness } from '../harness.ts';
import { inject, listenLocally } from '../requests.ts';
import { runs, scripted } from './scripted.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness({}, [scripted]);
});
afterAll(() => harness?.close());

let names = 0;
const newGate = () => `completions-${++names}`;

describe.each([
  ['7', OpenAI],
  ['6', OpenAI6 as unknown as typeof OpenAI],
])('The openai package, major %s,', (_, Client) => {
  const connect = (port = harness.port, apiKey = 'unused') =>
    new Client({ apiKey, baseURL: `http://127.0.0.1:${port}/v1` });
  const messages = (content: string) => [{ role: 'user' as const, content }];
  const stream = (content: string, key?: string) =>
    connect().chat.completions.create(
      { model: 'scripted', messages: messages(content), stream: true, stream_options: { include_usage: true } },
      key === undefined ? {} : { headers: { 'Idempotency-Key': key } },
    );

  it('streams a completion with its reasoning and usage', async () => {
    let [text, reasoning] = ['', ''];
    let last: OpenAI.ChatCompletionChunk | undefined;
    for await (const chunk of await stream(`think:hm Hello usage ${newGate()}`)) {
      const delta = chunk.choices[0]?.delta as { content?: string; reasoning_content?: string } | undefined;
      text += delta?.content ?? '';
      reasoning += delta?.reasoning_content ?? '';
      last = chunk;
    }
    expect(text).toMatch(/^Hello completions-\d+ $/);
    expect(reasoning).toBe('hm');
    expect(last).toMatchObject({ choices: [], usage: { prompt_tokens: 7, completion_tokens: 3, total_tokens: 10 } });
  });

  it('waits for one, once under a key, and is refused another request under it', async () => {
    const script = `once usage ${newGate()}`;
    const create = (content: string) =>
      connect().chat.completions.create(
        { model: 'scripted', messages: messages(content) },
        { headers: { 'Idempotency-Key': script } },
      );
    const [one, two] = await Promise.all([create(script), create(script)]);
    expect(two).toEqual(one);
    expect(one).toMatchObject({
      object: 'chat.completion',
      choices: [{ finish_reason: 'stop', message: { role: 'assistant' } }],
      usage: { total_tokens: 10 },
    });
    expect(runs.get(script)).toBe(1);
    await expect(create('other')).rejects.toMatchObject({ status: 422, code: 'KEY_MISMATCH' });
  });

  it('is cut off in the middle, and has the whole under its key, also after an attempt that started over', async () => {
    const name = newGate();
    const script = `a error b gate:${name} c`;
    const cut = await stream(script, name);
    const reading = (async () => {
      for await (const chunk of cut) if (chunk.choices[0]?.delta.content === 'b ') break;
    })();
    await reading.catch(() => undefined);
    gate.open(name);
    let text = '';
    await expect
      .poll(async () => {
        text = '';
        for await (const chunk of await stream(script, name)) text += chunk.choices[0]?.delta.content ?? '';
        return text;
      })
      .toBe('a b c ');
  });

  it('throws a failure and a cancel, with their message', async () => {
    const read = async (content: string) => {
      for await (const chunk of await stream(content)) {
        if (chunk.choices[0]?.delta.content !== 'begun ') continue;
        const id = chunk.id.slice(9).replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
        await inject(harness.app, { method: 'POST', url: `/v1/jobs/${id}/cancel` });
      }
    };
    await expect(read('half fail')).rejects.toThrow('the script says so');
    await expect(read(`begun gate:${newGate()}`)).rejects.toThrow('The job was cancelled');
    const whole = connect().chat.completions.create({ model: 'scripted', messages: messages('half fail') });
    await expect(whole).rejects.toMatchObject({ status: 500, type: 'server_error' });
  });

  it('throws a failure in the middle by its code, with the text before it, by the helper too', async () => {
    let text = '';
    const reading = async () => {
      for await (const chunk of await stream(`half fail ${newGate()}`)) text += chunk.choices[0]?.delta.content ?? '';
    };
    await expect(reading()).rejects.toMatchObject({ code: 'NON_RETRYABLE', type: 'server_error' });
    expect(text).toBe('half ');
    const helped = connect().chat.completions.stream({ model: 'scripted', messages: messages('half fail') });
    await expect(helped.finalChatCompletion()).rejects.toThrow('the script says so');
    const whole = connect().chat.completions.stream({ model: 'scripted', messages: messages(`a b ${newGate()}`) });
    expect((await whole.finalChatCompletion()).choices[0]?.message.content).toMatch(/^a b completions-\d+ $/);
  });

  it('takes no clean end of a connection that breaks in the middle for an answer', async () => {
    const app = harness.another({}, { board: false });
    const port = await listenLocally(app);
    const name = newGate();
    const reading = async () => {
      const begun = await connect(port).chat.completions.create({
        model: 'scripted',
        messages: messages(`begun gate:${name}`),
        stream: true,
      });
      for await (const chunk of begun) if (chunk.choices[0]?.delta.content === 'begun ') void app.close();
    };
    await expect(reading()).rejects.toThrow();
    gate.open(name);
  });

  it('needs a token where there are some: none, a stranger, one that is over and one of another tenant', async () => {
    const { tokens, db } = harness.fleet;
    const port = await listenLocally(harness.another({ tokens: new Map([['one', 'a']]) }, { board: false }));
    const create = (apiKey: string, headers = {}) =>
      connect(port, apiKey).chat.completions.create({ model: 'scripted', messages: messages('x') }, { headers });
    const unauthorized = { status: 401, code: 'invalid_api_key', type: 'invalid_request_error' };
    const { token, id } = await tokens.create({ name: `over-${newGate()}`, scopes: ['enqueue'], tenant: 'a' });
    const { token: reads } = await tokens.create({ name: `reads-${newGate()}`, scopes: ['read'], tenant: 'a' });
    await sql`update oncefleet.api_tokens set expires_at = clock_timestamp() - interval '1 second' where id = ${id}`.execute(
      db,
    );
    for (const ask of [() => create('stranger'), () => create(token), () => create('one', { authorization: null })])
      await expect(ask()).rejects.toMatchObject(unauthorized);
    await expect(create(reads)).rejects.toMatchObject({ status: 403, code: 'SCOPE_MISSING' });
    // Of two tenants under one key: two answers, and neither is told of the other.
    const { token: foreign } = await tokens.create({ name: `b-${newGate()}`, scopes: ['enqueue'], tenant: 'b' });
    const headers = { 'Idempotency-Key': newGate() };
    const [mine, theirs] = await Promise.all([create('one', headers), create(foreign, headers)]);
    expect(theirs.id).not.toBe(mine.id);
  });

  it('waits as long as it is told where there is no room', async () => {
    const port = await listenLocally(harness.another({ inFlightBytes: 1 }, { board: false }));
    const client = new Client({ apiKey: 'unused', baseURL: `http://127.0.0.1:${port}/v1`, maxRetries: 0 });
    for (const streamed of [false, true]) {
      const refused = client.chat.completions.create({
        model: 'scripted',
        messages: messages('x'),
        stream: streamed,
      });
      await expect(refused).rejects.toMatchObject({
        status: 429,
        code: 'rate_limit_exceeded',
        type: 'rate_limit_error',
      });
      await refused.catch((error: { headers: Headers }) => expect(error.headers.get('retry-after')).toBe('5'));
    }
  });
});

it.each<[object, string, number]>([
  [{ n: 2 }, 'n', 400],
  [{ messages: [] }, 'messages', 400],
  [{ messages: [{ role: 'user', content: [{ type: 'input_audio' }] }] }, 'messages.0.content', 400],
  [{ model: 'nobody' }, 'model', 404],
])('refuses %j in the shape of OpenAI, with its place', async (fields, param, status) => {
  const payload = { model: 'scripted', messages: [{ role: 'user', content: 'x' }], ...fields };
  const answer = await inject(harness.app, { method: 'POST', url: '/v1/chat/completions', payload });
  expect(answer.statusCode).toBe(status);
  expect(answer.json().error.param.startsWith(param.slice(0, 8))).toBe(true);
});
