/**
 * The live bus: batches of events on Redis pub/sub, one channel a stream. A message is a hint
 * that saves a read; Postgres holds the truth, so losing, repeating or reordering messages
 * costs a follower time and nothing else.
 */
import type { EventEmitter } from 'node:events';
import type { Logger } from '../log.ts';
import { isSharded, onMessage, onSubscribable, type RedisConnection, subscribe, unsubscribe } from '../redis/pubsub.ts';
import { type BatchMessage, decodeBatchMessage, EVENTLESS_END } from './message.ts';
import { type LiveKey, openBatch, openEndings } from './seal.ts';

/**
 * A message without a good seal is shown to nobody: listeners look at the journal, this long after the first of
 * them. An older build's messages cost that time, and whoever forges them brings on no more reads than a Redis
 * that is down does.
 */
const UNSEALED_LOOK_MS = 250;

/** How often unsealed messages are warned of. */
const UNSEALED_WARN_MS = 60_000;

/** A subscription that Redis refused (a slot on the move, a node going away) is asked for again after this long. */
const RESUBSCRIBE_MS = 500;

export interface ChannelListener {
  onBatch(message: BatchMessage): void;
  /** Something may have been missed: the subscription began, broke, or came back. */
  onGap(): void;
}

export function streamChannel(prefix: string, streamId: string): string {
  return `${prefix}:stream:${streamId}`;
}

/**
 * Where the ends of eventless jobs are announced, many in a message: a message each would cost Redis
 * and the worker as much as the rest of such a job's journal.
 */
export function endingsChannel(prefix: string): string {
  return `${prefix}:endings`;
}

interface Channel {
  listeners: Set<ChannelListener>;
  /** Redis has confirmed the subscription on the present connection. */
  confirmed: boolean;
  /** Set while listeners are about to look at the journal because of an unsealed message. */
  look: NodeJS.Timeout | undefined;
}

/**
 * One subscriber connection for all followers of a process (on a Cluster one a node, with
 * sharded pub/sub); channels are reference-counted.
 */
export class ChannelHub {
  readonly #redis: RedisConnection;
  readonly #key: LiveKey;
  readonly #prefix: string;
  readonly #log: Logger;
  readonly #channels = new Map<string, Channel>();
  /** A Cluster is ready before its subscribers are. */
  #ready: boolean;
  #warnedAt = Number.NEGATIVE_INFINITY;

  /** @param options.redis a connection of its own, with `autoResubscribe: false`: the hub subscribes again itself */
  constructor(options: { redis: RedisConnection; key: LiveKey; prefix: string; log: Logger }) {
    this.#redis = options.redis;
    this.#key = options.key;
    this.#prefix = options.prefix;
    this.#log = options.log;
    const redis: EventEmitter = this.#redis;
    onMessage(this.#redis, (channel, text) => this.#deliver(channel, text));
    this.#ready = !this.#sharded && this.#redis.status === 'ready';
    onSubscribable(this.#redis, () => {
      this.#ready = true;
      this.#subscribe([...this.#channels.keys()]);
    });
    redis.on('close', () => {
      this.#ready = false;
      this.#cut();
    });
    // Of a Cluster's nodes one may go without the others. ioredis subscribes again by itself, but does
    // not say when: so we ask until Redis confirms.
    for (const event of ['-subscriber', '-node']) {
      redis.on(event, () => {
        this.#cut();
        this.#subscribeLater([...this.#channels.keys()]);
      });
    }
  }

  /** Channels with at least one listener. */
  get size(): number {
    return this.#channels.size;
  }

  get connected(): boolean {
    return this.#ready;
  }

  /** Whether messages of this stream reach this process at present. */
  isLive(streamId: string): boolean {
    return this.#channels.get(streamChannel(this.#prefix, streamId))?.confirmed ?? false;
  }

