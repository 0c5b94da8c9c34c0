/**
 * What all requests of a process may make it hold, in bytes: bodies that are being read, answers that are being made
 * or that their clients have not taken yet, and what streams have read and not yet sent.
 *
 * A tenant has half of it at the most, so that one tenant's clients leave room for another's. Where there is no room a
 * request is refused before anything is read for it (BUSY), and a stream waits until there is. Answers are refused by
 * what is held when they begin: the last one may exceed the budget by its own size.
 */
import type { FastifyInstance } from 'fastify';
import { OncefleetError } from '../errors.ts';
import { MAX_EVENT_LENGTH } from '../journal/event.ts';
import { Limiter } from '../util/limiter.ts';
import type { Turn } from '../util/turns.ts';

/** Of one tenant. */
const SHARE = 0.5;

/** What a read of the journal is counted as until its size is known: as much as one event may take. */
const READ_BYTES = heldFor(MAX_EVENT_LENGTH);

/** Reads of whole jobs and of pages that a tenant has at once: what each brings is not known before. */
const READS_AT_ONCE = 4;
/** More of them that wait. */
const MAX_WAITING_READS = 200;
/** What such a read is counted as until its answer is made. */
const ANSWER_BYTES = 4 * 1024 * 1024;

interface Waiter {
  resolve(turn: Turn): void;
}

interface Tenant {
  bytes: number;
  /** Streams that wait for room, longest first. */
  waiting: Set<Waiter>;
  reads: Limiter | undefined;
}

export class ByteBudget {
  readonly #bytes: number;
  readonly #tenants = new Map<string, Tenant>();
  /** Bytes that several answers share are counted once. */
  readonly #shared = new Map<object, { answers: number; hold: Hold }>();
  #held = 0;
  /** Streams of all tenants. */
  #waiting = 0;

  constructor(bytes: number) {
    this.#bytes = bytes;
  }
  /** Bytes held for all requests. */
  get held(): number {
    return this.#held;
  }

  hasRoom(tenant: string): boolean {
    return this.#held < this.#bytes && (this.#tenants.get(tenant)?.bytes ?? 0) < this.#bytes * SHARE;
  }

  /** @throws OncefleetError BUSY */
  requireRoom(tenant: string): void {
    if (this.hasRoom(tenant)) return;
    throw busy();
  }

  /** What one request holds: nothing, until it says so. */
  open(tenant: string): Hold {
    return new Hold(
      (change) => this.#change(tenant, change),
      () => this.requireRoom(tenant),
    );
  }

  /** Reads what may be large, few at once. @throws OncefleetError BUSY */
  read<T>(tenant: string, hold: Hold, task: () => Promise<T>): Promise<T> {
    const state = this.#of(tenant);
    state.reads ??= new Limiter({ atOnce: READS_AT_ONCE, maxWaiting: MAX_WAITING_READS, refusal: busy });
    return state.reads.run(async () => {
      // It may have waited.
      this.requireRoom(tenant);
      hold.set(ANSWER_BYTES);
      return task();
    });
  }

  /** Counts bytes that other answers may share. @returns ends it for this answer */
  share(bytes: Uint8Array, tenant: string): () => void {
    let entry = this.#shared.get(bytes);
    if (entry === undefined) {
      entry = { answers: 0, hold: this.open(tenant) };
      this.#shared.set(bytes, entry);
      entry.hold.set(bytes.byteLength);
    }
    entry.answers++;
    const { hold } = entry;
    return () => {
      if (--entry.answers > 0) return;
      this.#shared.delete(bytes);
      hold.set(0);
    };
  }

  /** Turns at reading from the journal, taken where there is room. They end when what was read has been sent. */
  turns(tenant: string): { take(signal: AbortSignal | undefined): Promise<Turn> } {
    return { take: (signal) => this.#takeTurn(tenant, signal) };
  }

  async #takeTurn(tenant: string, signal: AbortSignal | undefined): Promise<Turn> {
    signal?.throwIfAborted();
    const state = this.#of(tenant);
    if (state.waiting.size === 0 && this.hasRoom(tenant)) return this.#startTurn(tenant);
    const { promise, resolve, reject } = Promise.withResolvers<Turn>();
    const waiter = { resolve };
    state.waiting.add(waiter);
    this.#waiting++;
    const onAbort = () => {
      if (!state.waiting.delete(waiter)) return;
      this.#waiting--;
      this.#forget(tenant);
      reject(signal?.reason);
    };
    signal?.addEventListener('abort', onAbort, { once: true });
    return promise.finally(() => signal?.removeEventListener('abort', onAbort));
  }

