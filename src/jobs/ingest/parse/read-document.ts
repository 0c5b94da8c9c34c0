/**
 * The one door that documents come through: bytes or text in, blocks out.
 *
 * Parsers are other people's code and documents are strangers': each is read in a thread with
 * a cap on its memory and time, which is ended when it goes beyond.
 */
import { availableParallelism } from 'node:os';
import { DocumentError } from '../../../errors.ts';
import type { ParsedDocument } from '../blocks.ts';
import { DOCUMENT_LIMITS, type DocumentLimits } from './limits.ts';
import type { DocumentSource } from './parse.ts';
import { ReaderPool } from './reader-pool.ts';

/** Reading takes a processor each; the event loop and other jobs need one too. */
const MAX_THREADS = 2;

const pool = new ReaderPool(Math.max(1, Math.min(MAX_THREADS, availableParallelism() - 1)));

/**
 * Reads one document: what its format is, its text, and the blocks of it with their places.
 *
 * @param limits those that differ from the defaults (`DOCUMENT_LIMITS`)
 * @throws DocumentError what is wrong with this document, as words that are read after its path; another try would end
 *   alike
 * @throws OncefleetError SERVICE_MISSING packages that the format needs are not installed
 * @throws the reason of `signal`
 */
export async function readDocument(
  source: DocumentSource,
  limits: Partial<DocumentLimits> = {},
  signal?: AbortSignal,
): Promise<ParsedDocument> {
  signal?.throwIfAborted();
  const all = { ...DOCUMENT_LIMITS, ...limits };
  const size = 'bytes' in source ? source.bytes.length : source.content.length;
  if (size > all.maxBytes)
    throw new DocumentError('DOCUMENT_TOO_LARGE', `has ${size} bytes; the limit is ${all.maxBytes}`);
  return await pool.read({ source, limits: all }, signal);
}
