import { afterEach, describe, expect, it } from 'vitest';
import { answerInput, createAnswerJob } from '../../../src/jobs/answer/answer-job.ts';
import { createBuiltinJobs } from '../../../src/jobs/builtin-jobs.ts';
import type { AnyJobDefinition } from '../../../src/jobs/define-job.ts';
import type { JobEvent } from '../../../src/journal/event.ts';
import { runAttempt } from '../ingest/run-job.ts';
import { type ModelRequest, type ModelServer, startModelServer } from './model-server.ts';
import { usePinoDocs } from './pino-docs.ts';

// Of no known shape, so that only knowing it can keep it out of messages.
const API_KEY = 'q7Zp0123456789abcdef';
const input = { question: 'how do I redact secrets?', collection: 'pino' };

const pino = usePinoDocs();
let server: ModelServer | undefined;

afterEach(async () => {
  await server?.close();
  server = undefined;
});

const extractive = (answerPaceMs = 0): AnyJobDefinition => createAnswerJob({ model: undefined, answerPaceMs });
async function modelJob(handle: (request: ModelRequest) => void | Promise<void>): Promise<AnyJobDefinition> {
  server = await startModelServer(handle);
  const limits = { patienceMs: 0 };
  return createAnswerJob({
    model: { baseUrl: server.baseUrl, apiKey: API_KEY, name: 'test-model', limits },
    answerPaceMs: 0,
  });
}
const textOf = (events: readonly JobEvent[]): string =>
  events
    .filter(({ type }) => type === 'delta')
    .map(({ text }) => text)
    .join('');
const messagesOf = (conversationId: string) =>
  pino.db.kysely
    .selectFrom('messages')
    .select(['role', 'content', 'job_id'])
    .where('conversation_id', '=', conversationId)
    .orderBy('id')
    .execute();

describe('without a model', () => {
  it('emits its sources first, then deltas that make up the result', async () => {
    const attempt = runAttempt(pino.db, extractive(1), input);
    const result = (await attempt.result) as { text: string; sources: unknown[]; model: string };
    expect(attempt.events[0]).toEqual({ type: 'sources', sources: result.sources });
    expect(attempt.events.slice(1).every(({ type }) => type === 'delta')).toBe(true);
    expect(textOf(attempt.events)).toBe(result.text);
    expect(attempt.events.length).toBeGreaterThan(100);
    expect(result.model).toBe('extractive');
  });

  it('streams in fewer deltas without a pace', async () => {
    const attempt = runAttempt(pino.db, extractive(), input);
    const result = (await attempt.result) as { text: string };
    expect(textOf(attempt.events)).toBe(result.text);
    expect(attempt.events.length).toBeLessThan(20);
  });

  it('stops in the middle of a pause when it is cancelled', async () => {
    const cancel = new AbortController();
    const attempt = runAttempt(pino.db, extractive(60_000), input, {
      signal: cancel.signal,
      onEvent: ({ type }) => {
        if (type === 'delta') setImmediate(() => cancel.abort(new Error('cancelled')));
      },
    });
    await expect(attempt.result).rejects.toThrow('cancelled');
    expect(attempt.events).toHaveLength(2);
  });

  it('answers honestly, without sources, when nothing fits', async () => {
    const attempt = runAttempt(pino.db, extractive(), { ...input, question: 'what is the capital of France?' });
    expect(await attempt.result).toMatchObject({
      sources: [],
      text: expect.stringContaining('never mentions "capital", "France"'),
    });
    expect(attempt.events[0]).toEqual({ type: 'sources', sources: [] });
  });
});

it('fails for good on an unknown collection, and names the ones there are', async () => {
  await expect(runAttempt(pino.db, extractive(), { ...input, collection: 'nope' }).result).rejects.toMatchObject({
    name: 'NonRetryableError',
    code: 'INPUT_INVALID',
    message: 'There is no collection "nope": there are "pino"',
  });
  await expect(runAttempt(pino.db, extractive(), input, { tenant: 'other' }).result).rejects.toThrow(
    'There is no collection "pino": nothing has been ingested yet',
  );
});

