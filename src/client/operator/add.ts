/** Adding jobs: to queues of definitions as `enqueue` does, to those of other clients as BullMQ does. */
import type { Job, JobsOptions, Queue } from 'bullmq';
import { z } from 'zod';
import { OncefleetError } from '../../errors.ts';
import { parseOptions, wholeNumber } from '../../options.ts';
import { MAX_DELAY_MS, MAX_PRIORITY } from '../options.ts';
import { definitionsOf, isOfFleet, type OperatorHost } from './host.ts';
import { refused } from './refusals.ts';

/** The name that Bull Board sends for an empty field. */
const NO_NAME = '__default__';

export const addOptionsSchema = z.strictObject({
  delay: wholeNumber({ min: 0, max: MAX_DELAY_MS }).optional(),
  priority: wholeNumber({ min: 0, max: MAX_PRIORITY }).optional(),
});

export interface AddedJob {
  name: string;
  data: unknown;
  options: Record<string, unknown>;
}

export async function addJob(
  host: OperatorHost,
  queue: Queue,
  { name, data, options }: AddedJob,
): Promise<{ id: string; job: Job | undefined }> {
  refuseMark(data);
  if (!isOfFleet(host, queue)) return addForeign(queue, name, data, options as JobsOptions);
  requireName(host, queue, name);
  const { delay: delayMs, priority } = parseOptions('Job options', addOptionsSchema, options);
  const { key, tenant, input } = splitData(data);
  const { enqueue, runtime } = host;
  const handle = await enqueue(name, input, {
    tenant: tenant ?? runtime.settings.tenant,
    ...(key === undefined ? {} : { key }),
    ...(delayMs === undefined ? {} : { delayMs }),
    ...(priority === undefined ? {} : { priority }),
  });
  if (handle.outcome !== 'created')
    throw refused(
      `Nothing was added: job ${handle.id} has this key and input already, and is ${handle.status}`,
      handle.id,
    );
  return { id: handle.id, job: await queue.getJob(handle.id) };
}

export function requireName(host: OperatorHost, queue: Queue, name: string): void {
  if (!isOfFleet(host, queue)) return;
  const names = definitionsOf(host, queue).map((job) => job.name);
  if (names.includes(name)) return;
  const given = name === '' || name === NO_NAME ? 'The job needs a name' : `No job named "${name.slice(0, 100)}"`;
  throw new OncefleetError(
    'JOB_NAME_UNKNOWN',
    names.length === 0
      ? `This process has no definition of a job of queue ${queue.name}: load it (ONCEFLEET_JOBS) to add one here`
      : `${given}: queue ${queue.name} runs ${names.join(', ')}`,
  );
}

async function addForeign(
  queue: Queue,
  name: string,
  data: unknown,
  options: JobsOptions,
): Promise<{ id: string; job: Job }> {
  const { jobId } = options;
  // BullMQ keeps the first and says nothing.
  if (jobId !== undefined && (await queue.getJob(String(jobId))) !== undefined)
    throw refused(`Nothing was added: queue ${queue.name} has a job ${jobId} already`, jobId);
  let job: Job;
  try {
    job = await queue.add(name, data, options);
  } catch (error) {
    // What it says of options that it does not take; it has no class for that.
    if (!(error instanceof Error) || 'errno' in error || 'command' in error) throw error;
    throw refused(`BullMQ does not take this job: ${error.message.slice(0, 300)}`, undefined, error);
  }
  return { id: job.id ?? '', job };
}

/** As a job of another client says it. */
function splitData(data: unknown): { key: string | undefined; tenant: string | undefined; input: unknown } {
  if (typeof data !== 'object' || data === null || Array.isArray(data))
    return { key: undefined, tenant: undefined, input: data };
  const { idempotencyKey, ...input } = data as Record<string, unknown>;
  const key =
    typeof idempotencyKey === 'number' && Number.isSafeInteger(idempotencyKey)
      ? String(idempotencyKey)
      : typeof idempotencyKey === 'string' && idempotencyKey !== ''
        ? idempotencyKey
        : undefined;
  const { tenant } = input;
  return { key, tenant: typeof tenant === 'string' ? tenant : undefined, input };
}

/** What marks jobs of the fleet would make a job typed by a person a delivery of another one. */
export function refuseMark(data: unknown): void {
  if (typeof data !== 'object' || data === null || !('oncefleet' in data)) return;
  throw refused(
    'These data name a job of the fleet by the field `oncefleet`; its input is kept in Postgres. To run that job again, retry it; to run its input anew, add a job with the input (its job record has it)',
  );
}
