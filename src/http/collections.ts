/** Routes that list, show and delete collections, documents and chunks. */
import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import type { JobClient } from '../client/client.ts';
import { CONTROL_BODY_BYTES } from './body.ts';
import type { ByteBudget } from './byte-budget.ts';
import {
  chunkAnswer,
  chunkPage,
  chunkParams,
  collectionAnswer,
  collectionPage,
  collectionParams,
  collectionSettings,
  deletedCollection,
  documentAnswer,
  documentPage,
  documentParams,
  pageQuery,
} from './collection-schemas.ts';
import { reading } from './counted-bytes.ts';
import { problemResponses } from './problem.ts';

const MISSING = ['COLLECTION_NOT_FOUND', 'DOCUMENT_NOT_FOUND'] as const;
const COMMON = ['UNAUTHORIZED', 'SCOPE_MISSING', 'STORE_UNAVAILABLE', 'BUSY', 'SHUTTING_DOWN'] as const;

interface CollectionRoutesOptions {
  client: JobClient;
  budget: ByteBudget;
}

export async function collectionRoutes(
  instance: FastifyInstance,
  { client, budget }: CollectionRoutesOptions,
): Promise<void> {
  const app = instance.withTypeProvider<ZodTypeProvider>();
  const { collections } = client;

  app.get(
    '/collections',
    {
      schema: {
        summary: 'The collections, by name',
        tags: ['documents'],
        querystring: pageQuery,
        response: { 200: collectionPage, ...problemResponses('INPUT_INVALID', 'CURSOR_INVALID', ...COMMON) },
      },
    },
    async (request) =>
      reading(budget, request, async ({ tenant, query }) => collections.list({ tenant, ...given(query) })),
  );

  app.get(
    '/collections/:collection',
    {
      schema: {
        summary: 'One collection: how many documents, chunks and bytes it has',
        tags: ['documents'],
        params: collectionParams,
        response: { 200: collectionAnswer, ...problemResponses('COLLECTION_NOT_FOUND', ...COMMON) },
      },
    },
    async (request) =>
      reading(budget, request, async ({ tenant, params }) => collections.get(params.collection, { tenant })),
  );

  app.delete(
    '/collections/:collection',
    {
      bodyLimit: CONTROL_BODY_BYTES,
      schema: {
        summary: 'Delete a collection with its documents',
        description:
          'Part by part: sent again after a lost answer, it continues. An ingest in flight may make it anew.',
        tags: ['documents'],
        params: collectionParams,
        response: { 200: deletedCollection, ...problemResponses('COLLECTION_NOT_FOUND', 'BODY_TOO_LARGE', ...COMMON) },
      },
    },
    async ({ tenant, params }) => ({
      name: params.collection,
      ...(await collections.delete(params.collection, { tenant })),
    }),
  );
  await app.register(settingRoute, { client });
  await app.register(documentRoutes, { client, budget });
}

async function settingRoute(instance: FastifyInstance, { client }: { client: JobClient }): Promise<void> {
  const app = instance.withTypeProvider<ZodTypeProvider>();

  app.put(
    '/collections/:collection',
    {
      bodyLimit: CONTROL_BODY_BYTES,
      schema: {
        summary: 'Make a collection, or set the language of its documents',
        description: 'Documents that it has are analysed anew when they are ingested next.',
        tags: ['documents'],
        params: collectionParams,
        body: collectionSettings,
        response: { 200: collectionAnswer, ...problemResponses('INPUT_INVALID', 'BODY_TOO_LARGE', ...COMMON) },
      },
    },
    async ({ tenant, params, body }) => client.collections.set(params.collection, body, { tenant }),
  );
}

async function documentRoutes(instance: FastifyInstance, { client, budget }: CollectionRoutesOptions): Promise<void> {
  const app = instance.withTypeProvider<ZodTypeProvider>();
  const { collections } = client;

  app.get(
    '/collections/:collection/documents',
    {
      schema: {
        summary: 'The documents of a collection, by path',
        tags: ['documents'],
        params: collectionParams,
        querystring: pageQuery,
        response: {
          200: documentPage,
          ...problemResponses('INPUT_INVALID', 'CURSOR_INVALID', 'COLLECTION_NOT_FOUND', ...COMMON),
        },
      },
    },
    async (request) =>
      reading(budget, request, async ({ tenant, params, query }) =>
        collections.documents(params.collection, { tenant, ...given(query) }),
      ),
  );

  app.get(
    '/collections/:collection/documents/:document',
    {
      schema: {
        summary: 'One document, by its id or its path',
        tags: ['documents'],
        params: documentParams,
        response: { 200: documentAnswer, ...problemResponses(...MISSING, ...COMMON) },
      },
    },
    async (request) =>
      reading(budget, request, async ({ tenant, params }) =>
        collections.document(params.collection, params.document, { tenant }),
      ),
  );

  app.delete(
    '/collections/:collection/documents/:document',
    {
      bodyLimit: CONTROL_BODY_BYTES,
      schema: {
        summary: 'Delete a document with its chunks; the answer shows it as it was',
        tags: ['documents'],
        params: documentParams,
        response: { 200: documentAnswer, ...problemResponses(...MISSING, 'BODY_TOO_LARGE', ...COMMON) },
      },
    },
    async (request) =>
      reading(budget, request, async ({ tenant, params }) =>
        collections.deleteDocument(params.collection, params.document, { tenant }),
      ),
  );

  await app.register(chunkRoutes, { client, budget });
}

async function chunkRoutes(instance: FastifyInstance, { client, budget }: CollectionRoutesOptions): Promise<void> {
  const app = instance.withTypeProvider<ZodTypeProvider>();
  const { collections } = client;

  app.get(
    '/collections/:collection/documents/:document/chunks',
    {
      schema: {
        summary: "A document's chunks, in their order",
        description: 'A page has at most 256 KiB of text, or one chunk.',
        tags: ['documents'],
        params: documentParams,
        querystring: pageQuery,
        response: { 200: chunkPage, ...problemResponses('INPUT_INVALID', 'CURSOR_INVALID', ...MISSING, ...COMMON) },
      },
    },
    async (request) =>
      reading(budget, request, async ({ tenant, params, query }) =>
        collections.chunks(params.collection, params.document, { tenant, ...given(query) }),
      ),
  );

  app.get(
    '/collections/:collection/documents/:document/chunks/:ordinal',
    {
      schema: {
        summary: 'One chunk: what a source of an answer points to',
        tags: ['documents'],
        params: chunkParams,
        response: { 200: chunkAnswer, ...problemResponses('INPUT_INVALID', ...MISSING, ...COMMON) },
      },
    },
    async (request) =>
      reading(budget, request, async ({ tenant, params }) =>
        collections.chunk(params.collection, params.document, params.ordinal, { tenant }),
      ),
  );
}

function given<T extends object>(query: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(query).filter(([, value]) => value !== undefined)) as never;
}
