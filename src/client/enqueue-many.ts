/**
 * Many enqueues by one call. The list is cut into chunks, and each is one insert and one `addBulk` a queue: what an
 * interactive enqueue of the same process waits for is one chunk, and no more than one is held beside the list.
 *
 * An item that cannot be accepted does not keep the others from being accepted. Rejected: all or nothing. A list of a
 * million would need one transaction of a million rows, whose keys are locked until its end; who wants it for a list
 * gives a transaction with `tx`, and rolls it back.
 */
import type { NewJob } from '../db/jobs/insert.ts';
import type { TransitionMaker } from '../db/jobs/states.ts';
import type { DispatchRow } from '../db/jobs/unfinished.ts';
import { isTransient } from '../db/transient.ts';
import { type Accepted, type AcceptInTransaction, isKeyLocked, MAX_INSERTED } from '../enqueue/accept.ts';
import { checkKey } from '../enqueue/fingerprint.ts';
import { InputInvalidError, OncefleetError } from '../errors.ts';
import type { AnyJobDefinition } from '../jobs/define-job.ts';
import { parseOptions } from '../options.ts';
import { traceEnqueue } from '../util/tracing.ts';
import {
  type CheckedInput,
  check,
  definitionOf,
  handleOf,
  keyLocked,
  openTransaction,
  plan,
  shutDown,
} from './enqueue.ts';
import { type ClientHost, tenantOf } from './host.ts';
import { bulkItemSchema, enqueueManySchema, MAX_BULK } from './options.ts';
import type { BulkItem, BulkOutcome, BulkRefusal, EnqueueManyOptions, EnqueueManyResult } from './types.ts';

/** JSON of inputs that one chunk holds, bytes; a larger input is a chunk of its own. */
const CHUNK_BYTES = 4 * 1024 * 1024;

/** An item that can be accepted. */
interface Wanted {
  index: number;
  definition: AnyJobDefinition;
  item: BulkItem;
  checked: CheckedInput;
}

type Answer = { accepted: Accepted; xid: string | undefined; row: DispatchRow };

export async function enqueueMany(
  host: ClientHost,
  job: AnyJobDefinition | string | undefined,
  items: readonly (BulkItem & { job?: AnyJobDefinition | string })[],
  options: EnqueueManyOptions = {},
  by: TransitionMaker = 'client',
): Promise<EnqueueManyResult> {
  const definition = job === undefined ? undefined : definitionOf(host, job);
  if (host.closed) throw shutDown();
  parseOptions('enqueueMany', enqueueManySchema, options);
  if (!Array.isArray(items) || items.length > MAX_BULK)
    throw new InputInvalidError('enqueueMany', [
      { path: 'items', message: `expected an array of at most ${MAX_BULK} items` },
    ]);
  const bulk = new Bulk(host, options, by);
  if (options.tx !== undefined) await bulk.openIn(options.tx);
  try {
    let chunk: Wanted[] = [];
    let bytes = 0;
    for (const [index, item] of items.entries()) {
      const wanted = bulk.check(index, item, definition);
      if (wanted === undefined) continue;
      const size = Buffer.byteLength(wanted.checked.text);
      if (chunk.length === MAX_INSERTED || (chunk.length > 0 && bytes + size > CHUNK_BYTES)) {
        await bulk.accept(chunk);
        [chunk, bytes] = [[], 0];
      }
      chunk.push(wanted);
      bytes += size;
    }
    await bulk.accept(chunk);
  } finally {
    await bulk.dispatched();
  }
  return bulk.end();
}

class Bulk {
  readonly #host: ClientHost;
  readonly #options: EnqueueManyOptions;
  readonly #by: TransitionMaker;
  readonly #tenant: string;
  readonly #outcomes: BulkOutcome[] = [];
  #acceptIn: AcceptInTransaction | undefined;
  #dispatched: Promise<unknown> = Promise.resolve();
  #accepted = 0;
  /** What Postgres was unreachable with: what is left of the list is not tried. */
  #away: unknown;

  constructor(host: ClientHost, options: EnqueueManyOptions, by: TransitionMaker) {
    this.#host = host;
    this.#options = options;
    this.#by = by;
    this.#tenant = tenantOf(host, options);
  }

  /** @throws OncefleetError TRANSACTION_INVALID */
  async openIn(tx: unknown): Promise<void> {
    this.#acceptIn = this.#host.runtime.transitions.createIn(await openTransaction(this.#host, tx));
  }

