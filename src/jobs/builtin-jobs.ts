/** The jobs that come with the fleet. */

import type { EmbeddingSettings } from '../model-settings.ts';
import { ANSWER_PACE_MS } from '../options.ts';
import { type AnswerJobOptions, createAnswerJob } from './answer/answer-job.ts';
import type { AnyJobDefinition } from './define-job.ts';
import { Embedder } from './embeddings/embedder.ts';
import { createIngestJob } from './ingest/ingest-job.ts';

/** What a `Config` holds of it fits as it is. `answerPaceMs` is 15 by default. */
type BuiltinJobsOptions = Omit<AnswerJobOptions, 'answerPaceMs' | 'embedder'> & {
  answerPaceMs?: number;
  embedding?: EmbeddingSettings | undefined;
};

export function createBuiltinJobs(options: BuiltinJobsOptions): AnyJobDefinition[] {
  const { embedding, fetch } = options;
  // One for both, so that they share its pace.
  const embedder = embedding === undefined ? undefined : new Embedder(embedding, fetch);
  return [
    createIngestJob({}, embedder),
    createAnswerJob({
      model: options.model,
      embedder,
      answerPaceMs: options.answerPaceMs ?? ANSWER_PACE_MS.default,
      fetch: options.fetch,
    }),
  ];
}
