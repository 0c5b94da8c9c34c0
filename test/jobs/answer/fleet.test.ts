import { afterEach, describe, expect, it } from 'vitest';
import { createBuiltinJobs } from '../../../src/jobs/builtin-jobs.ts';
import type { JobEvent } from '../../../src/journal/event.ts';
import { fold } from '../../../src/journal/fold.ts';
import type { Fleet } from '../../../src/workers/fleet.ts';
import { createTestFleet } from '../../helpers/fleet.ts';
import { type ModelRequest, type ModelServer, startModelServer } from './model-server.ts';
import { usePinoDocs } from './pino-docs.ts';

const input = { question: 'how do I redact secrets?', collection: 'pino' };

const pino = usePinoDocs();
let server: ModelServer | undefined;

afterEach(async () => {
  await server?.close();
  server = undefined;
});

async function readAll(fleet: Fleet, id: string, onEvent?: (event: JobEvent) => void): Promise<JobEvent[]> {
  const events: JobEvent[] = [];
  for await (const { event } of fleet.follow(id)) {
    events.push(event);
    onEvent?.(event);
  }
  return events;
}

async function openModelFleet(handle: (request: ModelRequest, n: number) => void | Promise<void>): Promise<Fleet> {
  let n = 0;
  server = await startModelServer((request) => handle(request, ++n));
  const model = { baseUrl: server.baseUrl, apiKey: 'sk-test-0123456789', name: 'test-model' };
  const fleet = createTestFleet(pino.url, createBuiltinJobs({ model }));
  await fleet.work();
  return fleet;
}

const textOf = (events: readonly JobEvent[]): string =>
  events
    .filter(({ type }) => type === 'delta')
    .map(({ text }) => text)
    .join('');

describe('a fleet with the built-in jobs', () => {
  it('ingests documents and answers from them, without a model', async () => {
    const fleet = createTestFleet(pino.url, createBuiltinJobs({ model: undefined, answerPaceMs: 0 }));
    await fleet.work();
    const documents = [{ path: 'tea.md', content: '# Tea\n\nGreen tea steeps for two minutes.\n' }];
    const ingest = await fleet.enqueue('ingest', { collection: 'tea', documents });
    expect(await ingest.result()).toMatchObject({ added: 1, chunks: 1 });

    const answer = await fleet.enqueue('answer', { question: 'How long does green tea steep?', collection: 'tea' });
    const events = await readAll(fleet, answer.id);
    expect(events.map(({ type }) => type)).toEqual(['sources', 'delta', 'end']);
    expect(textOf(events)).toContain('> Green tea steeps for two minutes. [1]');
    expect(await answer.result()).toMatchObject({
      text: textOf(events),
      model: 'extractive',
      sources: [{ n: 1, path: 'tea.md' }],
    });
  });

  it('refuses input before it becomes a job', async () => {
    const fleet = createTestFleet(pino.url, createBuiltinJobs({ model: undefined }));
    await expect(
      fleet.enqueue('ingest', { collection: 'x', documents: [{ path: 'a.md', content: 'a\0' }] }),
    ).rejects.toMatchObject({
      code: 'INPUT_INVALID',
      message: expect.stringContaining('documents[0].content: "a.md" has a NUL'),
    });
    await expect(fleet.enqueue('answer', { question: '', collection: 'x' })).rejects.toMatchObject({
      code: 'INPUT_INVALID',
    });
  });

  it('ends an answer from an unknown collection after one attempt', async () => {
    const fleet = createTestFleet(pino.url, createBuiltinJobs({ model: undefined }));
    await fleet.work();
    const { id } = await fleet.enqueue('answer', { ...input, collection: 'nope' });
    expect((await readAll(fleet, id)).at(-1)).toMatchObject({ type: 'error', error: { code: 'INPUT_INVALID' } });
    expect((await fleet.get(id))?.attempts).toHaveLength(1);
  });
});

