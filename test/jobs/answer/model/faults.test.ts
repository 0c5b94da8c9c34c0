/** Everything that a model server can do wrong, and what becomes of the answer. */
import { afterEach, describe, expect, it } from 'vitest';
import { createAnswerJob } from '../../../../src/jobs/answer/answer-job.ts';
import type { JobEvent } from '../../../../src/journal/event.ts';
import type { ModelLimits } from '../../../../src/model-settings.ts';
import { type AttemptOptions, runAttempt } from '../../ingest/run-job.ts';
import { type ModelRequest, type ModelServer, startModelServer } from '../model-server.ts';
import { usePinoDocs } from '../pino-docs.ts';

const input = { question: 'how do I redact secrets?', collection: 'pino' };
const text = 'Use `redact` [1].';

const pino = usePinoDocs();
const servers: ModelServer[] = [];

afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => server.close()));
});

type Handle = (request: ModelRequest, n: number) => void | Promise<void>;

async function serve(handle: Handle): Promise<ModelServer> {
  let n = 0;
  const server = await startModelServer((request) => handle(request, ++n));
  servers.push(server);
  return server;
}

async function ask(
  handle: Handle,
  limits: Partial<ModelLimits> = {},
  options: { fallback?: Handle } & Pick<AttemptOptions, 'jobId' | 'previous' | 'resumedFrom' | 'signal'> = {},
) {
  const server = await serve(handle);
  const fallback = options.fallback === undefined ? undefined : await serve(options.fallback);
  const model = {
    baseUrl: server.baseUrl,
    apiKey: undefined,
    name: 'first',
    limits: { patienceMs: 0, ...limits },
    ...(fallback === undefined ? {} : { fallback: { baseUrl: fallback.baseUrl, apiKey: undefined, name: 'second' } }),
  };
  const { fallback: _, ...attempt } = options;
  return { ...runAttempt(pino.db, createAnswerJob({ model, answerPaceMs: 0 }), input, attempt), server, fallback };
}

function answerWhole(request: ModelRequest): void {
  request.delta(text);
  request.finish();
}

