import { crashPoint } from '../crash-points.ts';
import type { NewJob, RowOptions } from '../db/jobs/insert.ts';
import type { TransitionMaker } from '../db/jobs/states.ts';
import type { DispatchRow } from '../db/jobs/unfinished.ts';
import type { RunInTransaction } from '../db/outbox.ts';
import { type Accepted, isKeyLocked } from '../enqueue/accept.ts';
import { openCallerTransaction } from '../enqueue/caller-transaction.ts';
import { checkKey, fingerprint } from '../enqueue/fingerprint.ts';
import { checkedInput } from '../enqueue/input.ts';
import { InputInvalidError, OncefleetError } from '../errors.ts';
import type { AnyJobDefinition } from '../jobs/define-job.ts';
import { limitKeysOf } from '../jobs/limits.ts';
import type { Following } from '../journal/following.ts';
import { parseOptions } from '../options.ts';
import { type TraceCarrier, traceEnqueue } from '../util/tracing.ts';
import { cancelJob } from './cancel.ts';
import { followJob } from './follow.ts';
import { type ClientHost, tenantOf } from './host.ts';
import { enqueueSchema, eventsSchema, waitSchema } from './options.ts';
import { waitForResult } from './results.ts';
import type { EnqueueOptions, JobHandle, ResultOptions } from './types.ts';

type Handle = JobHandle<never, never>;
type Wanted = Omit<NewJob, 'id'>;
type Planned = { wanted: Wanted; toDispatch: (id: string) => DispatchRow };

export async function enqueueJob(
  host: ClientHost,
  job: AnyJobDefinition | string,
  input: unknown,
  options: EnqueueOptions = {},
  by: TransitionMaker = 'client',
): Promise<Handle> {
  const definition = definitionOf(host, job);
  if (host.closed) throw shutDown();
  parseOptions('Enqueue options', enqueueSchema, options);
  if (options.key !== undefined) checkKey(options.key);
  const { name, queue } = definition;
  const tenant = tenantOf(host, options);
  const { xid, ...accepted } = await traceEnqueue({ name, queue, tenant }, async (trace) => {
    const checked = check(definition, input, tenant);
    return acceptPlanned(host, definition, plan(definition, checked, options, { tenant, trace }), options.tx, by);
  });
  return handleOf(host, tenant, accepted, xid);
}

/** @param tx a transaction of the caller's; `xid` is its id, where the job may be a part of it */
async function acceptPlanned(
  host: ClientHost,
  definition: AnyJobDefinition,
  { wanted, toDispatch }: Planned,
  tx: EnqueueOptions['tx'],
  by: TransitionMaker,
): Promise<Accepted & { xid: string | undefined }> {
  if (tx === undefined) return { ...(await accept(host, definition, wanted, toDispatch, by)), xid: undefined };
  const { runtime } = host;
  const run = await openTransaction(host, tx);
  const accepted = await runtime.transitions.createIn(run)(wanted, definition.policy.onFailedKey);
  if (accepted.xid !== undefined && accepted.outcome === 'created')
    runtime.outbox.watch(accepted.xid, toDispatch(accepted.id));
  return accepted;
}

export function shutDown(): OncefleetError {
  return new OncefleetError('SHUTTING_DOWN', 'This fleet is closed: enqueue through another');
}

/** @throws OncefleetError TRANSACTION_INVALID */
export async function openTransaction(host: ClientHost, tx: unknown): Promise<RunInTransaction> {
  return openCallerTransaction(tx, { home: await host.findHome(), schema: host.runtime.db.schema });
}

