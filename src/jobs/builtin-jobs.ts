/** The jobs that come with the fleet. */

import { ANSWER_PACE_MS } from '../options.ts';
import { type AnswerJobOptions, createAnswerJob } from './answer/answer-job.ts';
import type { AnyJobDefinition } from './define-job.ts';
import { createIngestJob } from './ingest/ingest-job.ts';

/** What a `Config` holds of it fits as it is. `answerPaceMs` is 15 by default. */
type BuiltinJobsOptions = Omit<AnswerJobOptions, 'answerPaceMs'> & { answerPaceMs?: number };

export function createBuiltinJobs(options: BuiltinJobsOptions): AnyJobDefinition[] {
  return [
    createIngestJob(),
    createAnswerJob({
      model: options.model,
      answerPaceMs: options.answerPaceMs ?? ANSWER_PACE_MS.default,
      fetch: options.fetch,
    }),
  ];
}