describe('a fault that asking again would not repair fails the attempt', () => {
  const never = new Promise<void>(() => {});
  /** Sends `data` again and again until the client has gone. */
  const flood = async (request: ModelRequest, data: () => void): Promise<void> => {
    let isOpen = true;
    void request.closed.then(() => {
      isOpen = false;
    });
    while (isOpen) {
      data();
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  const base = { id: 'c1', object: 'chat.completion.chunk', created: 1, model: 'm' };
  const choice = (delta: object) => ({ ...base, choices: [{ index: 0, delta, finish_reason: null }] });

  const faults: [what: string, handle: Handle, limits: Partial<ModelLimits>, message: string][] = [
    ['says nothing', () => never, { firstTokenMs: 200 }, 'The model server sent no text within 200 ms'],
    [
      'sends headers alone',
      (request) => void request.response.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders(),
      { firstTokenMs: 200 },
      'The model server sent no text within 200 ms',
    ],
    [
      'pings for ever',
      (request) => {
        request.response.writeHead(200, { 'content-type': 'text/event-stream' });
        return flood(request, () => request.response.write(': ping\n\n'));
      },
      { firstTokenMs: 300 },
      'The model server sent no text within 300 ms',
    ],
    [
      'sends empty deltas for ever',
      (request) => flood(request, () => request.delta('')),
      { firstTokenMs: 300 },
      'The model server sent no text within 300 ms',
    ],
    [
      'stops in the middle',
      (request) => request.delta('Use '),
      { idleMs: 200 },
      'The model server sent no more text for 200 ms',
    ],
    [
      'sends empty deltas in the middle',
      (request) => {
        request.delta('Use ');
        return flood(request, () => request.delta(''));
      },
      { idleMs: 300 },
      'The model server sent no more text for 300 ms',
    ],
    [
      'takes too long in all',
      (request) => flood(request, () => request.delta('x')),
      { totalMs: 1_000 },
      'The answer was not whole after 1000 ms',
    ],
    [
      'reasons and does not answer',
      (request) => {
        request.delta('<think>Hm.');
        request.finish();
      },
      {},
      'The model gave reasoning, but no answer',
    ],
    [
      'wants a tool',
      (request) => {
        request.send(
          choice({ tool_calls: [{ index: 0, id: 't', type: 'function', function: { name: 'f', arguments: '{}' } }] }),
        );
        request.finish('tool_calls');
      },
      {},
      'The model asked for a tool instead of answering; it was offered none',
    ],
    [
      'wants a tool after some text',
      (request) => {
        request.delta('Let me look. ');
        request.send(
          choice({ tool_calls: [{ index: 0, id: 't', type: 'function', function: { name: 'f', arguments: '{}' } }] }),
        );
        request.finish('stop');
      },
      {},
      'The model asked for a tool instead of answering; it was offered none',
    ],
    [
      'withholds the answer',
      (request) => {
        request.delta('The ');
        request.finish('content_filter');
      },
      {},
      'The model server withheld the answer (content filter)',
    ],
    [
      'ends for a reason of its own',
      (request) => {
        request.delta('The ');
        request.finish('moon_phase');
      },
      {},
      'The model server ended the answer for a reason of its own: moon_phase',
    ],
  ];

  it.each(faults)('%s', async (_what, handle, limits, message) => {
    const { result, server } = await ask(handle, limits);
    await expect(result).rejects.toMatchObject({ code: 'MODEL_FAILED', message });
    await server.requests[0]?.closed;
    // None, where a busy machine has not sent the first one by the time that this test gives it.
    expect(server.requests.length).toBeLessThan(2);
  });

  it.each<[string, (request: ModelRequest, piece: string) => void]>([
    ['text', (request, piece) => request.delta(piece)],
    ['reasoning', (request, piece) => request.send(choice({ reasoning_content: piece }))],
  ])('writes too much %s', async (what, write) => {
    const { result, server } = await ask((request) => {
      for (let n = 0; n < 22; n++) write(request, 'blah '.repeat(10_000));
      answerWhole(request);
    });
    await expect(result).rejects.toMatchObject({ message: `The model wrote over 1048576 bytes of ${what}` });
    await server.requests[0]?.closed;
  });

  it('sends a line without end', async () => {
    const { result, server } = await ask((request) => {
      request.response.writeHead(200, { 'content-type': 'text/event-stream' });
      for (let n = 0; n < 80; n++) request.response.write(`${n === 0 ? ': ' : ''}${'x'.repeat(65_536)}`);
      request.response.write('\n\n');
      answerWhole(request);
    });
    await expect(result).rejects.toMatchObject({ message: 'The model server sent a line of over 4194304 bytes' });
    await server.requests[0]?.closed;
  });

  it.each(['insufficient_quota', 'billing_hard_limit_reached'])('%s is nothing to wait for', async (code) => {
    const { result, server } = await ask(
      (request) => request.status(429, { error: { message: 'pay first', code } }, { 'retry-after': '1' }),
      { patienceMs: 60_000 },
    );
    await expect(result).rejects.toMatchObject({ name: 'NonRetryableError', code: 'MODEL_FAILED' });
    expect(server.requests).toHaveLength(1);
  });
});

describe('an answer ends when the server says so', () => {
  const usage = { id: 'c', choices: [], usage: { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 } };
  const end = (more: object = {}) => ({ id: 'c', choices: [{ index: 0, delta: {}, finish_reason: 'stop' }], ...more });

  it.each<[string, (request: ModelRequest) => void]>([
    ['usage follows', (request) => [end(), usage].forEach(request.send)],
    ['usage comes with it', (request) => request.send(end({ usage: usage.usage }))],
    ['[DONE] follows', (request) => [end(), '[DONE]'].forEach(request.send)],
    ['nothing follows', (request) => request.send(end())],
  ])('and leaves the connection open: %s', async (_how, finish) => {
    const { result, server } = await ask((request) => {
      request.delta(text);
      finish(request);
    });
    expect(await result).toMatchObject({ text, model: 'first' });
    await server.requests[0]?.closed;
    expect(server.requests[0]?.response.writableEnded).toBe(false);
  });
});

describe('reasoning', () => {
  it.each<[string, (request: ModelRequest) => void]>([
    [
      'in a field',
      (request) => request.send({ id: 'c', choices: [{ index: 0, delta: { reasoning_content: 'Hm.' } }] }),
    ],
    ['in tags', (request) => ['<thi', 'nk>Hm.</th', 'ink>\n'].forEach(request.delta)],
  ])('%s is no part of the answer', async (_how, reason) => {
    const attempt = await ask((request) => {
      reason(request);
      answerWhole(request);
    });
    expect(await attempt.result).toMatchObject({ text });
    const told = attempt.events.filter(({ type }) => type === 'reasoning').map((event) => event.text);
    expect(told.join('')).toBe('Hm.');
  });
});

describe('a server that is busy or unreachable', () => {
  it.each<[string, Handle]>([
    ['429', (request) => request.status(429, { error: { message: 'slow down' } }, { 'retry-after-ms': '5' })],
    ['503', (request) => request.status(503, { error: { message: 'busy' } }, { 'retry-after': '0' })],
    ['500 that names no time', (request) => request.status(500, { error: { message: 'oops' } })],
    ['a connection that is reset', (request) => void request.response.socket?.destroy()],
  ])('is asked again inside the attempt: %s', async (_what, fail) => {
    const attempt = await ask((request, n) => (n < 3 ? fail(request, n) : answerWhole(request)), {
      patienceMs: 60_000,
    });
    expect(await attempt.result).toMatchObject({ text });
    expect(attempt.events.filter(({ type }) => type === 'waiting')).toMatchObject([
      { error: { code: 'MODEL_FAILED' } },
      { error: { code: 'MODEL_FAILED' } },
    ]);
    // One answer, however often it was asked for: a server that knows such keys bills once.
    const keys = attempt.server.requests.map(({ headers }) => headers['idempotency-key']);
    expect(new Set(keys).size).toBe(1);
    expect(keys[0]).toMatch(/^model-[0-9a-f]{32}$/);
  });

  it('is not waited for longer than patience lasts', async () => {
    const { result } = await ask(
      (request) => request.status(429, { error: { message: 'slow down' } }, { 'retry-after': '3600' }),
      { patienceMs: 60_000 },
    );
    await expect(result).rejects.toMatchObject({ name: 'RetryAfterError', retryAfterMs: 3_600_000 });
  });

  it('is not waited for once the run is stopped', async () => {
    const stop = new AbortController();
    const attempt = await ask(
      (request) => request.status(429, { error: { message: 'slow down' } }, { 'retry-after': '30' }),
      { patienceMs: 60_000 },
      { signal: stop.signal },
    );
    await expect.poll(() => attempt.events.some(({ type }) => type === 'waiting')).toBe(true);
    stop.abort(new Error('closing'));
    await expect(attempt.result).rejects.toThrow('closing');
    expect(attempt.server.requests).toHaveLength(1);
  });
});

describe('a second model', () => {
  it.each<[string, Handle]>([
    ['says nothing in time', () => new Promise<void>(() => {})],
    ['is busy', (request) => request.status(429, { error: { message: 'slow down' } }, { 'retry-after': '3600' })],
    ['refuses the request', (request) => request.status(401, { error: { message: 'no' } })],
  ])('answers where the first one %s', async (_what, fail) => {
    const attempt = await ask(fail, { firstTokenMs: 300 }, { fallback: answerWhole });
    expect(await attempt.result).toMatchObject({ text, model: 'second' });
    expect(attempt.fallback?.requests[0]?.body.model).toBe('second');
  });

  it('is not asked once the first has begun', async () => {
    const attempt = await ask(
      (request) => request.delta('Use '),
      { idleMs: 200, patienceMs: 60_000 },
      { fallback: answerWhole },
    );
    await expect(attempt.result).rejects.toMatchObject({ code: 'MODEL_FAILED' });
    expect(attempt.fallback?.requests).toEqual([]);
  });
});

describe('a later attempt', () => {
  const begun = 'Use the option called redact, ';
  const rest = 'with a list of paths [1].';

  it.each<[string, string]>([
    ['goes on', rest],
    ['repeats the last words', `option called redact, ${rest}`],
    ['begins again', begun + rest],
  ])('goes on where the text ends when the model %s', async (_how, written) => {
    const jobId = crypto.randomUUID();
    const first = await ask(
      (request) => {
        request.delta(begun);
        setImmediate(() => request.response.socket?.destroy());
      },
      {},
      { jobId },
    );
    await expect(first.result).rejects.toMatchObject({ code: 'MODEL_FAILED' });
    const second = await ask(
      (request) => {
        request.delta(written);
        request.finish();
      },
      {},
      { jobId, previous: first.events, resumedFrom: first.checkpoints[0] },
    );
    const result = (await second.result) as { sources: unknown; usage: object };
    expect(result).toMatchObject({ text: begun + rest });
    // The same sources, told once; the question as it was asked, and what stands of the answer.
    expect(second.events.map(({ type }) => type)).toEqual(['delta', 'usage']);
    expect(first.events[0]).toEqual({ type: 'sources', sources: result.sources });
    const asked = first.server.requests[0]?.body.messages[1];
    const messages = second.server.requests[0]?.body.messages;
    expect(messages.slice(2)).toMatchObject([{ role: 'assistant', content: begun }, { role: 'user' }]);
    expect(messages[1]).toEqual(asked);
    // Both were paid.
    expect(first.events.at(-1)).toMatchObject({ type: 'usage', estimated: true });
    expect(result.usage).toMatchObject({ estimated: true });
  });

  it('tells what an attempt has cost that was killed', async () => {
    const plan = (await ask(answerWhole)).checkpoints;
    const attempt = await ask(
      (request) => {
        request.delta(rest);
        request.finish();
      },
      {},
      {
        previous: [
          { type: 'sources', sources: [] },
          { type: 'delta', text: begun },
        ],
        resumedFrom: plan[0],
      },
    );
    expect(await attempt.result).toMatchObject({ text: begun + rest, usage: { estimated: true } });
    expect(attempt.events.map(({ type }) => type).filter((type) => type === 'usage')).toHaveLength(2);
    expect(attempt.events.find(({ type }) => type === 'usage')).toMatchObject({ estimated: true });
  });

  it('writes the rest of an answer without a model, whatever has become of the collection', async () => {
    const job = createAnswerJob({ model: undefined, answerPaceMs: 0 });
    const first = runAttempt(pino.db, job, input);
    const { text: whole } = (await first.result) as { text: string };
    const previous = [first.events[0] as JobEvent, { type: 'delta', text: whole.slice(0, 100) }];
    const second = runAttempt(
      pino.db,
      job,
      { ...input, collection: 'gone' },
      { previous, resumedFrom: first.checkpoints[0] },
    );
    expect(await second.result).toMatchObject({ text: whole });
    expect(second.events.map((event) => event.text).join('')).toBe(whole.slice(100));
  });
});

it('marks what an answer cites and its sources do not have', async () => {
  const { result } = await ask((request) => {
    request.delta('It says "words that stand in no source at all" [1]. See [99].');
    request.finish();
  });
  expect(await result).toMatchObject({
    citations: {
      total: 2,
      invalid: 2,
      problems: [
        { n: 1, reason: 'quote_not_found' },
        { n: 99, reason: 'no_such_source' },
      ],
    },
  });
});
