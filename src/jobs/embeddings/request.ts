/** One request to a server that makes vectors of texts, through the AI SDK. */
import { OncefleetError } from '../../errors.ts';
import type { ModelTarget } from '../../model-settings.ts';
import { atMost } from '../answer/model/at-most.ts';
import { ModelFault, toModelFault } from '../answer/model/errors.ts';
import { broken, readTokens, readVectors, SERVER } from './answer.ts';

/** Of an answer: a number takes about 25 bytes as JSON, of a text with 8,192 of them 200 KB. */
const BYTES_PER_TEXT = 256 * 1024;
const MAX_RESPONSE_BYTES = 64 * 1024 * 1024;

export interface Embedded {
  /** One for each text, all of one length. */
  vectors: Float32Array[];
  /** As the server counted them. */
  tokens: number | undefined;
}

interface EmbeddingRequest {
  /** Value of `Idempotency-Key`. */
  key: string;
  /** Longest it may last, in milliseconds. */
  timeoutMs: number;
  signal: AbortSignal;
  fetch: typeof globalThis.fetch;
}

/** @throws ModelFault; the signal's reason, once the request is cut */
export async function requestEmbeddings(
  target: ModelTarget,
  texts: readonly string[],
  { key, timeoutMs, signal, fetch }: EmbeddingRequest,
): Promise<Embedded> {
  signal.throwIfAborted();
  // Loaded on first use: what does not embed never needs them.
  const [{ embedMany }, { createOpenAICompatible }] = await Promise.all([
    import('ai'),
    import('@ai-sdk/openai-compatible'),
  ]);
  const answered = { whole: false };
  const provider = createOpenAICompatible({
    name: 'embeddings',
    baseURL: target.baseUrl,
    fetch: bounded(fetch, Math.min(MAX_RESPONSE_BYTES, texts.length * BYTES_PER_TEXT), answered),
    ...(target.apiKey === undefined ? {} : { apiKey: target.apiKey }),
  });
  const controller = new AbortController();
  const late = Promise.withResolvers<never>();
  late.promise.catch(() => undefined);
  const timer = setTimeout(() => {
    const fault = new ModelFault(
      new OncefleetError('MODEL_FAILED', `The ${SERVER} did not answer within ${timeoutMs} ms`),
      true,
    );
    // A transport that does not obey its signal holds nobody up.
    late.reject(fault);
    controller.abort(fault);
  }, timeoutMs);
  try {
    const answer = embedMany({
      model: provider.embeddingModel(target.name),
      values: [...texts],
      maxRetries: 0,
      headers: { 'idempotency-key': key },
      abortSignal: AbortSignal.any([signal, controller.signal]),
    });
    answer.catch(() => undefined);
    const { embeddings, usage } = await Promise.race([answer, late.promise]);
    return { vectors: readVectors(embeddings, texts.length), tokens: readTokens(usage.tokens) };
  } catch (error) {
    signal.throwIfAborted();
    const fault = toModelFault(error, target, SERVER);
    throw fault.isPassing && answered.whole ? broken('gave an answer without a vector for each text') : fault;
  } finally {
    clearTimeout(timer);
    controller.abort();
  }
}

/** `fetch`, whose answers end after so many bytes. @param answered is told when a good one has come to its end */
function bounded(
  fetch: typeof globalThis.fetch,
  maxBytes: number,
  answered: { whole: boolean },
): typeof globalThis.fetch {
  return async (target, init) => {
    const response = await fetch(target, init);
    if (response.body === null) return response;
    const { ok, status, statusText, headers } = response;
    const end = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
      flush() {
        answered.whole = ok;
      },
    });
    return new Response(response.body.pipeThrough(atMost(maxBytes)).pipeThrough(end), { status, statusText, headers });
  };
}
