/**
 * How many handlers of a queue run at once in this process, while the outcomes of those that
 * have returned are still being committed.
 *
 * Told to take no more than so many jobs, BullMQ would count a job until its outcome is in
 * Postgres and in Redis: a short handler's slot would be idle most of the time. So BullMQ may
 * take twice as many jobs in reserve, and each waits here for a slot before it is claimed: a
 * crash counts against nothing that had not started.
 *
 * Jobs that wait here are kept from other workers. That is done for short handlers alone,
 * and one that has waited too long goes back to its queue.
 */

/** Handlers that take longer than this on average need no job in reserve. */
const SHORT_MS = 20;

/** A job that has waited this long for a slot goes back to its queue. */
const MAX_WAIT_MS = 100;

/** Jobs in reserve for each slot: one is being fetched while the outcome of one is committed. */
const RESERVE = 2;
const MAX_RESERVE = 200;

/** Handlers that must have been seen before any job is taken in reserve. */
const MIN_SEEN = 8;

/** Weight of the newest handler in the average. */
const NEWEST = 1 / 16;

interface HandlerSlotsOptions {
  /** Handlers that run at once. */
  concurrency: number;
  /** Sets how many jobs BullMQ takes at once. */
  setDeliveries(count: number): void;
}

interface Waiter {
  since: number;
  resolve(taken: boolean): void;
}

export class HandlerSlots {
  readonly #options: HandlerSlotsOptions;
  readonly #reserve: number;
  #free: number;
  #averageMs = 0;
  #seen = 0;
  #open = false;
  #closed = false;
  readonly #waiters: Waiter[] = [];
  #timer: NodeJS.Timeout | undefined;

  constructor(options: HandlerSlotsOptions) {
    this.#options = options;
    this.#free = options.concurrency;
    this.#reserve = Math.min(options.concurrency * RESERVE, MAX_RESERVE);
  }

  /** Whether a slot was free, and is now the caller's. */
  tryTake(): boolean {
    if (this.#free === 0 || this.#closed) return false;
    this.#free--;
    return true;
  }

  /** Waits for a slot. @returns false: none came free in time, the job is for somebody else */
  wait(): Promise<boolean> {
    if (this.#closed) return Promise.resolve(false);
    return new Promise((resolve) => {
      this.#waiters.push({ since: performance.now(), resolve });
      this.#timer ??= setTimeout(() => this.#giveUp(), MAX_WAIT_MS);
    });
  }

  /** @param handlerMs how long the slot's handler ran; undefined: none did */
  release(handlerMs: number | undefined): void {
    if (handlerMs !== undefined) this.#note(handlerMs);
    const next = this.#waiters.shift();
    if (next === undefined) this.#free++;
    else next.resolve(true);
  }

  /** Hands back what waits; nobody gets a slot any more. */
  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    handBack(this.#waiters.splice(0));
  }

  #note(handlerMs: number): void {
    this.#seen++;
    this.#averageMs += (handlerMs - this.#averageMs) * NEWEST;
    this.#set(this.#seen >= MIN_SEEN && this.#averageMs < SHORT_MS);
  }

  #set(open: boolean): void {
    if (open === this.#open || this.#closed) return;
    this.#open = open;
    this.#options.setDeliveries(this.#options.concurrency + (open ? this.#reserve : 0));
  }

  #giveUp(): void {
    this.#timer = undefined;
    const before = performance.now() - MAX_WAIT_MS;
    const late = this.#waiters.findIndex(({ since }) => since > before);
    const given = this.#waiters.splice(0, late === -1 ? this.#waiters.length : late);
    if (given.length > 0) {
      // Not again until many short handlers have been seen.
      this.#averageMs = Math.max(this.#averageMs, MAX_WAIT_MS);
      this.#set(false);
    }
    handBack(given);
    const next = this.#waiters[0];
    if (next !== undefined)
      this.#timer = setTimeout(() => this.#giveUp(), Math.max(1, next.since + MAX_WAIT_MS - performance.now()));
  }
}

/** The newest first: each goes to the head of its queue, and they are to stand there as before. */
function handBack(waiters: Waiter[]): void {
  for (const { resolve } of waiters.reverse()) resolve(false);
}

/** The slot of one delivery. */
export class Slot {
  readonly #slots: HandlerSlots;
  #held = false;

  constructor(slots: HandlerSlots) {
    this.#slots = slots;
  }

  /** @returns false: none is free */
  tryTake(): boolean {
    this.#held ||= this.#slots.tryTake();
    return this.#held;
  }

  /** @returns false: none came free in time, the delivery is for somebody else */
  take(): Promise<boolean> {
    return this.#slots.wait().then((taken) => {
      this.#held = taken;
      return taken;
    });
  }

  /**
   * Gives the slot to another delivery. Idempotent.
   *
   * @param handlerMs how long the handler ran; undefined: none did
   */
  letGo(handlerMs?: number): void {
    if (!this.#held) return;
    this.#held = false;
    this.#slots.release(handlerMs);
  }
}
