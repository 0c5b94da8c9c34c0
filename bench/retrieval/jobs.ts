/** The built-in jobs, without a model. */
import { createAnswerJob } from '../../src/jobs/answer/answer-job.ts';
import { createIngestJob } from '../../src/jobs/ingest/ingest-job.ts';

export const ingest = createIngestJob();
export const answer = createAnswerJob({ model: undefined, answerPaceMs: 0 });
