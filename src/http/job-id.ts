/** Ids of jobs in paths, and the paths of a job. */
import { OncefleetError } from '../errors.ts';
import { isUuid } from '../util/uuid.ts';

/**
 * A job id as it stands in a path.
 *
 * @throws OncefleetError JOB_NOT_FOUND: what is no uuid is the id of no job
 */
export function readJobId(text: string): string {
  if (!isUuid(text)) throw jobNotFound(text);
  return text.toLowerCase();
}

export function jobNotFound(id: string): OncefleetError {
  return new OncefleetError('JOB_NOT_FOUND', `No job has the id ${id.slice(0, 100)}`);
}

export function linksOf(id: string): { self: string; events: string; cancel: string } {
  const self = `/v1/jobs/${id}`;
  return { self, events: `${self}/events`, cancel: `${self}/cancel` };
}
