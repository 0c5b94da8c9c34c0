/**
 * Documents that come as bytes: each is stored part by part as it arrives, then one `ingest` job is enqueued that
 * names them by their hashes. So the same documents make the same input, whatever request brought them, and
 * bytes pass neither Redis nor the input of a job.
 */
import { createHash } from 'node:crypto';
import { z } from 'zod';
import { asOwn } from '../db/own-schema.ts';
import {
  appendPart,
  attachUploads,
  countUploadBytes,
  deleteUploads,
  finishUpload,
  insertUpload,
} from '../db/uploads.ts';
import { checkKey } from '../enqueue/fingerprint.ts';
import { InputInvalidError, OncefleetError } from '../errors.ts';
import { checkPath, collectionName } from '../jobs/ingest/input-text.ts';
import { MAX_DOCUMENT_BYTES, parseOptions, STORED_BYTES, tenantName, UPLOAD_BYTES, wholeNumber } from '../options.ts';
import { uuidV7 } from '../util/uuid.ts';
import { enqueueJob } from './enqueue.ts';
import { type ClientHost, tenantOf } from './host.ts';
import type { JobHandle } from './types.ts';

/** A row of Postgres, and what a request holds at a time. */
export const PART_BYTES = 512 * 1024;
/** As many as an ingest job takes. */
const MAX_DOCUMENTS = 10_000;
/** Requests that a process stores at once, of all tenants and of one: each holds a part and what its socket has. */
const MAX_AT_ONCE = 32;
const MAX_AT_ONCE_OF_TENANT = 8;

export interface NewDocument {
  /** What it is called in its collection. */
  path: string;
  contentType?: string;
  /**
   * SHA-256 of the body, hexadecimal, where it is known before. An array of documents that all have one, added under a key that
   * exists, is not read.
   */
  sha256?: string;
  body: AsyncIterable<Uint8Array> | Iterable<Uint8Array>;
}

export interface AddDocumentsOptions {
  tenant?: string;
  /** As with `enqueue`. */
  key?: string;
  /** Also removes documents of the collection that are not among these. */
  removeMissing?: boolean;
  /** All documents together, bytes; default 1 GiB. */
  maxBytes?: number;
  /** What of this tenant may be stored at once, these documents included, bytes; default 8 GiB. */
  maxStoredBytes?: number;
}

const optionsSchema = z.strictObject({
  tenant: tenantName.optional(),
  key: z.string().optional(),
  removeMissing: z.boolean().optional(),
  maxBytes: wholeNumber(UPLOAD_BYTES).default(UPLOAD_BYTES.default),
  maxStoredBytes: wholeNumber(STORED_BYTES).default(STORED_BYTES.default),
} satisfies Record<keyof AddDocumentsOptions, z.ZodType>);

type Options = z.output<typeof optionsSchema>;

interface Known {
  path: string;
  sha256: string;
  contentType: string | undefined;
}

interface Stored extends Known {
  id: string;
}

interface Room {
  /** Bytes that may still come. */
  left: number;
  /** What is said when more come. */
  refusal(): OncefleetError;
}

export function createAddDocuments(host: ClientHost) {
  const counts = new Map<string, number>();
  let all = 0;
  return async (
    collection: string,
    documents: AsyncIterable<NewDocument> | Iterable<NewDocument>,
    options: AddDocumentsOptions = {},
  ): Promise<JobHandle> => {
    const checked = parseOptions('add', optionsSchema, options);
    // Before anything is read for it.
    parseOptions('add', z.object({ collection: collectionName }), { collection });
    if (checked.key !== undefined) checkKey(checked.key);
    const tenant = tenantOf(host, checked);
    const ofTenant = counts.get(tenant) ?? 0;
    if (all >= MAX_AT_ONCE || ofTenant >= MAX_AT_ONCE_OF_TENANT)
      throw new OncefleetError('BUSY', 'Too many uploads arrive at this process at once; try again in a moment');
    all++;
    counts.set(tenant, ofTenant + 1);
    try {
      return await add(host, tenant, collection, documents, checked);
    } finally {
      all--;
      const left = (counts.get(tenant) ?? 1) - 1;
      if (left === 0) counts.delete(tenant);
      else counts.set(tenant, left);
    }
  };
}

async function add(
  host: ClientHost,
  tenant: string,
  collection: string,
  documents: AsyncIterable<NewDocument> | Iterable<NewDocument>,
  options: Options,
): Promise<JobHandle> {
  const db = host.runtime.db.kysely;
  const begun: string[] = [];
  let kept = false;
  try {
    const earlier = await findEarlier(host, tenant, collection, documents, options);
    if (earlier !== undefined) return earlier;
    const stored = await storeAll(host, tenant, documents, options, begun);
    const handle = await enqueueStored(host, tenant, inputOf(collection, stored, options), stored, options);
    kept = handle.outcome === 'created';
    return handle;
  } finally {
    // What is left by a process that dies here, or without Postgres, the sweep removes.
    if (!kept) await deleteUploads(db, begun).catch(() => undefined);
  }
}

