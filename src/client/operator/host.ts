/** What the operations of an operator share. */
import type { Queue } from 'bullmq';
import type { AnyJobDefinition } from '../../jobs/define-job.ts';
import type { Runtime } from '../../runtime/runtime.ts';
import type { EnqueueOptions, JobHandle } from '../types.ts';

/** Jobs that are read, cancelled and removed together. */
export const PAGE = 200;

export interface OperatorHost {
  readonly runtime: Runtime;
  readonly jobs: ReadonlyMap<string, AnyJobDefinition>;
  enqueue(job: string, input: unknown, options: EnqueueOptions): Promise<JobHandle>;
  redrive(id: string, options: { tenant: string }): Promise<void>;
}

export function isOfFleet({ runtime }: OperatorHost, queue: Queue): boolean {
  return queue.opts.prefix === runtime.queuePrefix(queue.name);
}

export function definitionsOf(host: OperatorHost, queue: Queue): AnyJobDefinition[] {
  if (!isOfFleet(host, queue)) return [];
  return [...host.jobs.values()].filter((job) => job.queue === queue.name);
}
