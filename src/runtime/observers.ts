/** The observers of a job's transitions, and how they are called: in order, after the commit, and never so that the jobs feel it. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { TransitionMaker, TransitionType } from '../db/jobs/states.ts';
import { type ErrorCode, InputInvalidError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { within } from '../util/with-timeout.ts';
import { logTransition } from './transition-log.ts';

/** A change of a job, as observers are told of it. It has no payload: no input, result, event or message of an error. */
export interface Transition {
  readonly type: TransitionType;
  readonly jobId: string;
  readonly name: string;
  readonly queue: string;
  readonly tenant: string;
  /** 1 for the first; 0 before it; undefined where the process that makes the transition does not know. */
  readonly attempt: number | undefined;
  /** 0 before the first claim; undefined where the process that makes the transition does not know. */
  readonly fence: number | undefined;
  readonly by: TransitionMaker;
  /** The process that made it, as leases and the ledger name it. */
  readonly process: string;
  /** After the commit, by the clock of that process. */
  readonly at: Date;
  /** In milliseconds from `at`, until the job may run (again); of `created`, `deferred` and `retried`. */
  readonly delayMs: number | undefined;
  /** For how long the run has had the job, in milliseconds; where a run has ended. */
  readonly runMs: number | undefined;
  /** Of `failed`, `poisoned`, `cancelled` and `retried`. */
  readonly errorCode: ErrorCode | undefined;
}

/** What an observer may return is waited for, up to 30 s, before it is told of the next one. */
export type JobObserver = (transition: Transition) => unknown;

/** What a maker of a transition knows of it. */
export type Told = Pick<Transition, 'type' | 'jobId' | 'name' | 'queue' | 'tenant' | 'by'> & Partial<Transition>;

/** Transitions that wait for one observer, each well under 2 KB; more are dropped, and counted in the log. */
const MAX_WAITING = 10_000;

/** An observer that takes longer is told of the next transition meanwhile. */
const CALL_LIMIT_MS = 30_000;

/** After this time the other work of the process has a turn. */
const TURN_MS = 5;

/** Between two log lines about an observer that throws or is too slow. */
const COMPLAIN_EVERY_MS = 60_000;

/** How long a process that closes waits for observers. */
const IDLE_WAIT_MS = 1_000;

export class Observers {
  readonly #log: Logger;
  readonly #process: string;
  readonly #inboxes = new Set<ObserverInbox>();

  constructor({ log, process }: { log: Logger; process: string }) {
    this.#log = log;
    this.#process = process;
  }

  /** Ask first: where nobody listens a transition is not even put together. */
  get listening(): boolean {
    return this.#inboxes.size > 0 || this.#log.isLevelEnabled('debug');
  }

  /**
   * Tells an observer of every transition from now on.
   *
   * @returns ends that
   * @throws InputInvalidError it is no function
   */
  observe(observer: JobObserver): () => void {
    if (typeof observer !== 'function')
      throw new InputInvalidError('observe', [{ path: 'observer', message: 'expected a function' }]);
    const inbox = new ObserverInbox(observer, this.#log);
    this.#inboxes.add(inbox);
    return () => {
      this.#inboxes.delete(inbox);
      inbox.stop();
    };
  }

  /** Never throws, and calls no observer before the caller has gone on. */
  tell(told: Told): void {
    const transition: Transition = Object.freeze({
      attempt: undefined,
      fence: undefined,
      delayMs: undefined,
      runMs: undefined,
      errorCode: undefined,
      ...told,
      process: this.#process,
      at: new Date(),
    });
    if (this.#log.isLevelEnabled('debug')) logTransition(this.#log, transition);
    for (const inbox of this.#inboxes) inbox.put(transition);
  }

  /** Waits for observers that are behind, for a second at most. */
  async idle(): Promise<void> {
    const idle = Promise.all([...this.#inboxes].map((inbox) => inbox.idle()));
    await within(IDLE_WAIT_MS, idle, () => undefined);
  }

  async close(): Promise<void> {
    await this.idle();
    for (const inbox of this.#inboxes) inbox.stop();
    this.#inboxes.clear();
  }
}

/** One observer, and what it has not been told yet. */
class ObserverInbox {
  readonly #observer: JobObserver;
  readonly #log: Logger;
  #waiting: Transition[] = [];
  /** Of them, those before this one have been told. */
  #next = 0;
  #telling: Promise<void> | undefined;
  #complainedAt = Number.NEGATIVE_INFINITY;
  #dropped = 0;

  constructor(observer: JobObserver, log: Logger) {
    this.#observer = observer;
    this.#log = log;
  }

  put(transition: Transition): void {
    if (this.#waiting.length - this.#next >= MAX_WAITING) {
      this.#dropped++;
      this.#complain('observer is too slow: transitions were dropped');
      return;
    }
    this.#waiting.push(transition);
    this.#telling ??= this.#tellAll();
  }

  idle(): Promise<void> {
    return this.#telling ?? Promise.resolve();
  }

  stop(): void {
    this.#waiting = [];
    this.#next = 0;
  }

  async #tellAll(): Promise<void> {
    await nextTurn();
    let turnStarted = performance.now();
    for (let transition = this.#take(); transition !== undefined; transition = this.#take()) {
      await this.#tell(transition);
      if (performance.now() - turnStarted < TURN_MS) continue;
      await nextTurn();
      turnStarted = performance.now();
    }
    this.#telling = undefined;
  }

  #take(): Transition | undefined {
    if (this.#next === this.#waiting.length) {
      this.stop();
      return undefined;
    }
    if (this.#next === MAX_WAITING) {
      // Those that were told: taken out one by one, each would move all the others.
      this.#waiting = this.#waiting.slice(this.#next);
      this.#next = 0;
    }
    return this.#waiting[this.#next++];
  }

  async #tell(transition: Transition): Promise<void> {
    try {
      const answer = this.#observer(transition);
      if (typeof (answer as PromiseLike<unknown> | undefined | null)?.then === 'function')
        await this.#answered(answer as PromiseLike<unknown>);
    } catch (err) {
      this.#complain('observer failed', err);
    }
  }

  /** Settles as the answer does, or after a time. */
  async #answered(answer: PromiseLike<unknown>): Promise<void> {
    // It holds no process: an observer that never answers is no reason to stay.
    const { promise: late, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(() => {
      this.#complain('observer has not answered in time');
      resolve();
    }, CALL_LIMIT_MS).unref();
    try {
      await Promise.race([answer, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  #complain(message: string, err?: unknown): void {
    const now = performance.now();
    if (now - this.#complainedAt < COMPLAIN_EVERY_MS) return;
    this.#complainedAt = now;
    this.#log.warn({ ...(err === undefined ? {} : { err }), dropped: this.#dropped }, message);
  }
}
