/** Looking at collections, their documents and chunks, and deleting them. */
import { z } from 'zod';
import {
  type ChunkRow,
  type CollectionRow,
  type DocumentRow,
  deleteCollection,
  deleteDocument,
  findDocument,
  listChunks,
  listCollections,
  listDocuments,
} from '../db/catalog.ts';
import { findCollection, setCollectionLanguage } from '../db/documents.ts';
import { InputInvalidError, OncefleetError } from '../errors.ts';
import { collectionName } from '../jobs/ingest/input-text.ts';
import { MAX_INT } from '../numbers.ts';
import { parseOptions, tenantName, wholeNumber } from '../options.ts';
import { LANGUAGES, type Language } from '../search/language.ts';
import { isUuid } from '../util/uuid.ts';
import { type AddDocumentsOptions, createAddDocuments, type NewDocument } from './add-documents.ts';
import { type ClientHost, tenantOf } from './host.ts';
import type { JobHandle } from './types.ts';

const DEFAULT_PAGE = 20;
const MAX_PAGE = 100;
/** Text of the chunks of a page, UTF-8; one that is longer is a page by itself. */
const MAX_PAGE_BYTES = 256 * 1024;

export interface PageOptions {
  tenant?: string;
  /** `nextCursor` of the page before. */
  cursor?: string;
  /** 1 to 100; default 20. */
  limit?: number;
}

type TenantOptions = Pick<PageOptions, 'tenant'>;

export interface CollectionRecord {
  name: string;
  /** ISO 639-1 code, or `none`; `null`: that of each document is detected. */
  language: Language | null;
  documents: number;
  chunks: number;
  /** Of the documents as they were given. */
  bytes: number;
  createdAt: string;
  /** When a document was last written; `null`: it is empty. */
  updatedAt: string | null;
}

export interface DocumentRecord {
  id: string;
  /** Unique in its collection. */
  path: string;
  title: string;
  bytes: number;
  chunks: number;
  /** 1 when added, +1 on every change. */
  revision: number;
  /** SHA-256, hexadecimal. */
  contentHash: string;
  /** The job that wrote this revision. */
  jobId: string;
  updatedAt: string;
}

export interface ChunkRecord {
  documentId: string;
  /** Its place in the document, from 0. */
  ordinal: number;
  /** The title and the headings above it, outermost first, ` > ` between. */
  heading: string;
  content: string;
  /**
   * Where it stands in the document's text, in UTF-16 units, `end` exclusive: of the file, where that is text (without a byte order mark,
   * lines ended by LF), else of what was made of it. `null`: an earlier build has written it.
   */
  start: number | null;
  end: number | null;
  /** The page on which it begins, from 1; `null` where there are none. */
  page: number | null;
}

export interface CollectionSettings {
  /** ISO 639-1 code of one that is known; `none`: words are found as they are written; `null`: each document's is detected. */
  language: Language | null;
}

/** A tenant's collections. A document is named by its id or its path. */
export interface Collections {
  /** By name. @throws InputInvalidError; OncefleetError CURSOR_INVALID, BUSY */
  list(options?: PageOptions): Promise<{ collections: CollectionRecord[]; nextCursor: string | null }>;
  /** @throws OncefleetError COLLECTION_NOT_FOUND, BUSY */
  get(name: string, options?: TenantOptions): Promise<CollectionRecord>;
  /**
   * Makes it if need be, and sets what language its documents are analysed in. Documents that it has are analysed anew when they are
   * ingested next, changed or not.
   *
   * @throws InputInvalidError; OncefleetError COLLECTION_NOT_FOUND it was deleted meanwhile, BUSY
   */
  set(name: string, settings: CollectionSettings, options?: TenantOptions): Promise<CollectionRecord>;
  /**
   * Deletes it with all its documents, part by part; called again, it continues. An ingest that runs meanwhile may make it anew.
   *
   * @throws OncefleetError COLLECTION_NOT_FOUND
   */
  delete(name: string, options?: TenantOptions): Promise<{ documents: number }>;
  /**
   * Stores documents as they come and enqueues an `ingest` job for them: both, or neither. The bodies are read one
   * after another, 512 KiB at a time. A call that fails leaves nothing.
   *
   * @throws InputInvalidError; OncefleetError KEY_INVALID, KEY_MISMATCH, BODY_TOO_LARGE, UPLOADS_FULL, BUSY,
   *   REQUEST_STALLED it took so long that the sweep has removed it; whatever a body throws
   */
  add(
    name: string,
    documents: AsyncIterable<NewDocument> | Iterable<NewDocument>,
    options?: AddDocumentsOptions,
  ): Promise<JobHandle>;
  /** By path. @throws OncefleetError COLLECTION_NOT_FOUND, CURSOR_INVALID, BUSY */
  documents(name: string, options?: PageOptions): Promise<{ documents: DocumentRecord[]; nextCursor: string | null }>;
  /** @throws OncefleetError COLLECTION_NOT_FOUND, DOCUMENT_NOT_FOUND */
  document(name: string, document: string, options?: TenantOptions): Promise<DocumentRecord>;
  /** @throws OncefleetError COLLECTION_NOT_FOUND, DOCUMENT_NOT_FOUND */
  deleteDocument(name: string, document: string, options?: TenantOptions): Promise<DocumentRecord>;
  /**
   * In their order; a page has at most 256 KiB of text, or one chunk.
   *
   * @throws OncefleetError COLLECTION_NOT_FOUND, DOCUMENT_NOT_FOUND, CURSOR_INVALID, BUSY
   */
  chunks(
    name: string,
    document: string,
    options?: PageOptions,
  ): Promise<{ document: DocumentRecord; chunks: ChunkRecord[]; nextCursor: string | null }>;
  /** @throws OncefleetError COLLECTION_NOT_FOUND, DOCUMENT_NOT_FOUND */
  chunk(
    name: string,
    document: string,
    ordinal: number,
    options?: TenantOptions,
  ): Promise<ChunkRecord & { path: string; title: string }>;
}

