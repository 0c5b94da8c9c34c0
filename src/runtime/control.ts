import type { EventEmitter } from 'node:events';
import type { Logger } from '../log.ts';
import { isSharded, onMessage, onSubscribable, publish, type RedisConnection, subscribe } from '../redis/pubsub.ts';

/** After a subscription that Redis did not confirm. */
const RESUBSCRIBE_MS = 1_000;

/** A job that a worker has left to others, because it does not know its name. */
export interface LeftJob {
  queue: string;
  name: string;
  /** BullMQ's. */
  id: string;
}

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
  readonly #onLeft = new Set<(job: LeftJob) => void>();
  #listening = false;
  /** Subscriptions can be made. Looked after from the start: a process listens later, and the event is over by then. */
  #subscribable: boolean;

  constructor(options: { publish: RedisConnection; subscribe: RedisConnection; prefix: string; log: Logger }) {
    this.#publish = options.publish;
    this.#subscribe = options.subscribe;
    this.#channel = `${options.prefix}:control`;
    this.#log = options.log;
    this.#subscribable = !isSharded(this.#subscribe) && this.#subscribe.status === 'ready';
    onSubscribable(this.#subscribe, () => {
      this.#subscribable = true;
      if (this.#listening) this.#ask();
    });
    const events: EventEmitter = this.#subscribe;
    events.on('close', () => {
      this.#subscribable = false;
    });
  }

  /** Tells whichever worker runs the job that a cancel was asked for. */
  cancel(jobId: string): void {
    this.#announce({ cancel: jobId });
  }

  /** Tells workers that know a job's name that this one has left it. */
  leave(job: LeftJob): void {
    this.#announce({ left: job });
  }

  #announce(message: { cancel: string } | { left: LeftJob }): void {
    if (this.#publish.status !== 'ready') return;
    publish(this.#publish, this.#channel, JSON.stringify(message)).catch((err: unknown) =>
      this.#log.debug({ err }, 'control message not sent'),
    );
  }

  /** Starts hearing, for as long as the connection lives. */
  listen(onCancel: (jobId: string) => void): void {
    this.#onCancel = onCancel;
    this.#listen();
  }

  /** @returns ends it */
  listenForLeft(onLeft: (job: LeftJob) => void): () => void {
    this.#onLeft.add(onLeft);
    this.#listen();
    return () => void this.#onLeft.delete(onLeft);
  }

  #listen(): void {
    if (this.#listening) return;
    this.#listening = true;
    onMessage(this.#subscribe, (channel, text) => {
      if (channel === this.#channel) this.#hear(text);
    });
    this.#ask();
  }

  /** Until Redis confirms. Where subscriptions cannot be made, the event that says so asks again. */
  #ask(): void {
    if (!this.#subscribable) return;
    subscribe(this.#subscribe, this.#channel).catch((err: unknown) => {
      this.#log.debug({ err }, 'control channel not subscribed; trying again');
      setTimeout(() => this.#ask(), RESUBSCRIBE_MS).unref();
    });
  }

  #hear(text: string): void {
    try {
      const order = JSON.parse(text) as { cancel?: unknown; left?: unknown } | null;
      if (typeof order?.cancel === 'string') this.#onCancel?.(order.cancel);
      if (isLeftJob(order?.left)) for (const listener of this.#onLeft) listener(order.left);
    } catch {
      this.#log.warn('order ignored: not JSON');
    }
  }
}

function isLeftJob(value: unknown): value is LeftJob {
  if (typeof value !== 'object' || value === null) return false;
  const { queue, name, id } = value as Partial<Record<keyof LeftJob, unknown>>;
  return typeof queue === 'string' && typeof name === 'string' && typeof id === 'string';
}