  #startTurn(tenant: string): Turn {
    const hold = this.open(tenant);
    hold.set(READ_BYTES);
    const end: Turn = () => hold.set(0);
    end.brought = (length) => hold.set(heldFor(length));
    return end;
  }

  #change(tenant: string, change: number): void {
    this.#held += change;
    this.#of(tenant).bytes += change;
    if (change < 0 && this.#waiting > 0) for (const name of [...this.#tenants.keys()]) this.#wake(name);
    this.#forget(tenant);
  }

  #wake(tenant: string): void {
    const waiting = this.#tenants.get(tenant)?.waiting ?? new Set<Waiter>();
    for (const waiter of waiting) {
      if (!this.hasRoom(tenant)) return;
      waiting.delete(waiter);
      this.#waiting--;
      waiter.resolve(this.#startTurn(tenant));
    }
  }

  #of(tenant: string): Tenant {
    let state = this.#tenants.get(tenant);
    if (state === undefined) {
      state = { bytes: 0, waiting: new Set(), reads: undefined };
      this.#tenants.set(tenant, state);
    }
    return state;
  }

  /** Of tenants that hold nothing nothing is kept. */
  #forget(tenant: string): void {
    const state = this.#tenants.get(tenant);
    if (state?.bytes === 0 && state.waiting.size === 0) this.#tenants.delete(tenant);
  }
}

/** Texts that were read are held until all are sent, and of one event at a time its value and its frame as well. */
function heldFor(length: number): number {
  return length + 2 * Math.min(length, MAX_EVENT_LENGTH);
}

function busy(): OncefleetError {
  return new OncefleetError(
    'BUSY',
    'Requests in progress, and answers that are not read, take the memory there is for them; read them, or try again in a moment',
  );
}

/** What one request makes the process hold. */
export class Hold {
  readonly #change: (bytes: number) => void;
  readonly #requireRoom: () => void;
  #bytes = 0;

  constructor(change: (bytes: number) => void, requireRoom: () => void) {
    this.#change = change;
    this.#requireRoom = requireRoom;
  }

  /** The same as `set`, where more is wanted and may be refused. @throws OncefleetError BUSY */
  grow(bytes: number): void {
    this.#requireRoom();
    this.set(bytes);
  }

  /** It holds so many bytes now, instead of those before. */
  set(bytes: number): void {
    const change = bytes - this.#bytes;
    if (change === 0) return;
    this.#bytes = bytes;
    this.#change(change);
  }
}

/** Counts what the requests of an instance hold; where there is no room they are refused, before their bodies are read. */
export function countBytes(app: FastifyInstance, budget: ByteBudget): void {
  app.addHook('onRequest', (request, reply, done) => {
    const hold = budget.open(request.tenant);
    request.hold = hold;
    // Its answer has been handed to the kernel, or its connection is gone.
    reply.raw.once('close', () => hold.set(0));
    try {
      if (request.routeOptions.config.waitsForRoom !== true) budget.requireRoom(request.tenant);
      done();
    } catch (error) {
      done(error as Error);
    }
  });
  app.addHook('onSend', (request, reply, payload, done) => {
    // Shared ones are made once for all.
    if (request.routeOptions.config.sharedAnswer === true || reply.raw.destroyed) request.hold.set(0);
    else if (typeof payload === 'string') request.hold.set(Buffer.byteLength(payload));
    else if (Buffer.isBuffer(payload)) request.hold.set(payload.length);
    done(null, payload);
  });
}

declare module 'fastify' {
  interface FastifyRequest {
    /** What the request holds, of requests whose bytes are counted. */
    hold: Hold;
  }
  interface FastifyContextConfig {
    /** It reads where there is room, and is not refused where there is none. */
    waitsForRoom?: boolean;
    /** Its answer is made once, for all requests. */
    sharedAnswer?: boolean;
  }
}
