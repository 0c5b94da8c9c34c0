import type { EventEmitter } from 'node:events';
import { Cluster } from 'ioredis';
import type { RedisConnection } from '../journal/channel.ts';
import type { Logger } from '../log.ts';

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
    this.#send(JSON.stringify({ cancel: jobId })).catch((err: unknown) =>
      this.#log.debug({ err }, 'cancel not announced'),
    );
  }

  /** Starts hearing, for as long as the connection lives. */
  listen(onCancel: (jobId: string) => void): void {
    const first = this.#onCancel === undefined;
    this.#onCancel = onCancel;
    if (!first) return;
    const redis: EventEmitter = this.#subscribe;
    const sharded = this.#subscribe instanceof Cluster;
    redis.on(sharded ? 'smessage' : 'message', (channel: string, text: string) => {
      if (channel === this.#channel) this.#hear(text);
    });
    const subscribe = () => {
      this.#ask().catch((err: unknown) => this.#log.debug({ err }, 'control channel not subscribed'));
    };
    // A Cluster is ready before its subscribers are; what is asked too early is asked again.
    redis.on(sharded ? 'subscribersReady' : 'ready', subscribe);
    if (this.#subscribe.status === 'ready') subscribe();
  }

  /** Async, because ioredis throws at once for a slot that no node has. */
  async #ask(): Promise<void> {
    await (this.#subscribe instanceof Cluster
      ? this.#subscribe.ssubscribe(this.#channel)
      : this.#subscribe.subscribe(this.#channel));
  }

  /** Async for the same reason. */
  async #send(order: string): Promise<void> {
    await (this.#publish instanceof Cluster
      ? this.#publish.spublish(this.#channel, order)
      : this.#publish.publish(this.#channel, order));
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
