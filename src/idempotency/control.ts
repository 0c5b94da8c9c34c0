import type { EventEmitter } from 'node:events';
import type { RedisConnection } from '../journal/channel.ts';
import type { Logger } from '../log.ts';

/**
 * Orders that would otherwise wait for the next heartbeat, on one pub/sub channel all
 * workers hear. Losing a message costs that wait and nothing else.
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
    this.#publish
      .publish(this.#channel, JSON.stringify({ cancel: jobId }))
      .catch((err: unknown) => this.#log.debug({ err }, 'cancel not announced'));
  }

  /** Starts hearing, for as long as the connection lives. */
  listen(onCancel: (jobId: string) => void): void {
    const first = this.#onCancel === undefined;
    this.#onCancel = onCancel;
    if (!first) return;
    const redis: EventEmitter = this.#subscribe;
    redis.on('message', (channel: string, text: string) => {
      if (channel === this.#channel) this.#hear(text);
    });
    const subscribe = () => {
      this.#subscribe
        .subscribe(this.#channel)
        .catch((err: unknown) => this.#log.debug({ err }, 'control channel not subscribed'));
    };
    this.#subscribe.on('ready', subscribe);
    if (this.#subscribe.status === 'ready') subscribe();
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