const tenantShape = { tenant: tenantName.optional() };
const tenantOnly = z.strictObject(tenantShape satisfies Record<keyof TenantOptions, z.ZodType>);
const pageSchema = z.strictObject({
  ...tenantShape,
  cursor: z.string().optional(),
  limit: wholeNumber({ min: 1, max: MAX_PAGE }).optional(),
} satisfies Record<keyof PageOptions, z.ZodType>);

const settingsSchema = z.strictObject({
  language: z.enum(LANGUAGES, { error: `expected null or one of ${LANGUAGES.join(', ')}` }).nullable(),
} satisfies Record<keyof CollectionSettings, z.ZodType>);

export function createCollections(host: ClientHost): Collections {
  const db = host.runtime.db.kysely;
  return {
    async list(options = {}) {
      const { limit = DEFAULT_PAGE, cursor, tenant } = parseOptions('list', pageSchema, options);
      const after = readText(cursor);
      const rows = await host.search((trx) =>
        listCollections(trx, tenantOf(host, { tenant }), { after, limit: limit + 1 }),
      );
      const page = rows.slice(0, limit);
      return { collections: page.map(toCollection), nextCursor: cursorAfter(rows, limit, ({ name }) => name) };
    },
    async get(name, options = {}) {
      const { tenant } = parseOptions('get', tenantOnly, options);
      const wanted = { name: isText(name) ? name : '', limit: 1 };
      const [row] = await host.search((trx) => listCollections(trx, tenantOf(host, { tenant }), wanted));
      if (row === undefined) throw collectionNotFound(name);
      return toCollection(row);
    },
    async set(name, settings, options = {}) {
      const { tenant } = parseOptions('set', tenantOnly, options);
      const { language } = parseOptions('set', settingsSchema, settings);
      const parsed = collectionName.safeParse(name);
      if (!parsed.success)
        throw new InputInvalidError(
          'Collection',
          parsed.error.issues.map(({ message }) => ({ path: 'name', message })),
        );
      const own = tenantOf(host, { tenant });
      await db.transaction().execute((trx) => setCollectionLanguage(trx, own, parsed.data, language));
      const [row] = await host.search((trx) => listCollections(trx, own, { name: parsed.data, limit: 1 }));
      if (row === undefined) throw collectionNotFound(name);
      return toCollection(row);
    },
    async delete(name, options = {}) {
      const { tenant } = parseOptions('delete', tenantOnly, options);
      return { documents: await deleteCollection(db, await collectionIdOf(host, tenant, name)) };
    },
    add: createAddDocuments(host),
    async documents(name, options = {}) {
      const { limit = DEFAULT_PAGE, cursor, tenant } = parseOptions('documents', pageSchema, options);
      const after = readText(cursor);
      const collectionId = await collectionIdOf(host, tenant, name);
      const rows = await host.search((trx) => listDocuments(trx, collectionId, { after, limit: limit + 1 }));
      const page = rows.slice(0, limit);
      return { documents: page.map(toDocument), nextCursor: cursorAfter(rows, limit, ({ path }) => path) };
    },
    async document(name, document, options = {}) {
      const { tenant } = parseOptions('document', tenantOnly, options);
      return toDocument(await documentOf(host, tenant, name, document));
    },
    async deleteDocument(name, document, options = {}) {
      const { tenant } = parseOptions('deleteDocument', tenantOnly, options);
      const row = await documentOf(host, tenant, name, document);
      if (!(await deleteDocument(db, row.id))) throw documentNotFound(name, document);
      return toDocument(row);
    },
    chunks: (name, document, options) => chunkPage(host, name, document, options),
    async chunk(name, document, ordinal, options = {}) {
      const { tenant } = parseOptions('chunk', tenantOnly, options);
      const row = await documentOf(host, tenant, name, document);
      const isOrdinal = Number.isInteger(ordinal) && ordinal >= 0 && ordinal <= MAX_INT;
      const [chunk] = isOrdinal
        ? await listChunks(db, row.id, { after: ordinal - 1, limit: 1, maxBytes: MAX_PAGE_BYTES })
        : [];
      if (chunk?.ordinal !== ordinal) throw documentNotFound(name, `${document} with a chunk ${ordinal}`);
      return { ...toChunk(row, chunk), path: row.path, title: row.title };
    },
  };
}

