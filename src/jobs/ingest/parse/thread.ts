/** The thread that reads documents, one at a time. Nothing of the process reaches it but the document. */
import { getHeapStatistics } from 'node:v8';
import { parentPort } from 'node:worker_threads';
import { type ErrorCode, OncefleetError } from '../../../errors.ts';
import type { ParsedDocument } from '../blocks.ts';
import type { DocumentLimits } from './limits.ts';
import { type DocumentSource, parseDocument } from './parse.ts';

export interface ReadTask {
  source: DocumentSource;
  limits: DocumentLimits;
}

export type ReadAnswer = { heapBytes: number } & (
  | { document: ParsedDocument }
  /** `code` of an error of ours; any other is what a parser says of a document it cannot read. */
  | { failure: { code: ErrorCode | undefined; message: string } }
);

async function answer({ source, limits }: ReadTask): Promise<void> {
  const result = await parseDocument(source, limits).then(
    (document) => ({ document }),
    (error: unknown) => ({ failure: failureOf(error) }),
  );
  const { used_heap_size, external_memory } = getHeapStatistics();
  parentPort?.postMessage({ ...result, heapBytes: used_heap_size + external_memory } satisfies ReadAnswer);
}

function failureOf(error: unknown): { code: ErrorCode | undefined; message: string } {
  if (error instanceof OncefleetError) return { code: error.code, message: error.message };
  // A document nested deeper than the stack: parsers and DOMs go down it by recursion.
  if (error instanceof RangeError && /call stack/i.test(error.message))
    return { code: 'DOCUMENT_TOO_COSTLY', message: 'is nested too deeply' };
  return { code: undefined, message: error instanceof Error ? error.message : String(error) };
}

parentPort?.on('message', (task: ReadTask) => void answer(task));
