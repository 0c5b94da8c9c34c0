/** The chunks of a collection that lack a vector, in batches. */
import { createHash } from 'node:crypto';
import { asOwn } from '../../db/own-schema.ts';
import { type EmbeddingModel, findChunksToEmbed, findDocumentsToEmbed, findEarlierVectors } from '../../db/vectors.ts';
import type { JobContext } from '../define-job.ts';
import type { Item } from './rows.ts';

const DOCUMENTS_PER_PAGE = 100;
const CHUNKS_PER_PAGE = 256;
/** Texts of one request, in UTF-16 units; a server's own limits are of about this size. */
const MAX_BATCH_LENGTH = 200_000;
/** What a chunk's text is told by. */
const HASH_BYTES = 16;

/** Chunks that lack a vector of the model, document by document. */
export async function* itemsOf(
  collectionId: string,
  model: () => EmbeddingModel | undefined,
  ctx: Pick<JobContext, 'db'>,
): AsyncGenerator<Item> {
  const db = asOwn(ctx.db);
  for (let after: string | undefined; ; ) {
    const documents = await findDocumentsToEmbed(db, collectionId, model()?.id, { after, limit: DOCUMENTS_PER_PAGE });
    for (const document of documents) {
      const id = model()?.id;
      const earlier = id === undefined ? new Map<string, Uint8Array>() : await earlierVectors(document, id, ctx);
      for (let from = 0; ; ) {
        // One more than is taken tells whether there are more.
        const limit = CHUNKS_PER_PAGE + 1;
        const found = await findChunksToEmbed(db, document, model()?.id, { from, limit });
        const chunks = found.slice(0, CHUNKS_PER_PAGE);
        const hasMore = found.length > chunks.length;
        for (const [index, { ordinal, heading, content }] of chunks.entries()) {
          const text = `${heading}\n\n${content}`;
          const hash = createHash('sha256').update(text).digest().subarray(0, HASH_BYTES);
          yield {
            documentId: document.id,
            searchNumber: document.searchNumber,
            ordinal,
            text,
            hash,
            isLast: !hasMore && index === chunks.length - 1,
            vector: earlier.get(hash.toString('hex')),
          };
        }
        if (!hasMore) break;
        from = (chunks.at(-1) as { ordinal: number }).ordinal + 1;
      }
    }
    after = documents.at(-1)?.path;
    if (documents.length < DOCUMENTS_PER_PAGE) return;
  }
}

async function earlierVectors(
  document: { id: string; searchNumber: number },
  modelId: number,
  ctx: Pick<JobContext, 'db'>,
): Promise<Map<string, Uint8Array>> {
  const known = new Map<string, Uint8Array>();
  for (const { hashes, vectors } of await findEarlierVectors(asOwn(ctx.db), document, modelId)) {
    const dimensions = (vectors.length * HASH_BYTES) / hashes.length;
    for (let at = 0; at * HASH_BYTES < hashes.length; at++)
      known.set(
        hashes.toString('hex', at * HASH_BYTES, (at + 1) * HASH_BYTES),
        vectors.subarray(at * dimensions, (at + 1) * dimensions),
      );
  }
  return known;
}

/** What is asked for in one request, and chunks between that need no asking. */
export async function* batchesOf(items: AsyncIterable<Item>, most: number): AsyncGenerator<Item[]> {
  let batch: Item[] = [];
  let [asked, length] = [0, 0];
  for await (const item of items) {
    batch.push(item);
    if (item.vector === undefined) {
      asked++;
      length += item.text.length;
    }
    if (asked < most && length < MAX_BATCH_LENGTH && batch.length < CHUNKS_PER_PAGE + most) continue;
    yield batch;
    batch = [];
    [asked, length] = [0, 0];
  }
  if (batch.length > 0) yield batch;
}
