import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Db } from '../../../src/db/client.ts';
import { createAnswerJob } from '../../../src/jobs/answer/answer-job.ts';
import { Embedder } from '../../../src/jobs/embeddings/embedder.ts';
import { createIngestJob } from '../../../src/jobs/ingest/ingest-job.ts';
import type { EmbeddingLimits } from '../../../src/model-settings.ts';
import { createTestDatabase, type TestDatabase } from '../../helpers/services.ts';
import { type AttemptOptions, openTestDb, runAttempt } from '../ingest/run-job.ts';
import { type EmbeddingRequest, type EmbeddingServer, meaningOf, startEmbeddingServer } from './embedding-server.ts';

let database: TestDatabase;
let db: Db;
let server: EmbeddingServer | undefined;
let collection: string;
let model: string;

beforeAll(async () => {
  database = await createTestDatabase();
  db = openTestDb(database.url);
});
afterAll(async () => {
  await db?.close();
  await database?.drop();
});
beforeEach(() => {
  collection = `c-${crypto.randomUUID()}`;
  model = `m-${crypto.randomUUID()}`;
});
afterEach(async () => {
  await server?.close();
  server = undefined;
});

async function start(handle?: (request: EmbeddingRequest, n: number) => void | Promise<void>) {
  server = await startEmbeddingServer(handle);
  return server;
}

function embedderOf({ baseUrl }: EmbeddingServer, limits: Partial<EmbeddingLimits> = {}, name = model): Embedder {
  return new Embedder({ baseUrl, apiKey: 'sk-test-0123456789', name, limits });
}

const documents = [
  { path: 'cars.md', content: '# Cars\n\nThe automobile stands in the garage.\n' },
  { path: 'food.md', content: '# Food\n\nA hot broth in winter.\n' },
  { path: 'law.md', content: '# Law\n\nNobody may park here.\n' },
];

const ingest = (embedder: Embedder | undefined, given: readonly object[] = documents, options: AttemptOptions = {}) =>
  runAttempt(db, createIngestJob({}, embedder), { collection, documents: given }, options);

async function sourcesOf(question: string, embedder: Embedder | undefined): Promise<string[]> {
  const job = createAnswerJob({ model: undefined, answerPaceMs: 0, embedder });
  const attempt = runAttempt(db, job, { question, collection });
  const result = (await attempt.result) as { sources: { path: string }[] };
  return result.sources.map(({ path }) => path);
}

const vectorRows = () =>
  db.kysely
    .selectFrom('chunk_vectors as v')
    .innerJoin('collections as c', 'c.id', 'v.collection_id')
    .innerJoin('embedding_models as m', 'm.id', 'v.model_id')
    .innerJoin('documents as d', 'd.id', 'v.document_id')
    .select(['d.path', 'm.name as model', 'v.chunk_count', 'v.search_number', 'd.search_number as present'])
    .where('c.name', '=', collection)
    .orderBy('d.path')
    .execute();

/** Of its words alone, none is in a document. */
const NEAR = 'the park and the vehicles';

describe('chunks with vectors', () => {
  it('are found by what they mean, beside those that have the words', async () => {
    const embedder = embedderOf(await start());
    expect(await ingest(embedder).result).toMatchObject({ added: 3, embedded: 3 });
    expect(await sourcesOf(NEAR, undefined)).toEqual(['law.md']);
    expect((await sourcesOf(NEAR, embedder)).sort()).toEqual(['cars.md', 'law.md']);
  });

  it('are asked for once: not again unchanged, and of a changed document what has changed', async () => {
    const { answered, requests } = await start();
    const embedder = embedderOf(server as EmbeddingServer);
    const long = (last: string) => ({
      path: 'long.md',
      content: Array.from({ length: 5 }, (_, n) => `## Part ${n}\n\n${n === 4 ? last : `Text ${n}.`}\n`).join('\n'),
    });
    expect(await ingest(embedder, [long('A car.')]).result).toMatchObject({ embedded: 5 });
    expect(await ingest(embedder, [long('A car.')]).result).toMatchObject({ unchanged: 1, embedded: 0 });
    expect(requests).toHaveLength(1);
    expect(await ingest(embedder, [long('A physician.')]).result).toMatchObject({ updated: 1, embedded: 1 });
    expect(answered).toHaveLength(6);
    expect(answered.at(-1)).toContain('A physician.');
    const rows = await vectorRows();
    expect(rows.reduce((sum, { chunk_count }) => sum + chunk_count, 0)).toBe(5);
    expect(rows.every(({ search_number, present }) => search_number === present)).toBe(true);
  });

  it('that say the same in one request are asked for once', async () => {
    const { answered } = await start();
    const same = ['a.md', 'b.md', 'c.md'].map((path) => ({ path, content: '# Title\n\nThe same.\n' }));
    expect(await ingest(embedderOf(server as EmbeddingServer), same).result).toMatchObject({ embedded: 3 });
    expect(answered).toEqual(['Title\n\nThe same.']);
    expect(await vectorRows()).toHaveLength(3);
  });

  it('of a collection that was there before come with the next ingest of any document', async () => {
    await ingest(undefined).result;
    const embedder = embedderOf(await start());
    expect(await ingest(embedder, [{ path: 'new.md', content: 'A surgeon.' }]).result).toMatchObject({
      added: 1,
      embedded: 4,
    });
  });

  it('go with their documents', async () => {
    const embedder = embedderOf(await start());
    await ingest(embedder).result;
    await runAttempt(db, createIngestJob({}, embedder), {
      collection,
      documents: documents.slice(0, 1),
      removeMissing: true,
    }).result;
    expect((await vectorRows()).map(({ path }) => path)).toEqual(['cars.md']);
  });

  it('are asked for in requests of the set size, with a key that is the same when asked again', async () => {
    const { requests } = await start((request, n) => (n === 2 ? request.status(503, {}) : request.answer()));
    const many = Array.from({ length: 5 }, (_, n) => ({ path: `${n}.md`, content: `Number ${n}.` }));
    await ingest(embedderOf(server as EmbeddingServer, { batch: 2 }), many).result;
    expect(requests.map(({ texts }) => texts.length)).toEqual([2, 2, 2, 1]);
    const keys = requests.map(({ headers }) => headers['idempotency-key']);
    expect(keys[1]).toBe(keys[2]);
    expect(new Set(keys).size).toBe(3);
  });
});

