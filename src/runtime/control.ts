import type { Logger } from '../log.ts';
import { onMessage, onSubscribable, publish, type RedisConnection, subscribe } from '../redis/pubsub.ts';

/**
 * Orders that would otherwise wait for the next heartbeat, on one pub/sub channel all
 * workers hear. Losing a message costs that wait and nothing else.
 *
 * Sharded on a Cluster, like the live bus. ioredis has one more subscriber there, for plain
 * channels; while no node is reachable it hangs a listener onto a dead socket with every try.
 */
export class Control {
  readonly #publish: RedisConnection;
  readonly #subscribe: RedisConnection;
  readonly #channel: string;
  readonly #log: Logger;
  #onCancel: ((jobId: string) => void) | undefined;

  constructor(options: { publish: RedisConnection; subscribe: RedisConnection; prefix: string; log: Logger }) {
    this.#publish = options.publish;
    this.#subscribe = options.subscribe;
    this.#channel = `${options.prefix}:control`;
    this.#log = options.log;
  }

  /** Tells whichever worker runs the job that a cancel was asked for. */
  cancel(jobId: string): void {
    if (this.#publish.status !== 'ready') return;
    publish(this.#publish, this.#channel, JSON.stringify({ cancel: jobId })).catch((err: unknown) =>
      this.#log.debug({ err }, 'cancel not announced'),
    );
  }

  /** Starts hearing, for as long as the connection lives. */
  listen(onCancel: (jobId: string) => void): void {
    const first = this.#onCancel === undefined;
    this.#onCancel = onCancel;
    if (!first) return;
    onMessage(this.#subscribe, (channel, text) => {
      if (channel === this.#channel) this.#hear(text);
    });
    const ask = () => {
      subscribe(this.#subscribe, this.#channel).catch((err: unknown) =>
        this.#log.debug({ err }, 'control channel not subscribed'),
      );
    };
    // On a Cluster the first try may be too early; the event repeats it.
    onSubscribable(this.#subscribe, ask);
    if (this.#subscribe.status === 'ready') ask();
  }

  #hear(text: string): void {
    try {
      const order = JSON.parse(text) as { cancel?: unknown } | null;
      if (typeof order?.cancel === 'string') this.#onCancel?.(order.cancel);
    } catch {
      this.#log.warn('order ignored: not JSON');
    }
  }
}