  /**
   * Adds a listener; `onGap` is called when the subscription is confirmed (in a later tick
   * if it already is) and after each reconnect.
   *
   * @returns a function that takes the listener off again
   */
  subscribe(streamId: string, listener: ChannelListener): () => void {
    const name = streamChannel(this.#prefix, streamId);
    let channel = this.#channels.get(name);
    if (channel === undefined) {
      channel = { listeners: new Set(), confirmed: false, look: undefined };
      this.#channels.set(name, channel);
      this.#subscribe([name]);
    } else if (channel.confirmed) {
      queueMicrotask(() => listener.onGap());
    }
    channel.listeners.add(listener);
    const { listeners } = channel;
    return () => {
      if (!listeners.delete(listener) || listeners.size > 0) return;
      clearTimeout(this.#channels.get(name)?.look);
      this.#channels.delete(name);
      this.#unsubscribe(this.#channels.size === 0 && !this.#sharded ? [name, endingsChannel(this.#prefix)] : [name]);
    };
  }

  #unsubscribe(names: readonly string[]): void {
    if (!this.#ready || names.length === 0) return;
    unsubscribe(this.#redis, ...names).catch((err: unknown) => this.#log.debug({ err }, 'unsubscribe failed'));
  }

  get #sharded(): boolean {
    return isSharded(this.#redis);
  }

  #subscribe(names: string[]): void {
    // Not ready: the `ready` handler subscribes to everything that is wanted by then.
    if (names.length === 0 || !this.#ready) return;
    // A sharded subscription is its slot's, and one command has one slot.
    for (const batch of this.#sharded ? names.map((name) => [name]) : [names]) {
      // Without the key no message can be told from a forged one; what comes before is read once all is there.
      Promise.all([this.#ask(batch), this.#key.load()]).then(
        () => this.#confirm(batch),
        (err: unknown) => {
          this.#log.warn({ err }, 'subscribe failed; trying again');
          this.#subscribeLater(batch);
        },
      );
    }
  }

  #ask(names: readonly string[]): Promise<void> {
    // With each stream's own, and first: once that is confirmed, no ending is missed either.
    return subscribe(this.#redis, ...(this.#sharded ? [] : [endingsChannel(this.#prefix)]), ...names);
  }

  #subscribeLater(names: readonly string[]): void {
    const subscribe = () => this.#subscribe(names.filter((name) => this.#channels.get(name)?.confirmed === false));
    setTimeout(subscribe, RESUBSCRIBE_MS).unref();
  }

  #confirm(names: readonly string[]): void {
    // Unsubscribed while the connection was down: ioredis has sent what was pending again.
    this.#unsubscribe(names.filter((name) => !this.#channels.has(name)));
    for (const name of names) {
      const channel = this.#channels.get(name);
      if (channel === undefined) continue;
      channel.confirmed = true;
      for (const listener of [...channel.listeners]) listener.onGap();
    }
  }

  /** Followers look at their heads now, and poll until messages come again. */
  #cut(): void {
    for (const channel of this.#channels.values()) {
      channel.confirmed = false;
      for (const listener of [...channel.listeners]) listener.onGap();
    }
  }

  #deliver(name: string, text: string): void {
    const key = this.#key.loaded;
    if (key === undefined) return;
    if (name === endingsChannel(this.#prefix)) {
      const ids = openEndings(key, name, text);
      for (const streamId of (ids ?? text).split(',')) {
        const ended = this.#channels.get(streamChannel(this.#prefix, streamId));
        if (ended === undefined) continue;
        if (ids === undefined) this.#lookSoon(ended);
        else for (const listener of [...ended.listeners]) listener.onBatch(EVENTLESS_END);
      }
      return;
    }
    const channel = this.#channels.get(name);
    if (channel === undefined) return;
    const opened = openBatch(key, name, text);
    if (opened === undefined) {
      this.#lookSoon(channel);
      return;
    }
    const message = decodeBatchMessage(opened);
    if (message === undefined) {
      this.#log.warn({ channel: name }, 'message ignored: not a batch of events');
      return;
    }
    for (const listener of [...channel.listeners]) listener.onBatch(message);
  }

  #lookSoon(channel: Channel): void {
    const now = performance.now();
    if (now - this.#warnedAt > UNSEALED_WARN_MS) {
      this.#warnedAt = now;
      this.#log.warn(
        'live message without a valid seal: not shown, the journal is read; is an older build running, or can somebody else publish on this Redis?',
      );
    }
    channel.look ??= setTimeout(() => {
      channel.look = undefined;
      for (const listener of [...channel.listeners]) listener.onGap();
    }, UNSEALED_LOOK_MS).unref();
  }
}