  /** @returns undefined: it is refused */
  check(index: number, item: BulkItem & { job?: AnyJobDefinition | string }, given: AnyJobDefinition | undefined) {
    try {
      const { input, ...rest } = Object(item) as typeof item;
      parseOptions('Item', bulkItemSchema, given === undefined ? rest : { ...rest, job: given.name });
      const definition = given ?? definitionOf(this.#host, rest.job as string);
      if (rest.key !== undefined) checkKey(rest.key);
      return { index, definition, item, checked: check(definition, input, this.#tenant) } satisfies Wanted;
    } catch (error) {
      if (!(error instanceof OncefleetError)) throw error;
      this.#refuse(index, 'invalid', error);
      return undefined;
    }
  }

  /** Accepts the items of a chunk, and gives BullMQ those that are new while the next one is accepted. */
  async accept(chunk: readonly Wanted[]): Promise<void> {
    const { signal } = this.#options;
    if (chunk.length === 0) return;
    signal?.throwIfAborted();
    if (this.#away !== undefined) {
      for (const { index } of chunk) this.#refuse(index, 'error', this.#away);
      return;
    }
    // The first item of the list that names a key is the one that gets it: the others look at what it left.
    const keys = new Set<string>();
    const [first, later]: [Wanted[], Wanted[]] = [[], []];
    for (const wanted of chunk) {
      const { key } = wanted.item;
      const scope = key === undefined ? undefined : `${wanted.definition.name}\n${key}`;
      (scope !== undefined && keys.has(scope) ? later : first).push(wanted);
      if (scope !== undefined) keys.add(scope);
    }
    const created: DispatchRow[] = [];
    for (const wave of [first, later]) {
      const settled = await Promise.allSettled(wave.map((wanted) => this.#acceptOne(wanted)));
      for (const [i, answer] of settled.entries()) {
        const wanted = wave[i] as Wanted;
        if (answer.status === 'fulfilled') this.#note(wanted, answer.value, created);
        else this.#failed(wanted, answer.reason);
      }
    }
    // One chunk at a time: Redis, too, has no more to hold than what it is slow with.
    await this.#dispatched;
    const { outbox } = this.#host.runtime;
    this.#dispatched = Promise.all(created.map((row) => outbox.dispatch(row, this.#by)));
    this.#options.onProgress?.({ done: this.#outcomes.length });
  }

  async dispatched(): Promise<void> {
    await this.#dispatched;
  }

  end(): EnqueueManyResult {
    const counts = { created: 0, attached: 0, replayed: 0, conflict: 0, invalid: 0, error: 0 };
    this.#outcomes.sort((a, b) => a.index - b.index);
    for (const { outcome } of this.#outcomes) counts[outcome]++;
    return { outcomes: this.#outcomes, counts };
  }

  async #acceptOne({ definition, item, checked }: Wanted): Promise<Answer> {
    const { name, queue, policy } = definition;
    const tenant = this.#tenant;
    let row: ((id: string) => DispatchRow) | undefined;
    const { xid, ...accepted } = await traceEnqueue({ name, queue, tenant }, async (trace) => {
      const { wanted, toDispatch } = plan(definition, checked, item, { tenant, trace });
      row = toDispatch;
      return this.#create(wanted, policy.onFailedKey);
    });
    return { accepted, xid, row: (row as (id: string) => DispatchRow)(accepted.id) };
  }

  async #create(wanted: Omit<NewJob, 'id'>, onFailedKey: 'replay' | 'rerun') {
    if (this.#acceptIn !== undefined) return this.#acceptIn(wanted, onFailedKey);
    const accepted = await this.#host.runtime.transitions.create(wanted, onFailedKey, this.#by);
    return { ...accepted, xid: undefined };
  }

  #note({ index }: Wanted, { accepted, xid, row }: Answer, created: DispatchRow[]): void {
    this.#accepted++;
    this.#outcomes.push({ index, ...handleOf(this.#host, this.#tenant, accepted, xid) });
    if (accepted.outcome !== 'created') return;
    if (xid !== undefined) this.#host.runtime.outbox.watch(xid, row);
    else if (this.#acceptIn === undefined) created.push(row);
  }

  /** @throws what nothing was accepted before, and what has spoilt the caller's transaction */
  #failed({ index, definition }: Wanted, error: unknown): void {
    if (error instanceof OncefleetError && error.code === 'KEY_MISMATCH') {
      this.#refuse(index, 'conflict', error);
      return;
    }
    if (this.#acceptIn !== undefined) throw error;
    if (isKeyLocked(error)) {
      this.#refuse(index, 'error', keyLocked(definition.name, error));
      return;
    }
    if (this.#accepted === 0 && isTransient(error)) throw error;
    if (isTransient(error)) this.#away = error;
    this.#refuse(index, 'error', error);
  }

  #refuse(index: number, outcome: BulkRefusal['outcome'], thrown: unknown): void {
    this.#outcomes.push({ index, outcome, error: toError(thrown) });
  }
}

function toError(thrown: unknown): OncefleetError {
  if (thrown instanceof OncefleetError) return thrown;
  return isTransient(thrown)
    ? new OncefleetError('STORE_UNAVAILABLE', 'Postgres did not answer; send the item again', { cause: thrown })
    : new OncefleetError('INTERNAL', 'Postgres refused the row; the log and the cause say why', { cause: thrown });
}
