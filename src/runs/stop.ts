/**
 * Why a run must stop, if it must. What `AbortController` does for a handler, without one for
 * the many handlers that never ask for their signal.
 */
export class Stop {
  #reason: Error | undefined;
  #controller: AbortController | undefined;
  #listener: (() => void) | undefined;

  /** The first reason given. */
  get reason(): Error | undefined {
    return this.#reason;
  }

  /** As the handler sees it; made when first asked for. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#reason !== undefined) this.#controller.abort(this.#reason);
    }
    return this.#controller.signal;
  }

  /** Aborts the signal, and leaves it to the handler what becomes of the run. */
  pass(reason: unknown): void {
    if (this.signal.aborted) return;
    this.#controller?.abort(reason);
  }

  /** The first call counts. */
  abort(reason: Error): void {
    if (this.#reason !== undefined) return;
    this.#reason = reason;
    this.#controller?.abort(reason);
    this.#listener?.();
  }

  /** Calls the one listener when the run must stop: at once if it must already. */
  listen(listener: () => void): void {
    this.#listener = listener;
    if (this.#reason !== undefined) listener();
  }

  /** The handler has returned: a later reason is for nobody to hear. */
  unlisten(): void {
    this.#listener = undefined;
  }

  throwIfAborted(): void {
    if (this.#reason !== undefined) throw this.#reason;
  }
}