it('refuses bad input with the path of each field', () => {
  const paths = (value: object): string[] =>
    answerInput.safeParse({ ...input, ...value }).error?.issues.map((issue) => issue.path.join('.')) ?? [];
  expect(paths({})).toEqual([]);
  expect(paths({ question: '' })).toContain('question');
  expect(paths({ question: 'x'.repeat(4_001) })).toEqual(['question']);
  expect(paths({ question: 'a\0b' })).toEqual(['question']);
  expect(paths({ question: 'a\udc00b' })).toEqual(['question']);
  expect(paths({ conversationId: 'x', maxSources: 0 })).toEqual(['conversationId', 'maxSources']);
});

describe('a conversation', () => {
  it('has each question and answer once, however often the job ends', async () => {
    const conversationId = crypto.randomUUID();
    const jobId = crypto.randomUUID();
    for (let attempt = 0; attempt < 2; attempt++)
      await runAttempt(pino.db, extractive(), { ...input, conversationId }, { jobId }).result;
    const messages = await messagesOf(conversationId);
    expect(messages.map(({ role }) => role)).toEqual(['user', 'assistant']);
    expect(messages[0]?.content).toBe(input.question);
    expect(messages[1]?.content).toMatch(/^No model is configured/);
  });

  it('stays apart between tenants that use the same id', async () => {
    const conversationId = crypto.randomUUID();
    await ingestPinoDocsFor('other');
    await runAttempt(pino.db, extractive(), { ...input, conversationId }).result;
    const job = await modelJob((request) => {
      request.delta('ok [1]');
      request.finish();
    });
    await runAttempt(pino.db, job, { ...input, conversationId }, { tenant: 'other' }).result;
    expect(server?.requests[0]?.body.messages.filter(({ role }: { role: string }) => role !== 'system')).toHaveLength(
      1,
    );
  });

  it('is known to the model, and stored with what Postgres takes of the answer', async () => {
    const conversationId = crypto.randomUUID();
    const job = await modelJob((request) => {
      request.delta('nul \0 here');
      request.send('{"id":"c","choices":[{"index":0,"delta":{"content":" half \\ud83d"},"finish_reason":null}]}');
      request.finish();
    });
    const first = runAttempt(pino.db, job, { ...input, conversationId });
    expect(await first.result).toMatchObject({ text: 'nul \0 here half \ud83d' });
    expect((await messagesOf(conversationId))[1]?.content).toBe('nul \uFFFD here half \uFFFD');
    await runAttempt(pino.db, job, { ...input, question: 'and how do I remove them?', conversationId }).result;
    const messages = server?.requests[1]?.body.messages as { role: string; content: string }[];
    expect(messages.map(({ role }) => role)).toEqual(['system', 'user', 'assistant', 'user']);
    expect(messages[1]?.content).toBe(input.question);
    expect(messages[3]?.content).toContain('number=1 path="redaction.md" heading="Redaction');
  });
});

async function ingestPinoDocsFor(tenant: string): Promise<void> {
  const [ingest] = createBuiltinJobs({ model: undefined });
  await runAttempt(
    pino.db,
    ingest as AnyJobDefinition,
    { collection: 'pino', documents: [{ path: 'redaction.md', content: '# Redact\n\nRedact secrets so.' }] },
    { tenant },
  ).result;
}

