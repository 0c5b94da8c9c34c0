/** What an embedding server has answered. */
import { OncefleetError } from '../../errors.ts';
import { MAX_DIMENSIONS } from '../../search/vectors.ts';
import { ModelFault } from '../answer/model/errors.ts';

/** What messages call it. */
export const SERVER = 'embedding server';

/** @throws ModelFault these are no vectors of so many texts */
export function readVectors(embeddings: readonly (readonly unknown[])[], texts: number): Float32Array[] {
  if (embeddings.length !== texts) throw broken(`gave ${embeddings.length} vectors for ${texts} texts`);
  const dimensions = embeddings[0]?.length ?? 0;
  if (dimensions < 1 || dimensions > MAX_DIMENSIONS)
    throw broken(`gave a vector of ${dimensions} numbers; 1 to ${MAX_DIMENSIONS} are taken`);
  return embeddings.map((embedding) => {
    if (embedding.length !== dimensions)
      throw broken(`gave vectors of ${dimensions} and of ${embedding.length} numbers in one answer`);
    // Single precision holds all that is kept of them; a number beyond it is none.
    const vector = Float32Array.from(embedding, (value) => (typeof value === 'number' ? value : Number.NaN));
    if (!vector.every(Number.isFinite)) throw broken('gave a vector with something in it that is no number');
    return vector;
  });
}

/** The answer has been paid: it is not asked for again inside the attempt. */
export function broken(what: string): ModelFault {
  return new ModelFault(new OncefleetError('MODEL_FAILED', `The ${SERVER} ${what}`), false);
}

export function readTokens(tokens: unknown): number | undefined {
  return typeof tokens === 'number' && Number.isFinite(tokens) && tokens >= 0 ? tokens : undefined;
}