/** @throws InputInvalidError; OncefleetError JOB_NAME_UNKNOWN */
export function definitionOf({ jobs }: ClientHost, job: AnyJobDefinition | string): AnyJobDefinition {
  const name = typeof job === 'string' ? job : (job as AnyJobDefinition | undefined)?.name;
  if (typeof name !== 'string')
    throw new InputInvalidError('enqueue', [{ path: 'job', message: 'expected a job definition or its name' }]);
  const definition = jobs.get(name);
  if (definition !== undefined) return definition;
  throw new OncefleetError(
    'JOB_NAME_UNKNOWN',
    `No job named "${name}" is registered; there are: ${[...jobs.keys()].join(', ') || 'none'}`,
    { details: { name } },
  );
}

export interface CheckedInput {
  text: string;
  value: unknown;
  /** Of what the caller sent, not of what the schema made of it: that may change with a release. */
  fingerprint: string;
  limitKeys: string | undefined;
}

/** @throws InputInvalidError; OncefleetError LIMIT_KEY_INVALID */
export function check(definition: AnyJobDefinition, input: unknown, tenant: string): CheckedInput {
  const { text, value, parsed } = checkedInput(definition, input);
  const limitKeys = limitKeysOf(definition.name, definition.limits, { input: parsed, tenant });
  return { text, value, fingerprint: fingerprint(value), limitKeys };
}

/** The row of a job, and what BullMQ is given once the row has an id. */
export function plan(
  definition: AnyJobDefinition,
  checked: CheckedInput,
  options: Pick<EnqueueOptions, 'key' | 'delayMs' | 'priority'>,
  { tenant, trace }: { tenant: string; trace: TraceCarrier | undefined },
): Planned {
  const { policy } = definition;
  const rowOptions: RowOptions = {
    priority: options.priority ?? 0,
    attempts: policy.attempts,
    backoff: policy.backoff,
    ...(policy.publish === 'immediate' ? { publish: policy.publish } : {}),
    ...(trace === undefined ? {} : { trace }),
  };
  const shared = {
    tenant,
    name: definition.name,
    queue: definition.queue,
    key: options.key ?? null,
    options: rowOptions,
    delayMs: options.delayMs ?? 0,
  };
  return {
    wanted: {
      ...shared,
      fingerprint: checked.fingerprint,
      input: checked.text,
      deadlineMs: policy.deadlineMs ?? null,
      ...(checked.limitKeys === undefined ? {} : { limitKeys: checked.limitKeys }),
    },
    toDispatch: (id) => ({
      id,
      ...shared,
      ...(policy.onStoreOutage === 'run' ? { input: checked.value } : {}),
    }),
  };
}

async function accept(
  { runtime }: ClientHost,
  { name, policy }: AnyJobDefinition,
  wanted: Wanted,
  toDispatch: (id: string) => DispatchRow,
  by: TransitionMaker,
): Promise<Accepted> {
  crashPoint('enqueue.row.before');
  const accepted = await runtime.transitions.create(wanted, policy.onFailedKey, by).catch((error: unknown) => {
    throw isKeyLocked(error) ? keyLocked(name, error) : error;
  });
  if (accepted.outcome === 'created') {
    crashPoint('enqueue.row.after');
    await runtime.outbox.dispatch(toDispatch(accepted.id), by);
    crashPoint('enqueue.dispatch.after');
  }
  return accepted;
}

/** @param xid of the caller's transaction that the job may be a part of */
export function handleOf(host: ClientHost, tenant: string, { id, outcome, status }: Accepted, xid?: string): Handle {
  return {
    id,
    outcome,
    status,
    async result(wait: ResultOptions = {}) {
      parseOptions('result', waitSchema, wait);
      return waitForResult(host, id, wait, xid) as Promise<never>;
    },
    events: (given = {}) => followJob(host, 'events', eventsSchema, id, tenant, given) as Following<never>,
    cancel: () => cancelJob(host, id, { tenant }),
  };
}

export function keyLocked(name: string, cause: unknown): OncefleetError {
  return new OncefleetError(
    'STORE_UNAVAILABLE',
    `The key of this ${name} job is held by a transaction that has not ended; try again once it has`,
    { cause },
  );
}