describe('with a model', () => {
  it('streams the answer as it comes, with sources before and usage after', async () => {
    const gate = Promise.withResolvers<void>();
    const job = await modelJob(async (request) => {
      request.delta('Use ');
      await gate.promise;
      request.delta('`redact` [1].');
      request.finish();
    });
    const attempt = runAttempt(pino.db, job, input);
    // The first delta is there while the server still holds the second.
    await expect.poll(() => attempt.events.map(({ type }) => type)).toEqual(['sources', 'delta']);
    gate.resolve();
    const result = (await attempt.result) as { sources: { n: number; path: string }[] };
    expect(result).toMatchObject({ text: 'Use `redact` [1].', model: 'test-model' });
    expect(attempt.events.slice(1)).toEqual([
      { type: 'delta', text: 'Use ' },
      { type: 'delta', text: '`redact` [1].' },
      { type: 'usage', model: 'test-model', estimated: false, inputTokens: 11, outputTokens: 7, totalTokens: 18 },
    ]);
    expect(result.sources.map(({ n }) => n)).toEqual([1, 2, 3, 4, 5, 6]);
    const request = server?.requests[0];
    expect(request?.headers.authorization).toBe(`Bearer ${API_KEY}`);
    expect(request?.body).toMatchObject({ model: 'test-model', stream: true });
    expect(request?.body.messages.at(-1).content).toContain('Question: how do I redact secrets?');
    for (const { n, path } of result.sources)
      expect(request?.body.messages.at(-1).content).toContain(`number=${n} path="${path}"`);
  });

  it('is not asked when nothing fits', async () => {
    const job = await modelJob(() => expect.unreachable());
    expect(
      await runAttempt(pino.db, job, { ...input, question: 'what is the capital of France?' }).result,
    ).toMatchObject({
      sources: [],
      model: 'extractive',
    });
    expect(server?.requests).toEqual([]);
  });

  it('is cut off when the run is cancelled', async () => {
    const cancel = new AbortController();
    const job = await modelJob((request) => request.delta('Use '));
    const attempt = runAttempt(pino.db, job, input, { signal: cancel.signal });
    await expect.poll(() => textOf(attempt.events)).toBe('Use ');
    cancel.abort(new Error('cancelled by its owner'));
    await expect(attempt.result).rejects.toThrow('cancelled by its owner');
    await server?.requests[0]?.closed;
    expect(server?.requests[0]?.response.writableFinished).toBe(false);
  });

  it('is cut off before it has answered anything', async () => {
    const cancel = new AbortController();
    const job = await modelJob(() => undefined);
    const attempt = runAttempt(pino.db, job, input, { signal: cancel.signal });
    await expect.poll(() => server?.requests.length).toBe(1);
    cancel.abort(new Error('cancelled early'));
    await expect(attempt.result).rejects.toThrow('cancelled early');
    await server?.requests[0]?.closed;
  });

  it('is cut off when an event cannot be emitted', async () => {
    const job = await modelJob((request) => request.delta('Use '));
    const attempt = runAttempt(pino.db, job, input, {
      onEvent: ({ type }) => {
        if (type === 'delta') throw new Error('lease lost');
      },
    });
    await expect(attempt.result).rejects.toThrow('lease lost');
    await server?.requests[0]?.closed;
  });

  const failure = async (
    handle: (request: ModelRequest) => void | Promise<void>,
  ): Promise<Error & { code: string; retryAfterMs?: number }> => {
    const job = await modelJob(handle);
    const error = await runAttempt(pino.db, job, input).result.then(
      () => expect.unreachable(),
      (thrown) => thrown,
    );
    // Nothing that is logged or shown may have the key or the request in it.
    const shown = JSON.stringify({ ...error, message: error.message, stack: error.stack, cause: error.cause });
    expect(shown).not.toContain(API_KEY);
    expect(shown).not.toContain('Question:');
    expect(server?.requests).toHaveLength(1);
    return error;
  };

  it.each([400, 401, 403, 404, 422])(
    'fails for good when the server answers %i, without the key in the error',
    async (status) => {
      const error = await failure((request) =>
        request.status(status, {
          error: { message: `Incorrect API key provided: ${API_KEY}`, type: 'invalid_request_error' },
        }),
      );
      expect(error).toMatchObject({ name: 'NonRetryableError', code: 'MODEL_FAILED' });
      expect(error.message).toBe(`The model server answered ${status}: Incorrect API key provided: [redacted]`);
    },
  );

  it('keeps what looks like the ends of a key out of the error', async () => {
    const error = await failure((request) =>
      request.status(401, { error: { message: 'Bad key sk-abc*****wxyz. See docs' } }),
    );
    expect(error.message).toBe('The model server answered 401: Bad key [redacted] See docs');
  });

  it('waits as long as a 429 says, in seconds or to a date', async () => {
    const seconds = await failure((request) =>
      request.status(429, { error: { message: 'slow down' } }, { 'retry-after': '7' }),
    );
    expect(seconds).toMatchObject({ name: 'RetryAfterError', code: 'MODEL_FAILED', retryAfterMs: 7_000 });
    await server?.close();
    const date = await failure((request) =>
      request.status(
        429,
        { error: { message: 'slow down' } },
        { 'retry-after': new Date(Date.now() + 60_000).toUTCString() },
      ),
    );
    expect(date.name).toBe('RetryAfterError');
    expect(date.retryAfterMs).toBeGreaterThan(55_000);
    expect(date.retryAfterMs).toBeLessThanOrEqual(60_000);
  });

  it.each([429, 500, 502, 503])('tries again in the ordinary way after a %i that names no time', async (status) => {
    const error = await failure((request) => request.status(status, { error: { message: 'overloaded' } }));
    expect(error).toMatchObject({
      name: 'OncefleetError',
      code: 'MODEL_FAILED',
      message: `The model server answered ${status}: overloaded`,
    });
  });

  it('tries again when the connection breaks in mid-answer', async () => {
    const error = await failure((request) => {
      request.delta('Use ');
      setImmediate(() => request.response.socket?.destroy());
    });
    expect(error).toMatchObject({ name: 'OncefleetError', code: 'MODEL_FAILED' });
  });

  it('takes an answer that ends without a finish reason for broken off', async () => {
    const error = await failure((request) => {
      request.delta('Use ');
      request.response.end();
    });
    expect(error).toMatchObject({ name: 'OncefleetError', code: 'MODEL_FAILED' });
  });

  it('takes an error in mid-stream for one', async () => {
    const error = await failure((request) => {
      request.delta('Use ');
      request.send({ error: { message: 'the GPU is on fire', type: 'server_error' } });
      request.response.end();
    });
    expect(error).toMatchObject({
      name: 'OncefleetError',
      code: 'MODEL_FAILED',
      message: 'The model server broke off: the GPU is on fire',
    });
  });

  it('takes an answer that the token limit cut for a failure that trying again does not repair', async () => {
    const error = await failure((request) => {
      request.delta('Use ');
      request.finish('length');
    });
    expect(error).toMatchObject({ name: 'NonRetryableError', code: 'MODEL_FAILED' });
  });

  it('takes an empty answer for a failure', async () => {
    expect(await failure((request) => request.finish())).toMatchObject({
      code: 'MODEL_FAILED',
      message: 'The model gave an empty answer',
    });
  });

  it('takes a page that is no event stream for a failure', async () => {
    const error = await failure(
      (request) =>
        void request.response.writeHead(200, { 'content-type': 'text/html' }).end('<html>Question: sign in</html>'),
    );
    expect(error).toMatchObject({ name: 'OncefleetError', code: 'MODEL_FAILED' });
  });

  it('says what kept it from reaching the server', async () => {
    const gone = await startModelServer(() => undefined);
    await gone.close();
    const job = createAnswerJob({
      model: { baseUrl: gone.baseUrl, apiKey: undefined, name: 'm', limits: { patienceMs: 0 } },
      answerPaceMs: 0,
    });
    await expect(runAttempt(pino.db, job, input).result).rejects.toMatchObject({
      name: 'OncefleetError',
      code: 'MODEL_FAILED',
      message: expect.stringContaining('(ECONNREFUSED)'),
    });
  });

  it('goes through the fetch it is given', async () => {
    const seen: string[] = [];
    server = await startModelServer((request) => {
      request.delta('ok');
      request.finish();
    });
    const [, job] = createBuiltinJobs({
      model: { baseUrl: server.baseUrl, apiKey: undefined, name: 'm' },
      fetch: (target, init) => {
        seen.push(String(target));
        return fetch(target, init);
      },
    });
    await runAttempt(pino.db, job as AnyJobDefinition, input).result;
    expect(seen).toEqual([`${server.baseUrl}/chat/completions`]);
    expect(server.requests[0]?.headers.authorization).toBeUndefined();
  });
});
