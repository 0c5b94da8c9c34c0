import type { Job } from 'bullmq';
import { z } from 'zod';
import { aFunction, parseOptions } from '../options.ts';
import { within } from '../within.ts';
import { type Backoff, type JobContext, type JobPolicy, policyShape, toPolicy } from './define-job.ts';
import { Guard, type JobSpec } from './guard.ts';
import { Runtime, type RuntimeOptions, runtimeIssues, runtimeShape } from './runtime.ts';

export interface WithIdempotencyOptions extends RuntimeOptions, Partial<Omit<JobPolicy, 'backoff'>> {
  /** The key of a job. Default `job.data.idempotencyKey`; a job without one is guarded under its own BullMQ id. */
  key?: (job: Job) => string | undefined;
  backoff?: Backoff;
  /** Called at least once when a job is poisoned; a call that fails, or takes 20 s, is tried again. */
  onPoison?: JobSpec['onPoison'];
}

const optionsSchema = z.strictObject({
  ...runtimeShape,
  ...policyShape,
  key: aFunction.optional(),
  onPoison: aFunction.optional(),
} satisfies Record<keyof WithIdempotencyOptions, z.ZodType>);

/** How long `close()` waits for the outcomes of the handlers it interrupts, in ms. */
const CLOSE_WAIT_MS = 5_000;

/** A processor for `new Worker(queue, processor)`. */
export interface GuardedProcessor<R> {
  (job: Job, token: string | undefined, signal: AbortSignal | undefined): Promise<R>;
  /** Aborts running handlers; their jobs go back to wait for another worker and spend no attempt. */
  interrupt(): void;
  /**
   * Flushes the journal and lets go of Postgres and Redis. Call it after `worker.close()`: handlers that
   * still run, after a forced close, are interrupted and their leases released; BullMQ's stalled check
   * gives their jobs to another worker.
   */
  close(): Promise<void>;
}

/**
 * Puts the claim table around an existing BullMQ processor: one owner at a time per key; a
 * finished key returns its result without running the processor.
 *
 * The processor is called as BullMQ calls it, with a signal that also aborts when the lease
 * is lost, and with a `JobContext` as fourth argument. Give the worker a large
 * `maxStalledCount`: crashes are counted in the row.
 *
 * @throws InputInvalidError options that do not make sense, all of them; nothing is opened then
 */
export function withIdempotency<R>(
  processor: (job: Job, token: string | undefined, signal: AbortSignal, ctx: JobContext) => Promise<R> | R,
  options: WithIdempotencyOptions,
): GuardedProcessor<R> {
  const checked = parseOptions('withIdempotency', optionsSchema, options, (given) => [
    ...(typeof processor === 'function' ? [] : [{ path: 'processor', message: 'expected a function' }]),
    ...runtimeIssues(given),
  ]);
  const policy = toPolicy(checked);
  const runtime = new Runtime(options);
  const guard = new Guard(runtime);
  const specs = new Map<string, JobSpec>();

  const specFor = (job: Job): JobSpec => {
    const id = `${job.queueName}\n${job.name}`;
    let spec = specs.get(id);
    if (spec === undefined) {
      spec = {
        name: job.name,
        queue: job.queueName,
        policy,
        transparent: true,
        keyOf: options.key ?? (() => undefined),
        checkEvent: undefined,
        // The processor gets the job as BullMQ has it; the row's copy of the data is for whoever dispatches it again.
        handle: async (_input, ctx, delivery) => processor(delivery, delivery.token, ctx.signal, ctx),
        ...(options.onPoison === undefined ? {} : { onPoison: options.onPoison }),
      };
      specs.set(id, spec);
      runtime.poisonAlerts.know([spec]);
    }
    return spec;
  };

  const guarded = async (job: Job, token: string | undefined, signal: AbortSignal | undefined): Promise<R> =>
    (await guard.deliver(job, token, signal, specFor(job))) as R;
  // BullMQ makes a signal only for a processor that declares one: what the user's declares is what it is.
  Object.defineProperty(guarded, 'length', { value: Math.min(processor.length, 3) });
  return Object.assign(guarded, {
    interrupt: () => guard.interrupt(),
    async close() {
      guard.abandon();
      await within(CLOSE_WAIT_MS, guard.idle(), () => guard.giveUp());
      await runtime.close();
    },
  });
}