async function chunkPage(host: ClientHost, name: string, document: string, options: PageOptions = {}) {
  const { limit = DEFAULT_PAGE, cursor, tenant } = parseOptions('chunks', pageSchema, options);
  const after = readOrdinal(cursor);
  const row = await documentOf(host, tenant, name, document);
  const rows = await host.search((trx) =>
    listChunks(trx, row.id, { after, limit: limit + 1, maxBytes: MAX_PAGE_BYTES }),
  );
  const page = rows.slice(0, limit);
  const last = page.at(-1);
  const more = last !== undefined && (rows.length > limit || last.ordinal < row.chunk_count - 1);
  return {
    document: toDocument(row),
    chunks: page.map((chunk) => toChunk(row, chunk)),
    nextCursor: more ? toCursor(String(last.ordinal)) : null,
  };
}

/** @throws OncefleetError COLLECTION_NOT_FOUND */
async function collectionIdOf(host: ClientHost, tenant: string | undefined, name: string): Promise<string> {
  const found = isText(name)
    ? await findCollection(host.runtime.db.kysely, tenantOf(host, { tenant }), name)
    : undefined;
  if (found === undefined) throw collectionNotFound(name);
  return found.id;
}

/** @throws OncefleetError COLLECTION_NOT_FOUND, DOCUMENT_NOT_FOUND */
async function documentOf(
  host: ClientHost,
  tenant: string | undefined,
  name: string,
  document: string,
): Promise<DocumentRow> {
  const db = host.runtime.db.kysely;
  const collectionId = await collectionIdOf(host, tenant, name);
  const byId = isUuid(document) ? await findDocument(db, collectionId, { id: document }) : undefined;
  const found = byId ?? (isText(document) ? await findDocument(db, collectionId, { path: document }) : undefined);
  if (found === undefined) throw documentNotFound(name, document);
  return found;
}

function collectionNotFound(name: string): OncefleetError {
  const collection = String(name).slice(0, 100);
  return new OncefleetError('COLLECTION_NOT_FOUND', `There is no collection "${collection}"`, {
    details: { collection },
  });
}

function documentNotFound(name: string, document: string): OncefleetError {
  const what = String(document).slice(0, 200);
  return new OncefleetError('DOCUMENT_NOT_FOUND', `The collection "${name}" has no document ${what}`, {
    details: { collection: name, document: what },
  });
}

/** What Postgres takes as text: a NUL is an error of its. */
function isText(text: unknown): text is string {
  return typeof text === 'string' && !text.includes('\0');
}

function toCursor(text: string): string {
  return Buffer.from(text).toString('base64url');
}

function cursorAfter<T>(rows: readonly T[], limit: number, nameOf: (row: T) => string): string | null {
  const last = rows[limit - 1];
  return rows.length > limit && last !== undefined ? toCursor(nameOf(last)) : null;
}

/** @throws OncefleetError CURSOR_INVALID */
function readText(cursor: string | undefined): string | undefined {
  if (cursor === undefined) return undefined;
  const text = Buffer.from(cursor, 'base64url').toString();
  if (text === '' || text.includes('\0') || toCursor(text) !== cursor) throw cursorInvalid();
  return text;
}

function readOrdinal(cursor: string | undefined): number {
  const text = readText(cursor);
  if (text === undefined) return -1;
  if (!/^\d{1,10}$/.test(text) || Number(text) > MAX_INT) throw cursorInvalid();
  return Number(text);
}

function cursorInvalid(): OncefleetError {
  return new OncefleetError('CURSOR_INVALID', 'cursor: expected the nextCursor of an earlier page');
}

function toCollection(row: CollectionRow): CollectionRecord {
  const { name, documents, chunks, bytes } = row;
  return {
    name,
    language: row.language as Language | null,
    documents,
    chunks,
    bytes,
    createdAt: row.created_at.toISOString(),
    updatedAt: row.updated_at?.toISOString() ?? null,
  };
}

function toDocument(row: DocumentRow): DocumentRecord {
  return {
    id: row.id,
    path: row.path,
    title: row.title,
    bytes: row.byte_length,
    chunks: row.chunk_count,
    revision: row.revision,
    contentHash: row.content_hash,
    jobId: row.job_id,
    updatedAt: row.updated_at.toISOString(),
  };
}

function toChunk(document: DocumentRow, chunk: ChunkRow): ChunkRecord {
  return { documentId: document.id, ...chunk };
}