describe('an attempt that dies', () => {
  it('leaves what was answered, and the next one asks for the rest', async () => {
    const dead = new AbortController();
    const { answered } = await start((request, n) => (n === 3 ? dead.abort(new Error('gone')) : request.answer()));
    const embedder = embedderOf(server as EmbeddingServer, { batch: 2 });
    const many = Array.from({ length: 9 }, (_, n) => ({ path: `${n}.md`, content: `Number ${n}.` }));
    const jobId = crypto.randomUUID();
    const first = ingest(embedder, many, { jobId, signal: dead.signal });
    await expect(first.result).rejects.toThrow('gone');
    expect(answered).toHaveLength(4);
    const second = ingest(embedder, many, { jobId, resumedFrom: first.checkpoints.at(-1), previous: [] });
    expect(await second.result).toMatchObject({ added: 9, embedded: 5 });
    expect(new Set(answered).size).toBe(9);
    expect(answered).toHaveLength(9);
  });
});

describe('a server that is busy', () => {
  it.each<[string, (request: EmbeddingRequest) => void, Partial<EmbeddingLimits>]>([
    ['429 with a time', (request) => request.status(429, {}, { 'retry-after-ms': '30' }), {}],
    ['429 without one', (request) => request.status(429, {}), {}],
    ['500', (request) => request.status(500, { error: { message: 'no' } }), {}],
    ['503', (request) => request.status(503, {}), {}],
    ['drops the connection', (request) => request.response.destroy(), {}],
    ['hangs', () => {}, { requestMs: 100 }],
    ['hangs in its answer', (request) => request.response.writeHead(200).write('{"data": ['), { requestMs: 100 }],
  ])('%s is asked again inside the attempt, which says so', async (_, fail, limits) => {
    await start((request, n) => (n === 1 ? fail(request) : request.answer()));
    const attempt = ingest(embedderOf(server as EmbeddingServer, limits));
    expect(await attempt.result).toMatchObject({ embedded: 3 });
    expect(attempt.events.filter(({ type }) => type === 'waiting')).toMatchObject([
      { delayMs: expect.any(Number), error: { code: 'MODEL_FAILED' } },
    ]);
  });

  it('for longer than patience lasts fails the attempt; its texts are found by their words', async () => {
    await start((request) => request.status(503, {}));
    await expect(ingest(embedderOf(server as EmbeddingServer, { patienceMs: 0 })).result).rejects.toMatchObject({
      code: 'MODEL_FAILED',
      message: 'The embedding server answered 503: Service Unavailable',
    });
    expect(await sourcesOf('what about broth', undefined)).toEqual(['food.md']);
  });
});

