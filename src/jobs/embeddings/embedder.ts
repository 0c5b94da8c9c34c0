/**
 * Vectors of texts, by a model behind any OpenAI-compatible server.
 *
 * For an ingest, a server that is busy or unreachable is asked again inside the attempt, for minutes if need be. A question
 * does not wait: it is asked once, for a short time, and is answered by its words where no vector comes.
 */
import { type EmbeddingLimits, type EmbeddingSettings, embeddingLimitsOf } from '../../model-settings.ts';
import { MODEL_PACKAGES, requirePackages } from '../../optional.ts';
import type { QuestionVector } from '../../search/vectors.ts';
import { ModelFault } from '../answer/model/errors.ts';
import { delayAfter, digest, pause } from '../answer/model/patience.ts';
import { type Embedded, requestEmbeddings } from './request.ts';

/** After a question got no vector, the next ones do not wait for one. */
const COOL_DOWN_MS = 10_000;

export type Waiting = {
  type: 'waiting';
  delayMs: number;
  error: { code: string; message: string };
};

interface EmbedOptions {
  signal: AbortSignal;
  /** Key of the outside effect of this name, the same in every attempt of the job. */
  keyFor(step: string): string;
  /** Called before the server is asked again. */
  onWaiting(waiting: Waiting): Promise<void>;
}

export class Embedder {
  /** The model, as it is configured. */
  readonly model: string;
  readonly limits: EmbeddingLimits;
  readonly #settings: EmbeddingSettings;
  readonly #fetch: typeof globalThis.fetch;
  /** When the next request may begin, by the monotonic clock. */
  #nextAt = 0;
  /** Until then no question is asked about. */
  #coolUntil = 0;

  constructor(settings: EmbeddingSettings, fetch: typeof globalThis.fetch = globalThis.fetch) {
    this.#settings = settings;
    this.#fetch = fetch;
    this.model = settings.name;
    this.limits = embeddingLimitsOf(settings);
  }

  /**
   * @param texts of one request
   * @throws NonRetryableError MODEL_FAILED the server refuses the request
   * @throws RetryAfterError the server names a time, and patience has an end before it
   * @throws OncefleetError MODEL_FAILED the server fails, cannot be reached, took too long or gave no vectors
   * @throws the signal's reason, once the request is cut
   */
  async embed(texts: readonly string[], { signal, keyFor, onWaiting }: EmbedOptions): Promise<Embedded> {
    requirePackages('EMBEDDING_MODEL', MODEL_PACKAGES);
    const { requestMs, patienceMs } = this.limits;
    const key = keyFor(`embed-${digest([this.model, texts])}`);
    const giveUpAt = performance.now() + patienceMs;
    for (let tries = 1; ; tries++) {
      await this.#pace(signal);
      try {
        return await requestEmbeddings(this.#settings, texts, {
          key,
          timeoutMs: requestMs,
          signal,
          fetch: this.#fetch,
        });
      } catch (error) {
        signal.throwIfAborted();
        if (!(error instanceof ModelFault)) throw error;
        const delayMs = delayAfter(error, tries);
        if (delayMs === undefined || performance.now() + delayMs > giveUpAt) throw error.error;
        await onWaiting({
          type: 'waiting',
          delayMs,
          error: { code: error.error.code, message: error.error.message },
        });
        await pause(delayMs, signal);
      }
    }
  }

  /** @throws OncefleetError MODEL_FAILED there is none in time; the signal's reason, once it is aborted */
  async embedQuestion(question: string, signal: AbortSignal): Promise<QuestionVector> {
    requirePackages('EMBEDDING_MODEL', MODEL_PACKAGES);
    const now = performance.now();
    if (now < this.#coolUntil) throw new CoolingDownError();
    try {
      const { vectors } = await requestEmbeddings(this.#settings, [question], {
        key: `question-${digest([this.model, question])}`,
        timeoutMs: this.limits.questionMs,
        signal,
        fetch: this.#fetch,
      });
      return { model: this.model, values: vectors[0] as Float32Array };
    } catch (error) {
      signal.throwIfAborted();
      this.#coolUntil = performance.now() + COOL_DOWN_MS;
      throw error instanceof ModelFault ? error.error : error;
    }
  }

  /** Requests of all jobs of this process begin so far apart that a minute has no more of them than are allowed. */
  async #pace(signal: AbortSignal): Promise<void> {
    const { requestsPerMinute } = this.limits;
    if (requestsPerMinute === undefined) return;
    const now = performance.now();
    const startAt = Math.max(now, this.#nextAt);
    this.#nextAt = startAt + 60_000 / requestsPerMinute;
    if (startAt > now) await pause(startAt - now, signal);
  }
}

/** The server has just failed another question. */
class CoolingDownError extends Error {
  constructor() {
    super(`The embedding server failed a question less than ${COOL_DOWN_MS / 1_000} s ago`);
  }
}
