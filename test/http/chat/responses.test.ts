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
/** A gate of the test's own, which is also what makes its script unlike others. */
const newGate = () => `responses-${++names}`;

type Event = OpenAI.Responses.ResponseStreamEvent;

async function readAll(stream: AsyncIterable<unknown>): Promise<Event[]> {
  const events: Event[] = [];
  for await (const event of stream) events.push(event as Event);
  return events;
}

const textOf = (events: readonly Event[]) =>
  events.map((event) => (event.type === 'response.output_text.delta' ? event.delta : '')).join('');

/** Of a response that the helper made: the older major leaves `output_text` out. */
const outputOf = ({ output }: { output: unknown[] }) =>
  (output as { content: { text: string }[] }[]).map(({ content }) => content[0]?.text).join('');

describe.each([
  ['7', OpenAI],
  ['6', OpenAI6 as unknown as typeof OpenAI],
])('The openai package, major %s,', (_, Client) => {
  const connect = (options: { apiKey?: string; port?: number; maxRetries?: number } = {}) =>
    new Client({
      apiKey: options.apiKey ?? 'unused',
      baseURL: `http://127.0.0.1:${options.port ?? harness.port}/v1`,
      maxRetries: options.maxRetries ?? 2,
    });

  it('streams a response, event by event in their order', async () => {
    const name = newGate();
    gate.open(name);
    const stream = await connect().responses.create({
      model: 'scripted',
      input: `sources Hello gate:${name} world usage`,
      stream: true,
      background: true,
    });
    const events = await readAll(stream);
    expect(events.map(({ type }) => type)).toEqual([
      'response.created',
      'response.queued',
      'response.in_progress',
      'response.output_item.added',
      'response.content_part.added',
      'response.output_text.delta',
      'response.output_text.delta',
      'response.output_text.annotation.added',
      'response.output_text.done',
      'response.content_part.done',
      'response.output_item.done',
      'response.completed',
    ]);
    expect(events.map(({ sequence_number: number }) => number)).toEqual(events.map((_event, index) => index));
    const last = events.at(-1) as OpenAI.Responses.ResponseCompletedEvent;
    expect(last.response).toMatchObject({
      object: 'response',
      status: 'completed',
      background: true,
      model: 'scripted',
      error: null,
      usage: { input_tokens: 7, output_tokens: 3, total_tokens: 10 },
      output: [
        {
          type: 'message',
          role: 'assistant',
          status: 'completed',
          content: [
            {
              type: 'output_text',
              text: 'Hello world ',
              annotations: [{ type: 'file_citation', file_id: 'doc-1', filename: 'guide.md', index: 0 }],
            },
          ],
        },
      ],
    });
  });

  it('whose socket is cut in the middle resumes by starting_after, and late readers get the same events', async () => {
    const client = connect();
    const name = newGate();
    const seen: Event[] = [];
    const stream = await client.responses.create({
      model: 'scripted',
      input: `one two gate:${name} three`,
      stream: true,
      background: true,
    });
    for await (const event of stream) {
      seen.push(event);
      if (textOf(seen) === 'one two ') break;
    }
    stream.controller.abort();
    gate.open(name);
    const { id } = (seen[0] as OpenAI.Responses.ResponseCreatedEvent).response;
    const last = seen.at(-1)?.sequence_number as number;
    const rest = await readAll(await client.responses.retrieve(id, { stream: true, starting_after: last }));
    const all = await readAll(await client.responses.retrieve(id, { stream: true }));
    expect([...seen, ...rest]).toEqual(all);
    expect(textOf(all)).toBe('one two three ');
    const past = all.at(-1)?.sequence_number as number;
    expect(await readAll(await client.responses.retrieve(id, { stream: true, starting_after: past }))).toEqual([]);
  });

  it('has its helper make the response of the events, live and from an earlier one on', async () => {
    const client = connect();
    const stream = client.responses.stream({ model: 'scripted', input: `sources a b ${newGate()}` });
    const response = await stream.finalResponse();
    expect(outputOf(response)).toMatch(/^a b responses-\d+ $/);
    const again = client.responses.stream({ response_id: response.id, starting_after: 4 } as never);
    expect(outputOf(await again.finalResponse())).toBe(outputOf(response));
  });

  it('waits for a response, and reads it again', async () => {
    const client = connect();
    const response = await client.responses.create({
      model: 'scripted',
      input: [{ role: 'user', content: [{ type: 'input_text', text: 'just this' }] }],
      instructions: 'Be brief.',
      metadata: { purpose: 'test' },
      temperature: 0.2,
    });
    expect(response).toMatchObject({
      status: 'completed',
      output_text: 'just this ',
      instructions: 'Be brief.',
      metadata: { purpose: 'test' },
      temperature: 0.2,
    });
    expect(await client.responses.retrieve(response.id)).toEqual(response);
    const items = await client.responses.inputItems.list(response.id);
    expect(items.data).toMatchObject([{ role: 'user', content: [{ type: 'input_text', text: 'just this' }] }]);
  });

  it('polls a background response until it has ended', async () => {
    const client = connect();
    const name = newGate();
    const begun = await client.responses.create({ model: 'scripted', input: `x gate:${name}`, background: true });
    expect(['queued', 'in_progress']).toContain(begun.status);
    await expect
      .poll(async () => (await client.responses.retrieve(begun.id)).output_text, { timeout: 15_000 })
      .toBe('x ');
    expect((await client.responses.retrieve(begun.id)).status).toBe('in_progress');
    gate.open(name);
    await expect.poll(async () => (await client.responses.retrieve(begun.id)).status).toBe('completed');
  });

  it('continues a conversation by previous_response_id, and each branch has its own', async () => {
    const client = connect();
    const first = await client.responses.create({ model: 'scripted', input: 'first' });
    const continued = await client.responses.create({
      model: 'scripted',
      input: 'history a',
      previous_response_id: first.id,
    });
    expect(continued.output_text).toBe('[user=first|assistant=first ]a ');
    const branch = await client.responses.create({
      model: 'scripted',
      input: 'history b',
      previous_response_id: first.id,
    });
    expect(branch.output_text).toBe('[user=first|assistant=first ]b ');
    const third = await client.responses.create({
      model: 'scripted',
      input: 'history c',
      previous_response_id: branch.id,
    });
    expect(third.output_text).toContain('|user=history b|assistant=[user=first|assistant=first ]b ]c ');
    expect((await client.responses.inputItems.list(third.id)).data).toHaveLength(1);
    const absent = client.responses.create({ model: 'scripted', input: 'x', previous_response_id: 'resp_1' });
    await expect(absent).rejects.toMatchObject({ status: 400, param: 'previous_response_id' });
  });

  it('creates once under a key, and is refused another request under it without trying again', async () => {
    const client = connect();
    const script = `once ${newGate()}`;
    const headers = { 'Idempotency-Key': script };
    const create = (input: string, instructions?: string) =>
      client.responses.create({ model: 'scripted', input, instructions: instructions ?? null }, { headers });
    const [one, two] = await Promise.all([create(script), create(script)]);
    expect(two).toEqual(one);
    const { response } = await client.responses
      .create({ model: 'scripted', input: script }, { headers })
      .withResponse();
    expect(response.headers.get('idempotency-replayed')).toBe('true');
    expect(runs.get(script)).toBe(1);
    for (const other of [create('other'), create(script, 'other')])
      await expect(other).rejects.toMatchObject({ status: 422, code: 'KEY_MISMATCH' });
    expect(runs.get('other')).toBeUndefined();
  });

  it('cancels a response; again is the same as once', async () => {
    const client = connect();
    const stream = await client.responses.create({
      model: 'scripted',
      input: `begun gate:${newGate()}`,
      stream: true,
      background: true,
    });
    const events: Event[] = [];
    for await (const event of stream) {
      events.push(event);
      if (event.type !== 'response.output_text.delta') continue;
      const { id } = (events[0] as OpenAI.Responses.ResponseCreatedEvent).response;
      expect((await client.responses.cancel(id)).status).toBe('cancelled');
      expect((await client.responses.cancel(id)).status).toBe('cancelled');
    }
    const last = events.at(-1) as OpenAI.Responses.ResponseIncompleteEvent;
    expect(last).toMatchObject({
      type: 'response.incomplete',
      response: { status: 'cancelled', incomplete_details: { reason: 'cancelled' } },
    });
    expect(await client.responses.retrieve(last.response.id)).toMatchObject({
      status: 'cancelled',
      output_text: 'begun ',
    });
  });

  it('deletes a response, which nobody finds then', async () => {
    const client = connect();
    const { id } = await client.responses.create({ model: 'scripted', input: 'gone' });
    await client.responses.delete(id);
    for (const call of [() => client.responses.retrieve(id), () => client.responses.delete(id)])
      await expect(call()).rejects.toMatchObject({ status: 404, code: 'JOB_NOT_FOUND' });
  });

  it('is told of a failure with the text so far, by the helper too', async () => {
    const client = connect();
    const helped = await client.responses.stream({ model: 'scripted', input: 'half fail' }).finalResponse();
    expect(outputOf(helped)).toBe('half ');
    // The helper of the older major knows no failure: its status is that of the stream's start.
    expect(await client.responses.retrieve(helped.id)).toMatchObject({
      status: 'failed',
      error: { code: 'server_error', message: 'the script says so' },
      output: [{ status: 'incomplete', content: [{ text: 'half ' }] }],
    });
  });

  it('has the last attempt alone in the output, after one that started over', async () => {
    const client = connect();
    const events = await readAll(
      await client.responses.create({ model: 'scripted', input: 'a error b', stream: true, background: true }),
    );
    const added = events.flatMap((event) => (event.type === 'response.output_item.added' ? [event] : []));
    expect(added.map(({ output_index: index }) => index)).toEqual([0, 1]);
    const { response } = events.at(-1) as OpenAI.Responses.ResponseCompletedEvent;
    expect(response.output).toMatchObject([{ id: added[1]?.item.id, content: [{ text: 'a b ' }] }]);
    const again = await client.responses.stream({ model: 'scripted', input: 'c error d' }).finalResponse();
    expect(outputOf(again)).toBe('c d ');
  });

  it('lists models', async () => {
    const client = connect();
    const ids: string[] = [];
    for await (const model of client.models.list()) ids.push(model.id);
    expect(ids).toEqual(['scripted']);
    expect(await client.models.retrieve('scripted')).toMatchObject({ id: 'scripted', object: 'model' });
    await expect(client.models.retrieve('other')).rejects.toMatchObject({ status: 404, code: 'model_not_found' });
  });

  it('sees what is of its tenant alone', async () => {
    const app = harness.another(
      {
        tokens: new Map([
          ['one', 'a'],
          ['two', 'b'],
        ]),
      },
      { board: false },
    );
    const port = await listenLocally(app);
    const { id } = await connect({ apiKey: 'one', port }).responses.create({ model: 'scripted', input: 'mine' });
    const other = connect({ apiKey: 'two', port });
    for (const call of [
      () => other.responses.retrieve(id),
      () => other.responses.retrieve(id, { stream: true }),
      () => other.responses.cancel(id),
      () => other.responses.delete(id),
      () => other.responses.inputItems.list(id).then(() => undefined),
    ])
      await expect(call()).rejects.toMatchObject({ status: 404 });
    const stranger = connect({ apiKey: 'three', port }).responses.retrieve(id);
    await expect(stranger).rejects.toMatchObject({ status: 401, code: 'invalid_api_key' });
  });

  it('waits as long as it is told where there is no room', async () => {
    const app = harness.another({ inFlightBytes: 1 }, { board: false });
    const answer = await inject(app, {
      method: 'POST',
      url: '/v1/responses',
      payload: { model: 'scripted', input: 'x' },
    });
    expect(answer.statusCode).toBe(429);
    const port = await listenLocally(app);
    const refused = connect({ port, maxRetries: 0 }).responses.create({ model: 'scripted', input: 'x' });
    await expect(refused).rejects.toMatchObject({ status: 429, code: 'rate_limit_exceeded' });
    await refused.catch((error: { headers: Headers }) => expect(error.headers.get('retry-after')).toBe('5'));
  });
});

