/** One run of a tortured handler: its context, each call of which is a place for a fault. */
import { Kysely, PostgresDialect, type PostgresPool, type PostgresPoolClient } from 'kysely';
import type pg from 'pg';
import { type QualifiedDatabase, SchemaMark, schemaOf } from '../../db/own-schema.ts';
import type { JobContext } from '../../jobs/define-job.ts';
import { type Call, type Moment, RUN, SETTLE } from './faults.ts';

/** What happens at a place; it may throw, wait, or kill the run and stay pending. */
type AtPlace = (run: TorturedRun, call: Call, moment: Moment) => Promise<void>;

/** What a call throws under the fault `error`: as if its connection were lost. */
export class TorturedCallError extends Error {
  constructor(call: string) {
    super(`Connection terminated unexpectedly (torture, at ${call})`);
    this.name = 'TorturedCallError';
  }
}

/** Thrown into transactions of a run that is dead, so that Postgres rolls them back. */
class Dead extends Error {}

export class TorturedRun {
  /** 1 for the first run of the job. */
  readonly number: number;
  readonly ctx: JobContext;
  /** Resolves when the handler has ended; never for a dead run. */
  readonly ended: Promise<void>;
  readonly calls: Call[] = [];
  readonly #inner: JobContext;
  readonly #at: AtPlace;
  readonly #controller = new AbortController();
  readonly #counts = new Map<string, number>();
  readonly #clients = new Set<TorturedClient>();
  readonly #transactions = new Set<Promise<unknown>>();
  readonly #death = Promise.withResolvers<never>();
  readonly #released = Promise.withResolvers<never>();
  readonly #ended = Promise.withResolvers<void>();
  #depth = 0;
  #dead = false;

