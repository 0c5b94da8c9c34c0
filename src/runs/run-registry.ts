import { InterruptedError, OncefleetError } from '../errors.ts';
import type { StreamWriter } from '../journal/stream-writer.ts';
import { type Placed, SwapList } from '../util/swap-list.ts';
import type { Stop } from './stop.ts';

export interface RunInProgress extends Placed {
  readonly stop: Stop;
  readonly jobId: string;
  /** A run without a lease has none. */
  readonly stream: StreamWriter | undefined;
}

/** The runs of one guard that are in progress, and how far its process has come with ending. */
export class RunRegistry {
  readonly #runs = new SwapList<RunInProgress>();
  readonly #stopWaiting = new AbortController();
  #closing = false;
  #abandoned = false;
  #waitingForIdle: (() => void)[] = [];

  get size(): number {
    return this.#runs.size;
  }

  /** No run starts any more: this process ends. */
  get closing(): boolean {
    return this.#closing;
  }

  /** The worker was closed by force: its jobs are no longer this process's to move. */
  get abandoned(): boolean {
    return this.#abandoned;
  }

  /** Aborts when nothing waits for an unreachable Postgres any longer, because the process must end. */
  get stoppedWaiting(): AbortSignal {
    return this.#stopWaiting.signal;
  }

  add(run: RunInProgress): void {
    this.#runs.add(run);
  }

  remove(run: RunInProgress): void {
    this.#runs.remove(run);
    if (this.#runs.size === 0) for (const resolve of this.#waitingForIdle.splice(0)) resolve();
  }

  /** Resolves when no run is in progress. */
  idle(): Promise<void> {
    if (this.#runs.size === 0) return Promise.resolve();
    return new Promise((resolve) => this.#waitingForIdle.push(resolve));
  }

  /**
   * Aborts every run; each is released for another worker and counted as an interruption.
   *
   * @param forGood also what has not started yet, such as a run whose claim is under way
   */
  interrupt(forGood: boolean): void {
    this.#closing ||= forGood;
    for (const { stop, jobId } of this.#runs.values()) stop.abort(new InterruptedError(jobId));
  }

  abandon(): void {
    this.#abandoned = true;
    this.interrupt(true);
  }

  /** Stops waiting for Postgres: what could not be settled is left to its lease. */
  stopWaiting(): void {
    this.#stopWaiting.abort();
    // An outcome also waits for the events before it.
    for (const { stream } of this.#runs.values())
      stream?.refuse(new OncefleetError('STORE_UNAVAILABLE', 'The worker ended before Postgres had the events'));
  }
}