describe('A bad request is refused in the shape of OpenAI, with its place', () => {
  it.each<[unknown, string | null, number]>([
    [undefined, null, 400],
    [[], '', 400],
    [{ input: 'x' }, 'model', 400],
    [{ model: 7, input: 'x' }, 'model', 400],
    [{ model: 'nobody', input: 'x' }, 'model', 404],
    [{ model: 'scripted' }, 'input', 400],
    [{ model: 'scripted', input: [] }, 'input', 400],
    [{ model: 'scripted', input: '' }, 'input', 400],
    [{ model: 'scripted', input: 'x'.repeat(3_000) }, 'input', 400],
    [{ model: 'scripted', input: [{ role: 'user', content: [{ type: 'input_image' }] }] }, 'input', 400],
    [{ model: 'scripted', input: [{ role: 'assistant', content: 'x' }] }, 'input', 400],
    [{ model: 'scripted', input: 'x', metadata: { a: 1 } }, 'metadata.a', 400],
    [{ model: 'scripted', input: 'x', stream: 'yes' }, 'stream', 400],
    [{ model: 'scripted', input: 'x', previous_response_id: 'resp_0' }, 'previous_response_id', 400],
  ])('%j', async (payload, param, status) => {
    const answer = await inject(harness.app, {
      method: 'POST',
      url: '/v1/responses',
      headers: { 'content-type': 'application/json' },
      ...(payload === undefined ? {} : { payload: JSON.stringify(payload) }),
    });
    expect(answer.statusCode).toBe(status);
    expect(answer.headers['x-request-id']).toEqual(expect.any(String));
    expect(answer.json()).toEqual({
      error: {
        message: expect.any(String),
        type: 'invalid_request_error',
        code: expect.any(String),
        param: param === '' ? null : param,
      },
    });
  });

  it.each(['x', '-1', '1.5', '1e3'])('starting_after=%s', async (cursor) => {
    const created = await inject(harness.app, {
      method: 'POST',
      url: '/v1/responses',
      payload: { model: 'scripted', input: 'x', tools: [], store: true, anything: 1 },
    });
    const { id } = created.json() as { id: string };
    const answer = await inject(harness.app, `/v1/responses/${id}?stream=true&starting_after=${cursor}`);
    expect(answer.statusCode).toBe(400);
    expect(answer.json()).toMatchObject({ error: { param: 'starting_after' } });
  });
});
