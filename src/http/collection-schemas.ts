/** What the routes of collections and documents take and give. */
import { z } from 'zod';
import type { ChunkRecord, CollectionRecord, CollectionSettings, DocumentRecord } from '../client/collections.ts';
import { LANGUAGES } from '../search/language.ts';
import { enqueueHeaders, queryInt } from './schemas.ts';

const MAX_PAGE = 100;

const collection = z.string().describe('Its name.');
const document = z.string().describe('Its id, or its path, percent-encoded (`/` is `%2F`).');
const nextCursor = z.string().nullable().describe('`null`: this is the last page.');
const timestamp = z.iso.datetime();

export const collectionParams = z.object({ collection });
export const documentParams = z.object({ collection, document });
export const chunkParams = z.object({
  collection,
  document,
  ordinal: z
    .string()
    .regex(/^\d{1,9}$/, 'expected the ordinal of a chunk, from 0')
    .transform(Number)
    .describe('Its place in the document, from 0.'),
});

export const pageQuery = z.strictObject({
  cursor: z.string().max(5_000).optional().describe('`nextCursor` of the page before.'),
  limit: queryInt(1, MAX_PAGE).describe('Default 20.'),
});

export const uploadQuery = z.strictObject({
  path: z.string().optional().describe('What a body that is one document is called in its collection.'),
  removeMissing: z
    .enum(['true', 'false'])
    .optional()
    .describe('`true`: also removes documents of the collection that are not among these.'),
});

export const uploadHeaders = enqueueHeaders.extend({
  'x-document-path': z.string().optional().describe('The same as `path`, in UTF-8.'),
});

const language = z.enum(LANGUAGES, { error: `expected null or one of ${LANGUAGES.join(', ')}` }).nullable();

export const collectionSettings = z.strictObject({
  language: language.describe(
    'ISO 639-1 code; `none`: words as they are written; `null`: that of each document is detected.',
  ),
}) satisfies z.ZodType<CollectionSettings>;

export const collectionAnswer = z.object({
  name: z.string(),
  language: language.describe('`null`: that of each document is detected.'),
  documents: z.int(),
  chunks: z.int(),
  bytes: z.int().describe('Of the documents as they were given.'),
  createdAt: timestamp,
  updatedAt: timestamp.nullable().describe('When a document was last written; `null`: it is empty.'),
}) satisfies z.ZodType<CollectionRecord>;

export const documentAnswer = z.object({
  id: z.uuid(),
  path: z.string(),
  title: z.string().describe('At most 500 characters of it.'),
  bytes: z.int(),
  chunks: z.int(),
  revision: z.int().describe('1 when added, +1 on every change.'),
  contentHash: z.string().describe('SHA-256, hexadecimal.'),
  jobId: z.uuid().describe('The job that wrote this revision.'),
  updatedAt: timestamp,
}) satisfies z.ZodType<DocumentRecord>;

const chunk = z.object({
  documentId: z.uuid(),
  ordinal: z.int().describe('Its place in the document, from 0.'),
  start: z
    .int()
    .nullable()
    .describe("Where it begins in the document's text, in UTF-16 units; null: written by an earlier build."),
  end: z.int().nullable().describe('Where it ends there, exclusive.'),
  page: z.int().nullable().describe('The page on which it begins, from 1; null: there are none.'),
  heading: z.string().describe('The title and the headings above it, outermost first, ` > ` between.'),
  content: z.string(),
}) satisfies z.ZodType<ChunkRecord>;

export const chunkAnswer = chunk.extend({ path: z.string(), title: z.string() });
export const collectionPage = z.object({ collections: z.array(collectionAnswer), nextCursor });
export const documentPage = z.object({ documents: z.array(documentAnswer), nextCursor });
export const chunkPage = z.object({ document: documentAnswer, chunks: z.array(chunk), nextCursor });
export const deletedCollection = z.object({ name: z.string(), documents: z.int().describe('How many it had.') });
