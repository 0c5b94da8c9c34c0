/** The built-in jobs, without a model that answers. */
import { createAnswerJob } from '../../src/jobs/answer/answer-job.ts';
import type { Embedder } from '../../src/jobs/embeddings/embedder.ts';
import { createIngestJob } from '../../src/jobs/ingest/ingest-job.ts';

export type Jobs = ReturnType<typeof createJobs>;

/** @param embedder makes vectors of chunks and questions */
export function createJobs(embedder?: Embedder) {
  return {
    ingest: createIngestJob({}, embedder),
    answer: createAnswerJob({ model: undefined, answerPaceMs: 0, embedder }),
  };
}