describe('an answer that is none', () => {
  const vectors = documents.map(({ content }) => meaningOf(content));
  it.each<[string, (request: EmbeddingRequest) => void, string]>([
    [
      'fewer vectors than texts',
      (request) => request.answer(vectors.slice(1)),
      'gave an answer without a vector for each text',
    ],
    ['vectors of two lengths', (request) => request.answer([[1, 2], ...vectors.slice(1)]), 'in one answer'],
    ['no numbers in a vector', (request) => request.answer([[], [], []]), 'a vector of 0 numbers'],
    ['null for a number', (request) => request.answer([[null, 1], ...vectors.slice(1)]), 'answered 200'],
    [
      'a number that is too large',
      (request) => request.answer([[1e300], [1], [1]]),
      'something in it that is no number',
    ],
    ['a page of HTML', (request) => request.response.writeHead(200).end('<html>'), 'answered 200'],
  ])('%s fails the attempt: nothing of it is stored, the texts are', async (_, answer, message) => {
    await start(answer);
    const failing = ingest(embedderOf(server as EmbeddingServer)).result;
    await expect(failing).rejects.toMatchObject({ code: 'MODEL_FAILED', message: expect.stringContaining(message) });
    expect(server?.requests).toHaveLength(1);
    expect(await vectorRows()).toEqual([]);
    expect(await sourcesOf('what about broth', undefined)).toEqual(['food.md']);
  });

  it('vectors of another length than those that are stored', async () => {
    const embedder = embedderOf(await start((request, n) => request.answer(n === 1 ? undefined : [[1, 2, 3]])));
    await ingest(embedder).result;
    await expect(ingest(embedder, [{ path: 'more.md', content: 'More.' }]).result).rejects.toThrow(
      /gave vectors of 3 numbers, where those of .* have 5/,
    );
    expect((await vectorRows()).map(({ path }) => path)).toEqual(['cars.md', 'food.md', 'law.md']);
  });

  it('a refusal fails the job for good, and shows no key', async () => {
    await start((request) => request.status(401, { error: { message: 'bad key sk-test-0123456789' } }));
    await expect(ingest(embedderOf(server as EmbeddingServer)).result).rejects.toMatchObject({
      name: 'NonRetryableError',
      message: 'The embedding server answered 401: bad key [redacted]',
    });
  });
});

describe('a question', () => {
  it.each<[string, (request: EmbeddingRequest) => void]>([
    ['500', (request) => request.status(500, {})],
    ['hangs', () => {}],
    ['gives no vector', (request) => request.answer([])],
    ['gives a vector of another length', (request) => request.answer([[1, 2]])],
  ])('whose server %s is answered by its words', async (_, fail) => {
    await start((request, n) => (n === 1 ? request.answer() : fail(request)));
    const embedder = embedderOf(server as EmbeddingServer, { questionMs: 100 });
    await ingest(embedder).result;
    expect(await sourcesOf(NEAR, embedder)).toEqual(['law.md']);
  });

  it('after one that got no vector does not wait for one', async () => {
    await start((request) => request.status(500, {}));
    const embedder = embedderOf(server as EmbeddingServer);
    await ingest(undefined).result;
    for (let n = 0; n < 3; n++) expect(await sourcesOf(NEAR, embedder)).toEqual(['law.md']);
    expect(server?.requests).toHaveLength(1);
  });

  it('is answered by its words where the chunks have no vectors yet', async () => {
    await ingest(undefined).result;
    expect(await sourcesOf(NEAR, embedderOf(await start()))).toEqual(['law.md']);
  });

  it('of a follow-up has the question before in its vector', async () => {
    const embedder = embedderOf(await start());
    await ingest(embedder).result;
    const job = createAnswerJob({ model: undefined, answerPaceMs: 0, embedder });
    const conversationId = crypto.randomUUID();
    await runAttempt(db, job, { question: 'where is the vehicle?', collection, conversationId }).result;
    await runAttempt(db, job, { question: 'and who may move it?', collection, conversationId }).result;
    expect(server?.requests.at(-1)?.texts).toEqual(['where is the vehicle?\nand who may move it?']);
  });
});

describe('another model', () => {
  it('takes over when its vectors are complete; until then those of the first stay', async () => {
    const other = `${model}-2`;
    await start((request, n) => {
      if (request.model === model) request.answer();
      else if (n === 3) request.status(400, {});
      else request.answer(request.texts.map((text) => [...meaningOf(text), 0]));
    });
    const [first, second] = [model, other].map((name) => embedderOf(server as EmbeddingServer, { batch: 2 }, name));
    await ingest(first).result;
    // The second request of the other model: n is 3 with the first model's two, so the first of its own fails.
    await expect(ingest(second).result).rejects.toThrow('400');
    expect(await sourcesOf(NEAR, second)).toEqual(['law.md']);
    expect((await sourcesOf(NEAR, first)).sort()).toEqual(['cars.md', 'law.md']);
    expect(await ingest(second).result).toMatchObject({ unchanged: 3, embedded: 3 });
    expect(new Set((await vectorRows()).map((row) => row.model))).toEqual(new Set([other]));
    expect((await sourcesOf(NEAR, second)).sort()).toEqual(['cars.md', 'law.md']);
  });
});
