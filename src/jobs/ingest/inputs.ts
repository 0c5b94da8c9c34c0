/** The documents of an ingest job: as text in its input, or as an upload that it names. */
import { createHash } from 'node:crypto';
import { z } from 'zod';
import { asOwn } from '../../db/own-schema.ts';
import { findUpload, readParts } from '../../db/uploads.ts';
import { DocumentError } from '../../errors.ts';
import type { JobContext } from '../define-job.ts';
import { characterProblem, checkPath } from './input-text.ts';
import type { DocumentSource } from './parse/parse.ts';

/** Far above any text somebody wrote; a body limit usually comes first. In UTF-16 units. */
const MAX_CONTENT_LENGTH = 16 * 1024 * 1024;
const MAX_CONTENT_TYPE_LENGTH = 255;

export const documentInput = z
  .object({
    /** What the document is called in sources. */
    path: z.string().superRefine(checkPath),
    /** Its text. */
    content: z.string().max(MAX_CONTENT_LENGTH).optional(),
    /** SHA-256, hexadecimal, of what was uploaded with this job; `POST /v1/collections/{name}/documents` makes such inputs. */
    upload: z
      .string()
      .regex(/^[0-9a-f]{64}$/, 'expected the SHA-256 of an upload, 64 hexadecimal digits')
      .optional(),
    /** Of an upload, as HTTP has it. */
    contentType: z.string().max(MAX_CONTENT_TYPE_LENGTH).optional(),
  })
  .superRefine(({ path, content, upload }, ctx) => {
    if ((content === undefined) === (upload === undefined)) {
      const message = 'expected the text of the document, or an upload of it in its place';
      ctx.addIssue({ code: 'custom', path: ['content'], message });
    }
    const problem = content === undefined ? undefined : characterProblem(content);
    if (problem !== undefined)
      ctx.addIssue({ code: 'custom', path: ['content'], message: `${JSON.stringify(path)} ${problem}` });
  });

export type DocumentInput = z.output<typeof documentInput>;

/** A document before it is read: what tells whether it has changed, and how its content is come by. */
interface OpenDocument {
  /** SHA-256 of the bytes, or of the UTF-8 of the text. */
  contentHash: string;
  byteLength: number;
  /** @throws DocumentError it is no longer stored */
  read(): Promise<DocumentSource>;
}

/** @throws DocumentError it is no longer stored */
export async function openDocument(
  { path, content, upload, contentType }: DocumentInput,
  { db, jobId, tenant }: Pick<JobContext<never>, 'db' | 'jobId' | 'tenant'>,
): Promise<OpenDocument> {
  if (upload === undefined) {
    const text = content ?? '';
    const contentHash = createHash('sha256').update(text).digest('hex');
    return { contentHash, byteLength: Buffer.byteLength(text), read: async () => ({ path, content: text }) };
  }
  const own = asOwn(db);
  // By job and tenant: a hash alone is no right to what others have sent.
  const found = await findUpload(own, { jobId, tenant, path, sha256: upload });
  if (found === undefined) throw new DocumentError('FILE_UNREADABLE', NOT_STORED);
  return {
    contentHash: upload,
    byteLength: found.byteLength,
    async read() {
      const bytes = Buffer.allocUnsafe(found.byteLength);
      let length = 0;
      for await (const part of readParts(own, found.id)) length += part.copy(bytes, length);
      if (length !== found.byteLength) throw new DocumentError('FILE_UNREADABLE', NOT_STORED);
      return { path, bytes, ...(contentType === undefined ? {} : { contentType }) };
    },
  };
}

const NOT_STORED = 'was uploaded for this job, and is no longer stored: upload it again';