/** The job of the key, if it exists: what it needs is stored, or was. @throws OncefleetError KEY_MISMATCH */
async function findEarlier(
  host: ClientHost,
  tenant: string,
  collection: string,
  documents: AsyncIterable<NewDocument> | Iterable<NewDocument>,
  options: Options,
): Promise<JobHandle | undefined> {
  if (options.key === undefined || !Array.isArray(documents)) return undefined;
  const known = (documents as readonly NewDocument[]).flatMap(({ path, sha256, contentType }) =>
    sha256 === undefined ? [] : [{ path, sha256, contentType }],
  );
  if (known.length === 0 || known.length < documents.length) return undefined;
  const input = inputOf(collection, known, options);
  const { key } = options;
  // Whether it exists is what an enqueue finds out. One that makes a job is taken back: its documents are not there yet.
  const taken = host.runtime.db.plain.transaction().execute(async (tx) => {
    const handle = await enqueueJob(host, 'ingest', input, { tenant, tx, key });
    if (handle.outcome === 'created') throw new NotThere();
    return handle;
  });
  return taken.catch((error: unknown) => {
    if (error instanceof NotThere) return undefined;
    throw error;
  });
}

class NotThere extends Error {}

async function storeAll(
  host: ClientHost,
  tenant: string,
  documents: AsyncIterable<NewDocument> | Iterable<NewDocument>,
  { maxBytes, maxStoredBytes }: Options,
  begun: string[],
): Promise<Stored[]> {
  const db = host.runtime.db.kysely;
  const stored: Stored[] = [];
  const paths = new Set<string>();
  const request: Room = { left: maxBytes, refusal: () => tooLarge(`the documents together, at most ${maxBytes}`) };
  for await (const { path, contentType, body, sha256: expected } of documents) {
    const at = `documents[${stored.length}]`;
    checkDocument(path, paths, at);
    const free = maxStoredBytes - (await countUploadBytes(db, tenant));
    const rooms: Room[] = [
      request,
      { left: MAX_DOCUMENT_BYTES, refusal: () => tooLarge(`${at} (${path}), at most ${MAX_DOCUMENT_BYTES}`) },
      { left: free, refusal: () => uploadsFull(maxStoredBytes) },
    ];
    if (free <= 0) throw uploadsFull(maxStoredBytes);
    const id = uuidV7();
    begun.push(id);
    await insertUpload(db, { id, tenant, path, contentType });
    const sha256 = await storeParts(host, id, body, rooms);
    if (expected !== undefined && expected !== sha256) {
      const message = 'is not that of the bytes that came: the document has changed meanwhile';
      throw new InputInvalidError('Documents', [{ path: `${at}.sha256`, message }]);
    }
    await finishUpload(db, id, sha256);
    stored.push({ id, path, sha256, contentType });
  }
  return stored;
}

/** @returns SHA-256 of it, hexadecimal */
async function storeParts(host: ClientHost, id: string, body: NewDocument['body'], rooms: Room[]): Promise<string> {
  const db = host.runtime.db.kysely;
  const hash = createHash('sha256');
  const part = Buffer.allocUnsafe(PART_BYTES);
  let [length, ordinal] = [0, 0];
  const flush = async () => {
    // pg keeps what it is given until it is sent, which is before the next part is copied over it.
    if (!(await appendPart(db, id, ordinal++, part.subarray(0, length))))
      throw new OncefleetError('REQUEST_STALLED', 'The upload took too long and was removed; send it again');
    length = 0;
  };
  for await (const chunk of body) {
    for (const room of rooms) {
      room.left -= chunk.length;
      if (room.left < 0) throw room.refusal();
    }
    hash.update(chunk);
    for (let from = 0; from < chunk.length; ) {
      const taken = Math.min(PART_BYTES - length, chunk.length - from);
      part.set(chunk.subarray(from, from + taken), length);
      length += taken;
      from += taken;
      if (length === PART_BYTES) await flush();
    }
  }
  if (length > 0) await flush();
  return hash.digest('hex');
}

/** What the job is given: the same for the same documents. */
function inputOf(collection: string, documents: readonly Known[], { removeMissing }: Options) {
  return {
    collection,
    documents: documents.map(({ path, sha256, contentType }) => ({
      path,
      upload: sha256,
      ...(contentType === undefined ? {} : { contentType }),
    })),
    ...(removeMissing === true ? { removeMissing } : {}),
  };
}

/** The job, and its documents with it: both are committed, or neither. */
async function enqueueStored(
  host: ClientHost,
  tenant: string,
  input: ReturnType<typeof inputOf>,
  stored: readonly Stored[],
  { key }: Options,
): Promise<JobHandle> {
  return host.runtime.db.plain.transaction().execute(async (tx) => {
    const handle = await enqueueJob(host, 'ingest', input, { tenant, tx, ...(key === undefined ? {} : { key }) });
    if (handle.outcome !== 'created') return handle;
    const ids = stored.map(({ id }) => id);
    if ((await attachUploads(asOwn(tx), ids, handle.id)) !== ids.length)
      throw new OncefleetError('REQUEST_STALLED', 'The upload took too long and was removed; send it again');
    return handle;
  });
}

/** @throws InputInvalidError */
function checkDocument(path: string, paths: Set<string>, at: string): void {
  const issues: string[] = [];
  if (typeof path !== 'string') issues.push('is missing: give the document a name');
  else checkPath(path, { addIssue: ({ message }) => issues.push(message) });
  if (paths.has(path)) issues.push('is the path of another document of this request too');
  if (paths.size >= MAX_DOCUMENTS) issues.push(`is one too many: at most ${MAX_DOCUMENTS} at once`);
  if (issues.length > 0)
    throw new InputInvalidError(
      'Documents',
      issues.map((message) => ({ path: `${at}.path`, message })),
    );
  paths.add(path);
}

function tooLarge(what: string): OncefleetError {
  return new OncefleetError('BODY_TOO_LARGE', `Larger than this server accepts: ${what} bytes`);
}

function uploadsFull(max: number): OncefleetError {
  return new OncefleetError(
    'UPLOADS_FULL',
    `${max} bytes of documents may wait for their jobs, and no more fit: try again when some have been ingested`,
  );
}
