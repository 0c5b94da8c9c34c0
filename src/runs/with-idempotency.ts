import { DelayedError, type Job } from 'bullmq';
import { z } from 'zod';
import type { JobClient } from '../client/client.ts';
import { storedName } from '../enqueue/foreign-job.ts';
import { InputInvalidError, type Issue } from '../errors.ts';
import { type Backoff, type JobContext, type JobPolicy, policyShape, toPolicy } from '../jobs/define-job.ts';
import { aFunction, parseOptions } from '../options.ts';
import type { JobObserver } from '../runtime/observers.ts';
import { type RuntimeOptions, runtimeIssues, runtimeShape } from '../runtime/runtime.ts';
import { type RuntimeShare, shareOf, shareRuntime } from '../runtime/shared-runtime.ts';
import { within } from '../util/with-timeout.ts';
import { Guard } from './guard.ts';
import type { JobSpec } from './spec.ts';

/**
 * A BullMQ job by its shape. BullMQ's `Job` is a class with private members, so that the one of
 * another copy or major would not be assignable; every one of them has these.
 */
// biome-ignore lint/suspicious/noExplicitAny: as BullMQ's own Job, whose data are any where none are named.
export interface DeliveredJob<D = any> {
  id?: string | undefined;
  name: string;
  data: D;
  queueName: string;
  attemptsMade: number;
  timestamp: number;
}

interface GuardOptions<J> extends Partial<Omit<JobPolicy, 'backoff'>> {
  /**
   * The idempotency key of a job; `undefined`: it has none, and is guarded under its BullMQ id.
   * Default: `idempotencyKey` in its data.
   */
  key?: (job: J) => string | undefined;
  /**
   * What of a job's data tells a duplicate from another job under the same key, such as the data
   * without a trace id. Gets a copy of the data. Default: all of it but `idempotencyKey`.
   */
  fingerprint?: (data: DataOf<J>, job: J) => unknown;
  backoff?: Backoff;
  /** Called at least once when a job is poisoned; a call that fails, or takes 20 s, is tried again. */
  onPoison?: (job: { jobId: string; tenant: string; name: string; crashes: number }) => void | Promise<void>;
}

/** Connections of its own, shared with all of this process that have the same settings. */
type OwnConnections<J> = RuntimeOptions & GuardOptions<J> & { fleet?: undefined };

/** Connections of a fleet of this process, which outlives the processor. */
type FleetConnections<J> = GuardOptions<J> & { fleet: JobClient } & { [K in OfConnections]?: undefined };

/** What a fleet has decided already. */
type OfConnections = Exclude<keyof RuntimeOptions, keyof JobPolicy>;

type DataOf<J> = J extends { data: infer D } ? D : unknown;

export type WithIdempotencyOptions<J = Job> = OwnConnections<J> | FleetConnections<J>;

const guardShape = {
  ...policyShape,
  key: aFunction.optional(),
  fingerprint: aFunction.optional(),
  onPoison: aFunction.optional(),
} satisfies Record<keyof GuardOptions<Job>, z.ZodType>;

const ownSchema = z.strictObject({ ...runtimeShape, ...guardShape, fleet: z.undefined().optional() });

const fleetSchema = z.strictObject({
  ...guardShape,
  fleet: z.custom<JobClient>(
    (value) => typeof value === 'object' && value !== null,
    'expected what createFleet returns',
  ),
});

/** How long `close()` waits for the outcomes of the handlers it interrupts, in ms. */
const CLOSE_WAIT_MS = 5_000;

/** How long a delivery to a processor that was closed waits for another worker. */
const CLOSED_WAIT_MS = 5_000;

