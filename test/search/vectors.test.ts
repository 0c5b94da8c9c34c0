import fc from 'fast-check';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Db } from '../../src/db/client.ts';
import { Embedder } from '../../src/jobs/embeddings/embedder.ts';
import { createIngestJob } from '../../src/jobs/ingest/ingest-job.ts';
import { builtInRetriever } from '../../src/search/retriever.ts';
import { quantise, withVectors } from '../../src/search/vectors.ts';
import { createTestDatabase, type TestDatabase } from '../helpers/services.ts';
import { type EmbeddingServer, meaningOf, startEmbeddingServer } from '../jobs/embeddings/embedding-server.ts';
import { openTestDb, runAttempt } from '../jobs/ingest/run-job.ts';

let database: TestDatabase;
let db: Db;
let server: EmbeddingServer;
let collectionId: string;

const documents = [
  { path: 'cars.md', content: 'The automobile stands in the garage.' },
  { path: 'law.md', content: 'Nobody may park here.' },
  { path: 'rain.md', content: 'A drizzle in the park.' },
];

beforeAll(async () => {
  database = await createTestDatabase();
  db = openTestDb(database.url);
  server = await startEmbeddingServer();
  const embedder = new Embedder({ baseUrl: server.baseUrl, apiKey: undefined, name: 'm' });
  await runAttempt(db, createIngestJob({}, embedder), { collection: 'c', documents }).result;
  collectionId = (await db.kysely.selectFrom('collections').select('id').executeTakeFirstOrThrow()).id;
});
afterAll(async () => {
  await server?.close();
  await db?.close();
  await database?.drop();
});

const find = async (question: string, options?: { maxBytes?: number }, model = 'm', limit = 5) => {
  const vector = { model, values: Float32Array.from(meaningOf(question)) };
  const found = await withVectors(builtInRetriever, Promise.resolve(vector), options).find(db.kysely, {
    collectionId,
    limit,
    terms: async (analyse) => (await analyse(question)).map(({ name }) => ({ lexeme: name, importance: 1 })),
  });
  return found.chunks.map(({ path }) => path);
};

it('what has the words and is near in meaning comes first, then what has the words or is near', async () => {
  expect(await find('a downpour in the park')).toEqual(['rain.md', 'law.md']);
  expect(new Set(await find('vehicles in the park'))).toEqual(new Set(['cars.md', 'law.md', 'rain.md']));
  expect(await find('vehicles in the park', {}, 'm', 1)).toHaveLength(1);
});

it('in a collection whose vectors are too many, only what the words have found is put in order by meaning', async () => {
  expect(await find('vehicles in the park', { maxBytes: 1 })).toEqual(expect.not.arrayContaining(['cars.md']));
  expect((await find('a downpour in the park', { maxBytes: 1 }))[0]).toBe('rain.md');
});

it('vectors of another model are compared with nothing', async () => {
  expect(await find('vehicles', {}, 'another')).toEqual([]);
});

it('a byte a number keeps the angle to a hundredth', () => {
  const cosine = (a: ArrayLike<number>, b: ArrayLike<number>) => {
    const dot = (x: ArrayLike<number>, y: ArrayLike<number>) =>
      Array.from(x).reduce((sum, value, index) => sum + value * (y[index] as number), 0);
    return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
  };
  const vector = fc.array(fc.double({ min: -1, max: 1, noNaN: true }), { minLength: 32, maxLength: 32 });
  fc.assert(
    fc.property(vector, vector, fc.double({ min: 1e-6, max: 1e6, noNaN: true }), (a, b, scale) => {
      const large = (values: number[]) => values.some((value) => Math.abs(value) > 0.1);
      fc.pre(large(a) && large(b));
      const bytes = quantise(Float32Array.from(a, (value) => value * scale));
      const stored = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);
      expect(cosine(stored, b)).toBeCloseTo(cosine(a, b), 1.7);
    }),
  );
  expect([...quantise(new Float32Array(4))]).toEqual([0, 0, 0, 0]);
});
