/**
 * Which jobs chat clients may ask for: those with `fromChat`. The model's name is the job's, and what follows a slash is the
 * job's own matter: `answer/handbook` asks the job `answer` about the collection `handbook`.
 */
import type { JobClient } from '../../client/client.ts';
import { OncefleetError } from '../../errors.ts';
import type { AnyJobDefinition, ChatRequest } from '../../jobs/define-job.ts';

/** Collections that are listed as models. */
const MAX_COLLECTIONS = 100;

interface ChatModel {
  job: AnyJobDefinition & { fromChat(request: ChatRequest): unknown };
  variant: string | undefined;
}

/** @throws OncefleetError JOB_NAME_UNKNOWN */
export function findModel({ jobs }: Pick<JobClient, 'jobs'>, model: string): ChatModel {
  const slash = model.indexOf('/');
  const job = jobs.get(slash === -1 ? model : model.slice(0, slash));
  if (!isModel(job))
    throw new OncefleetError(
      'JOB_NAME_UNKNOWN',
      `The model "${model.slice(0, 200)}" does not exist; GET /v1/models lists those that do`,
    );
  return { job, variant: slash === -1 ? undefined : model.slice(slash + 1) };
}

/** Names of models, the collections of the tenant among them. */
export async function listModels(client: JobClient, tenant: string): Promise<string[]> {
  const names = [...client.jobs.values()].filter(isModel).map(({ name }) => name);
  if (!names.includes('answer')) return names;
  const { collections } = await client.collections.list({ tenant, limit: MAX_COLLECTIONS });
  return names.flatMap((name) =>
    name === 'answer' ? [name, ...collections.map((collection) => `answer/${collection.name}`)] : [name],
  );
}

function isModel(job: AnyJobDefinition | undefined): job is ChatModel['job'] {
  return job?.fromChat !== undefined;
}