/** A processor for `new Worker(queue, processor)`, of whichever copy of BullMQ. */
export interface GuardedProcessor<R, J = Job> {
  (job: DeliveredJob<DataOf<J>>, token?: string, signal?: AbortSignal): Promise<R>;
  // The last signature is the one that TypeScript infers from: a `Worker<Data>` names the data of its processor.
  (job: J, token?: string, signal?: AbortSignal): Promise<R>;
  /** Aborts running handlers; their jobs go back to wait for another worker and spend no attempt. */
  interrupt(): void;
  /**
   * Tells an observer of every transition that this process makes over the connections of this processor,
   * until it is closed: also those of other processors that share them.
   *
   * @returns ends that
   * @throws InputInvalidError it is no function
   */
  observe(observer: JobObserver): () => void;
  /**
   * Lets go of Postgres and Redis, once every processor of this process that shares them has been
   * closed. Call it after `worker.close()`: handlers that still run, after a forced close, are interrupted
   * and their leases released; BullMQ's stalled check gives their jobs to another worker. Idempotent.
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
 * Processors of one process whose connections have the same settings share them; `fleet` gives a
 * processor those of a fleet.
 *
 * @throws InputInvalidError options that do not make sense, all of them; nothing is opened then
 */
export function withIdempotency<R, J extends DeliveredJob = Job>(
  processor: (job: J, token: string | undefined, signal: AbortSignal, ctx: JobContext) => Promise<R> | R,
  options: WithIdempotencyOptions<NoInfer<J>>,
): GuardedProcessor<R, J> {
  const { policy, share } = open(processor, options);
  const { runtime } = share;
  const guard = new Guard(runtime);
  const specs = new Map<string, JobSpec>();
  const forget: (() => void)[] = [];
  const observers: (() => void)[] = [];
  let closed = false;
  const keyOf = options.key as ((job: unknown) => string | undefined) | undefined;
  const fingerprinted = options.fingerprint as Fingerprinted | undefined;

  const specFor = (job: Job): JobSpec => {
    const id = `${job.queueName}\n${job.name}`;
    let spec = specs.get(id);
    if (spec === undefined) {
      spec = {
        name: storedName(job.name),
        queue: job.queueName,
        policy,
        transparent: true,
        keyOf: keyOf ?? (() => undefined),
        checkEvent: undefined,
        // The processor gets the job as BullMQ has it; the row's copy of the data is for whoever dispatches it again.
        handle: async (_input, ctx, delivery) => processor(delivery as unknown as J, delivery.token, ctx.signal, ctx),
        ...(fingerprinted === undefined ? {} : { fingerprinted: (delivery) => ask(fingerprinted, delivery) }),
        ...(options.onPoison === undefined ? {} : { onPoison: options.onPoison }),
      };
      specs.set(id, spec);
      forget.push(runtime.poisonAlerts.know([spec]));
    }
    return spec;
  };

  const guarded = async (job: unknown, token: string | undefined, signal: AbortSignal | undefined): Promise<R> => {
    const delivery = job as Job;
    if (closed) return leave(delivery, token);
    return (await guard.deliver(delivery, token, signal, specFor(delivery))) as R;
  };
  // BullMQ makes a signal only for a processor that declares one: what the user's declares is what it is.
  Object.defineProperty(guarded, 'length', { value: Math.min(processor.length, 3) });
  let ended: Promise<void> | undefined;
  return Object.assign(guarded, {
    interrupt: () => guard.interrupt(),
    observe: (observer: JobObserver) => {
      const unobserve = runtime.observers.observe(observer);
      observers.push(unobserve);
      return unobserve;
    },
    close: () => {
      closed = true;
      ended ??= (async () => {
        for (const each of forget.splice(0)) each();
        guard.abandon();
        await within(CLOSE_WAIT_MS, guard.idle(), () => guard.stopWaiting());
        await runtime.observers.idle();
        for (const unobserve of observers) unobserve();
        await share.release();
      })();
      return ended;
    },
  });
}

type Fingerprinted = (data: unknown, job: unknown) => unknown;

/** @throws InputInvalidError */
function open<J>(
  processor: unknown,
  options: WithIdempotencyOptions<J>,
): { policy: Readonly<JobPolicy>; share: RuntimeShare } {
  const wrong: Issue[] = typeof processor === 'function' ? [] : [{ path: 'processor', message: 'expected a function' }];
  const fleet: object | undefined = (options as WithIdempotencyOptions<J> | undefined)?.fleet;
  if (fleet !== undefined) {
    const checked = parseOptions('withIdempotency', fleetSchema, options, (given) => [...wrong, ...decided(given)]);
    return { policy: toPolicy(checked), share: shareOf('withIdempotency', fleet) };
  }
  const checked = parseOptions('withIdempotency', ownSchema, options, (given) => [...wrong, ...runtimeIssues(given)]);
  const connections = Object.keys(runtimeShape).map((name) => [name, (options as RuntimeOptions)[name as 'log']]);
  return { policy: toPolicy(checked), share: shareRuntime(Object.fromEntries(connections) as RuntimeOptions) };
}

/** Options that would be ignored: the fleet has its own. */
function decided(given: Record<string, unknown>): Issue[] {
  return Object.keys(runtimeShape)
    .filter((name) => !(name in policyShape) && given[name] !== undefined)
    .map((path) => ({ path, message: 'the fleet has its own: leave it out, or leave `fleet` out' }));
}

/** @throws InputInvalidError what it returns tells no two jobs apart */
function ask(fingerprinted: Fingerprinted, job: Job): unknown {
  // A copy: what is taken out of it is not to be missing in the processor.
  const counts = fingerprinted(structuredClone(job.data), job);
  const isPromise = typeof (counts as PromiseLike<unknown> | null | undefined)?.then === 'function';
  if (counts !== undefined && typeof counts !== 'function' && !isPromise) return counts;
  const got = isPromise ? 'a promise' : typeof counts;
  throw new InputInvalidError('withIdempotency', [
    { path: 'fingerprint', message: `must return what of the data counts, as JSON; it returned ${got}` },
  ]);
}

/** A worker that was not closed before its processor: its jobs are for others. */
async function leave(job: Job, token: string | undefined): Promise<never> {
  await job.moveToDelayed(Date.now() + CLOSED_WAIT_MS, token);
  throw new DelayedError();
}
