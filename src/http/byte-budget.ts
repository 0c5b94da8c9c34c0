/**
 * What all requests of a process may make it hold, in bytes: bodies that are being read and what was made of them,
 * answers that are being made or that their clients have not taken yet, and what streams have read and not yet sent.
 *
 * It is counted by account: a tenant, or the address of a client that has none. An account may hold as much as is
 * free: alone it has half of the budget, two have a third each, and somebody who holds nothing always finds room. Where
 * there is none a request is refused before anything is read for it (BUSY), and a stream waits until there is.
 *
 * An answer is refused by what is held when it begins: the last one may exceed the budget by its own size.
 */
import type { FollowBatchesOptions } from '../client/types.ts';
import { OncefleetError } from '../errors.ts';
import { MAX_EVENT_LENGTH } from '../journal/event.ts';
import { Limiter } from '../util/limiter.ts';
import type { Turn } from '../util/turns.ts';
import { Uncollected } from './uncollected.ts';

/** Streams leave room to the requests of their own account: they begin to read while it has this share of what it may have. */
const STREAM_SHARE = 0.5;
/** What a read of the journal is counted as until its size is known: as much as one event may take. */
const READ_BYTES = MAX_EVENT_LENGTH;

/**
 * Reads that an account has at once: what each brings is not known before, and while large ones are made into
 * answers, a request of another account comes between two of them.
 */
const READS_AT_ONCE = 2;
/** The same of streams. */
const STREAM_READS_AT_ONCE = 2;
/** More of them that wait. */
const MAX_WAITING_READS = 200;
/** Bytes outside of the heap, garbage among them, above which those that read much wait: so many times the budget. */
const UNCOLLECTED_SHARE = 1;
/** What such a read is counted as until its answer is made. */
const ANSWER_BYTES = 1024 * 1024;

interface Waiter {
  resolve(turn: Turn): void;
}

interface Account {
  bytes: number;
  /** Reads of streams that have not come back. */
  streamReads: number;
  /** Streams that wait for room, longest first. */
  waiting: Set<Waiter>;
  reads: Limiter | undefined;
}

export class ByteBudget {
  readonly #bytes: number;
  readonly #accounts = new Map<string, Account>();
  /** Those in which streams wait. */
  readonly #queues = new Map<string, Account>();
  /** Bytes that several answers share are counted once. */
  readonly #shared = new Map<object, { answers: number; hold: Hold }>();
  readonly #uncollected: Uncollected;
  #held = 0;

  constructor(bytes: number, uncollected: Uncollected = new Uncollected(UNCOLLECTED_SHARE * bytes)) {
    this.#bytes = bytes;
    this.#uncollected = uncollected;
  }

  /** Bytes held for all requests. */
  get held(): number {
    return this.#held;
  }