it('an interrupted ingest goes on from its checkpoint on another worker, and counts as one', async () => {
  const fleet = createTestFleet(pino.url, createBuiltinJobs({ model: undefined }));
  const first = await fleet.work();
  const documents = Array.from({ length: 120 }, (_, n) => ({ path: `${n}.md`, content: `# ${n}\n\nText ${n}.\n` }));
  const { id } = await fleet.enqueue('ingest', { collection: 'long', documents });
  let interrupted = false;
  const events = await readAll(fleet, id, (event) => {
    if (interrupted || event.type !== 'progress' || (event.done as number) < 25) return;
    interrupted = true;
    first.interrupt();
    void first.close().then(() => fleet.work());
  });
  expect(events.find(({ type }) => type === 'attempt')).toMatchObject({ reason: 'interruption', resumed: true });
  expect(events.at(-1)).toMatchObject({ type: 'end', result: { added: 120, updated: 0, unchanged: 0, chunks: 120 } });
  const done = events.filter(({ type }) => type === 'document').length;
  // At most the documents since the last checkpoint are told of again.
  expect(done).toBeGreaterThanOrEqual(120);
  expect(done).toBeLessThan(132);
  const stored = await pino.db.kysely.selectFrom('documents').select('revision').where('job_id', '=', id).execute();
  expect(stored.map(({ revision }) => revision)).toEqual(Array(120).fill(1));
});

it('cancelling an answer stops the model call', async () => {
  const fleet = await openModelFleet((request) => request.delta('Use '));
  const { id } = await fleet.enqueue('answer', input);
  const events = await readAll(fleet, id, ({ type }) => {
    if (type === 'delta') void fleet.cancel(id);
  });
  expect(events.map(({ type }) => type)).toEqual(['sources', 'delta', 'cancelled']);
  await server?.requests[0]?.closed;
  expect(server?.requests).toHaveLength(1);
});

it('an answer that broke off goes on, and its conversation has one answer', async () => {
  const conversationId = crypto.randomUUID();
  const seen = Promise.withResolvers<void>();
  const fleet = await openModelFleet(async (request, n) => {
    request.delta(n === 1 ? 'Half an ans' : 'wer [1].');
    if (n > 1) return request.finish();
    await seen.promise;
    request.response.socket?.destroy();
  });
  const { id } = await fleet.enqueue('answer', { ...input, conversationId });
  const events = await readAll(fleet, id, ({ type }) => {
    if (type === 'delta') seen.resolve();
  });
  expect(events.map(({ type }) => type)).toEqual([
    'sources',
    'delta',
    'usage',
    'retry',
    'attempt',
    'delta',
    'usage',
    'end',
  ]);
  expect(events.find(({ type }) => type === 'attempt')).toMatchObject({ reason: 'error', resumed: true });
  expect(events.at(-1)).toMatchObject({ result: { text: 'Half an answer [1].' } });
  const messages = await pino.db.kysely
    .selectFrom('messages')
    .select('content')
    .where('job_id', '=', id)
    .orderBy('id')
    .execute();
  expect(messages.map(({ content }) => content)).toEqual([input.question, 'Half an answer [1].']);
});

it('a redriven answer goes on too', async () => {
  const fleet = await openModelFleet((request, n) => {
    request.delta(n === 1 ? 'Half an ans' : 'wer [1].');
    request.finish(n === 1 ? 'length' : 'stop');
  });
  const { id } = await fleet.enqueue('answer', input);
  expect((await readAll(fleet, id)).at(-1)).toMatchObject({ type: 'error', error: { code: 'MODEL_FAILED' } });
  await fleet.redrive(id);
  await expect.poll(async () => (await fleet.get(id))?.status, { timeout: 20_000 }).toBe('completed');
  const { text, sources } = await fold(fleet.follow(id));
  expect(text).toBe('Half an answer [1].');
  expect((await fleet.get(id))?.result).toMatchObject({ text, sources });
  expect(server?.requests[1]?.body.messages).toContainEqual({ role: 'assistant', content: 'Half an ans' });
});

it('waits as long as the model server asks', async () => {
  const fleet = await openModelFleet((request, n) => {
    if (n === 1) return request.status(429, { error: { message: 'slow down' } }, { 'retry-after': '1' });
    request.delta('Ok [1].');
    request.finish();
  });
  const { id } = await fleet.enqueue('answer', input);
  const events = await readAll(fleet, id);
  // Inside its attempt: a busy server costs none.
  expect(events.map(({ type }) => type)).toEqual(['sources', 'waiting', 'delta', 'usage', 'end']);
  expect(events[1]?.delayMs).toBe(1_000);
  expect(events.at(-1)).toMatchObject({ type: 'end', result: { text: 'Ok [1].' } });
});