  constructor(number: number, inner: JobContext, pool: pg.Pool, at: AtPlace) {
    this.number = number;
    this.#inner = inner;
    this.#at = at;
    this.ended = this.#ended.promise;
    this.#death.promise.catch(() => undefined);
    this.#released.promise.catch(() => undefined);
    const onAbort = () => {
      if (!this.#dead) this.#controller.abort(inner.signal.reason);
    };
    inner.signal.addEventListener('abort', onAbort, { once: true });
    if (inner.signal.aborted) onAbort();
    this.ctx = this.#wrap(inner, pool);
  }

  get fence(): number {
    return this.#inner.fence;
  }

  /** Runs the handler with this run's context. Once the run is dead, it stays pending until `release()`. */
  execute<O>(handler: (ctx: JobContext) => Promise<O>): Promise<O> {
    const run = async () => {
      await this.#place({ id: RUN, kind: RUN, nested: false }, 'before');
      try {
        const value = await handler(this.ctx);
        await this.#alive();
        await this.#place({ id: SETTLE, kind: SETTLE, nested: false }, 'before');
        return value;
      } catch (error) {
        await this.#alive();
        throw error;
      } finally {
        this.#ended.resolve();
      }
    };
    return Promise.race([run(), this.#released.promise]);
  }

  /** Ends the run as the death of its process would: its connections break, its promises stay pending. */
  async die(): Promise<void> {
    this.#dead = true;
    this.#death.reject(new Dead());
    for (const client of [...this.#clients]) client.release(true);
    await Promise.allSettled(this.#transactions);
  }

  /** Releases the worker that waits for a dead run. */
  release(): void {
    this.#released.reject(new Dead());
  }

  /** Commits what the run has emitted. */
  flush(): Promise<void> {
    return this.#inner.flush();
  }

  abort(reason: Error): void {
    this.#controller.abort(reason);
  }

  /** A call that the handler makes: a place before it, one after it. */
  async #call<T>(kind: string, perform: (call: Call) => Promise<T>): Promise<T> {
    await this.#alive();
    const n = (this.#counts.get(kind) ?? 0) + 1;
    this.#counts.set(kind, n);
    const call: Call = { id: `${kind} #${n}`, kind, nested: this.#depth > 0 };
    this.calls.push(call);
    await this.#place(call, 'before');
    let value: T;
    try {
      value = await perform(call);
    } catch (error) {
      await this.#alive();
      throw error;
    }
    await this.#alive();
    await this.#place(call, 'after');
    return value;
  }

  async #place(call: Call, moment: Moment): Promise<void> {
    await this.#at(this, call, moment);
    await this.#alive();
  }

  /** Never resolves for a dead run. */
  #alive(): Promise<void> {
    return this.#dead ? new Promise(() => undefined) : Promise.resolve();
  }

  #wrap(inner: JobContext, pool: pg.Pool): JobContext {
    const db = new Kysely<QualifiedDatabase>({
      dialect: new PostgresDialect({ pool: this.#poolOf(pool) }),
      plugins: [new SchemaMark(schemaOf(inner.db))],
    });
    const overrides: Partial<JobContext> = {
      db,
      signal: this.#controller.signal,
      emit: (event) => this.#call('ctx.emit', () => inner.emit(event)),
      progress: (progress) => this.#call('ctx.progress', () => inner.progress(progress)),
      flush: () => this.#call('ctx.flush', () => inner.flush()),
      checkpoint: (value) => this.#call('ctx.checkpoint', () => inner.checkpoint(value)),
      complete: (trx, result) => this.#call('ctx.complete', () => inner.complete(trx, result)),
      transaction: (effects) =>
        this.#call('ctx.transaction', (call) => {
          const done = inner.transaction(async (trx) => {
            this.#depth++;
            try {
              const value = await Promise.race([effects(trx), this.#death.promise]);
              await Promise.race([this.#place(call, 'inside'), this.#death.promise]);
              return value;
            } finally {
              this.#depth--;
            }
          });
          this.#transactions.add(done);
          return done.finally(() => this.#transactions.delete(done));
        }),
    };
    return Object.create(inner, Object.getOwnPropertyDescriptors(overrides)) as JobContext;
  }

  /** Connections whose every statement is a call, and which break when the run dies. */
  #poolOf(pool: pg.Pool): PostgresPool {
    return {
      options: pool.options,
      connect: async () => {
        await this.#alive();
        return new TorturedClient(await pool.connect(), this.#clients, {
          call: (perform) => this.#call('ctx.db', perform),
          opened: (by) => {
            this.#depth += by;
          },
        }).proxy;
      },
      end: async () => undefined,
    };
  }
}

/** A connection of a run: after an error that stands for a lost connection it is one. */
class TorturedClient {
  readonly proxy: PostgresPoolClient;
  readonly #client: pg.PoolClient;
  readonly #all: Set<TorturedClient>;
  readonly #run: { call<T>(perform: () => Promise<T>): Promise<T>; opened(by: 1 | -1): void };
  #inTransaction = false;
  #broken = false;
  #released = false;

  constructor(
    client: pg.PoolClient,
    all: Set<TorturedClient>,
    run: { call<T>(perform: () => Promise<T>): Promise<T>; opened(by: 1 | -1): void },
  ) {
    this.#client = client;
    this.#all = all;
    this.#run = run;
    all.add(this);
    this.proxy = new Proxy(client, {
      get: (target, property) => {
        if (property === 'release') return (destroy?: boolean) => this.release(destroy === true);
        if (property === 'query') return (...args: unknown[]) => this.#query(args);
        const value = Reflect.get(target, property, target) as unknown;
        return typeof value === 'function' ? value.bind(target) : value;
      },
    }) as unknown as PostgresPoolClient;
  }

  release(destroy: boolean): void {
    if (this.#released) return;
    this.#released = true;
    this.#all.delete(this);
    this.#setInTransaction(false);
    this.#client.release(destroy || this.#broken);
  }

  async #query(args: readonly unknown[]): Promise<unknown> {
    if (this.#broken || this.#released) throw new TorturedCallError('ctx.db');
    const [statement] = args;
    const text = typeof statement === 'string' ? statement : ((statement as { text?: string } | undefined)?.text ?? '');
    try {
      const answer = await this.#run.call(async () => {
        const query = this.#client.query as unknown as (...args: unknown[]) => Promise<unknown>;
        const got = await query.apply(this.#client, [...args]);
        if (/^\s*(begin|start\s+transaction)\b/i.test(text)) this.#setInTransaction(true);
        return got;
      });
      if (/^\s*(commit|rollback(?!\s+to))\b/i.test(text)) this.#setInTransaction(false);
      return answer;
    } catch (error) {
      if (error instanceof TorturedCallError) {
        this.#broken = true;
        this.#setInTransaction(false);
      }
      throw error;
    }
  }

  #setInTransaction(open: boolean): void {
    if (open !== this.#inTransaction) this.#run.opened(open ? 1 : -1);
    this.#inTransaction = open;
  }
}