  /** @param share of what the account may hold */
  hasRoom(account: string, share = 1): boolean {
    return (this.#accounts.get(account)?.bytes ?? 0) < (this.#bytes - this.#held) * share;
  }

  /** What one request or stream holds: nothing, until it says so. */
  open(account: string): Hold {
    return new Hold(
      account,
      (change) => this.#change(account, change),
      () => {
        if (!this.hasRoom(account)) throw busy();
      },
    );
  }

  /** Reads what may be large or take long, few at once. @throws OncefleetError BUSY */
  read<T>(hold: Hold, task: () => Promise<T>): Promise<T> {
    const { account } = hold;
    const state = this.#of(account);
    state.reads ??= new Limiter({ atOnce: READS_AT_ONCE, maxWaiting: MAX_WAITING_READS, refusal: busy });
    return state.reads.run(async () => {
      // It may have waited.
      hold.requireRoom();
      hold.set(ANSWER_BYTES);
      await this.#uncollected.collected(account);
      return task();
    });
  }

  /** An answer of this size was made: garbage, once it has been sent. */
  made(account: string, bytes: number): void {
    this.#uncollected.add(account, bytes);
  }

  /** Counts bytes that other answers may share. @returns ends it for this answer */
  share(bytes: Uint8Array, account: string): () => void {
    let entry = this.#shared.get(bytes);
    if (entry === undefined) {
      entry = { answers: 0, hold: this.open(account) };
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

  /**
   * Bounds of one stream. Turns at reading from the journal are taken where there is room, and end when what was read
   * has been sent; live messages are kept while there is room.
   */
  streamBounds(account: string): Required<Pick<FollowBatchesOptions, 'turns' | 'keep'>> {
    const inbox = this.open(account);
    let kept = 0;
    return {
      turns: {
        take: async (signal) => {
          const turn = await this.#takeTurn(account, signal);
          await this.#uncollected.collected(account);
          return turn;
        },
      },
      keep: (length) => {
        if (length > kept && !this.hasRoom(account, STREAM_SHARE)) return false;
        kept = length;
        inbox.set(length);
        return true;
      },
    };
  }

  async #takeTurn(account: string, signal: AbortSignal | undefined): Promise<Turn> {
    signal?.throwIfAborted();
    const state = this.#of(account);
    if (state.waiting.size === 0 && this.#mayRead(account, state)) return this.#startTurn(account, state);
    const { promise, resolve, reject } = Promise.withResolvers<Turn>();
    const waiter = { resolve };
    state.waiting.add(waiter);
    this.#queues.set(account, state);
    const onAbort = () => {
      if (!state.waiting.delete(waiter)) return;
      this.#forget(account, state);
      reject(signal?.reason);
    };
    signal?.addEventListener('abort', onAbort, { once: true });
    return promise.finally(() => signal?.removeEventListener('abort', onAbort));
  }

  #mayRead(account: string, { streamReads }: Account): boolean {
    return streamReads < STREAM_READS_AT_ONCE && this.hasRoom(account, STREAM_SHARE);
  }

  #startTurn(account: string, state: Account): Turn {
    const hold = this.open(account);
    hold.set(READ_BYTES);
    state.streamReads++;
    let reads = true;
    const cameBack = () => {
      if (!reads) return;
      reads = false;
      state.streamReads--;
      this.#wake(account, state);
    };
    const end: Turn = () => {
      cameBack();
      hold.set(0);
    };
    end.brought = (length) => {
      this.#uncollected.add(account, length);
      hold.set(heldFor(length));
      cameBack();
    };
    return end;
  }

  #change(account: string, change: number): void {
    this.#held += change;
    const state = this.#of(account);
    state.bytes += change;
    if (change < 0) for (const [name, queue] of this.#queues) this.#wake(name, queue);
    this.#forget(account, state);
  }

  #wake(account: string, state: Account): void {
    for (const waiter of state.waiting) {
      if (!this.#mayRead(account, state)) return;
      state.waiting.delete(waiter);
      waiter.resolve(this.#startTurn(account, state));
    }
    this.#forget(account, state);
  }

  #of(account: string): Account {
    let state = this.#accounts.get(account);
    if (state === undefined) {
      state = { bytes: 0, streamReads: 0, waiting: new Set(), reads: undefined };
      this.#accounts.set(account, state);
    }
    return state;
  }

  /** Of accounts that hold nothing nothing is kept. */
  #forget(account: string, state: Account): void {
    if (state.waiting.size > 0) return;
    this.#queues.delete(account);
    if (state.bytes === 0 && state.reads?.idle !== false) this.#accounts.delete(account);
  }
}

/** What one request makes the process hold. */
export class Hold {
  /** It is counted there. */
  readonly account: string;
  /** @throws OncefleetError BUSY */
  readonly requireRoom: () => void;
  readonly #change: (bytes: number) => void;
  #bytes = 0;
  #closed = false;

  constructor(account: string, change: (bytes: number) => void, requireRoom: () => void) {
    this.account = account;
    this.#change = change;
    this.requireRoom = requireRoom;
  }

  /** The same as `set`, where more is wanted and may be refused. @throws OncefleetError BUSY */
  grow(bytes: number): void {
    if (bytes > this.#bytes) this.requireRoom();
    this.set(bytes);
  }

  /** It holds so many bytes now, instead of those before. */
  set(bytes: number): void {
    const change = bytes - this.#bytes;
    if (change === 0 || this.#closed) return;
    this.#bytes = bytes;
    this.#change(change);
  }

  /** Its client is gone or has everything: whatever still runs for it is not counted. */
  close(): void {
    this.set(0);
    this.#closed = true;
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
