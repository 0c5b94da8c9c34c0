import type { FastifyReply, FastifyRequest } from 'fastify';
import { RequestLimits } from './request-limits.ts';
import type { ResponseStream } from './response-stream.ts';

/** How long a drain waits for a reader that takes nothing before its socket is destroyed. */
const DRAIN_GRACE_MS = 2_000;

/**
 * Every streamed response of this process, so that a drain can end them all.
 */
export class OpenStreams {
  readonly #open = new Map<ResponseStream, Promise<void>>();
  readonly #drain = new AbortController();
  readonly #limits: RequestLimits;

  constructor(limits = new RequestLimits({})) {
    this.#limits = limits;
  }

  get draining(): boolean {
    return this.#drain.signal.aborted;
  }

  /** Aborts when the drain starts. */
  get drainSignal(): AbortSignal {
    return this.#drain.signal;
  }

  get size(): number {
    return this.#open.size;
  }

  /** Before the response of so many streams begins. @throws OncefleetError TOO_MANY_REQUESTS its caller has too many */
  admit(request: FastifyRequest, reply: FastifyReply, count = 1): void {
    this.#limits.openStream(request, reply, count);
  }

  /** Runs a pump for a stream; whatever way it ends, the response is ended or destroyed. */
  async run(stream: ResponseStream, pump: () => Promise<void>): Promise<void> {
    const done = pump().finally(() => stream.settle());
    this.#open.set(stream, done);
    if (this.draining) stream.drain();
    try {
      await done;
      await stream.closed;
    } finally {
      this.#open.delete(stream);
    }
  }

  /** Tells every reader to come back later; readers that take nothing are cut off after a moment. */
  async drain(): Promise<void> {
    this.#drain.abort();
    const streams = [...this.#open.keys()];
    for (const stream of streams) stream.drain();
    const grace = setTimeout(() => {
      for (const stream of streams) stream.destroy();
    }, DRAIN_GRACE_MS);
    await Promise.allSettled(streams.map((stream) => stream.closed));
    clearTimeout(grace);
  }
}
