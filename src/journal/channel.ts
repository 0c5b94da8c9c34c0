/**
 * The live bus: runs of events on Redis pub/sub, one channel a stream. A message is a hint
 * that saves a read; Postgres holds the truth, so losing, repeating or reordering messages
 * costs a follower time and nothing else.
 */
import type { Redis } from 'ioredis';
import { lastSeq, type Run } from '../db/journal.ts';
import type { Logger } from '../log.ts';

/** Larger runs are announced without their events, which followers then read from Postgres. */
const MAX_MESSAGE_LENGTH = 256 * 1024;

/** Messages handed to Redis and not yet confirmed; past it, live messages are skipped (followers read). */
const MAX_UNCONFIRMED = 10_000;

export interface RunMessage {
  firstSeq: number;
  lastSeq: number;
  fence: number;
  /** The last event is the stream's terminal event. */
  end: boolean;
  /** JSON texts; absent when the message only points at the journal. */
  events: readonly string[] | undefined;
}

export interface ChannelListener {
  onRun(message: RunMessage): void;
  /** Something may have been missed: the subscription began, broke, or came back. */
  onGap(): void;
}

export function streamChannel(prefix: string, streamId: string): string {
  return `${prefix}:stream:${streamId}`;
}

/**
 * A run as a message.
 *
 * @param run without events, it only points at the journal (or at the row, of a silent job)
 */
export function encodeRunMessage(run: Run, end: boolean): string {
  if (run.events.length === 0)
    return `{"first":${run.firstSeq},"last":${run.firstSeq},"fence":${run.fence},"end":${end}}`;
  const head = `{"first":${run.firstSeq},"last":${lastSeq(run)},"fence":${run.fence},"end":${end}`;
  let length = 0;
  for (const event of run.events) length += event.length + 1;
  return length > MAX_MESSAGE_LENGTH ? `${head}}` : `${head},"events":[${run.events.join(',')}]}`;
}

/** `undefined` for anything that is not a run message: a channel is open to whoever can reach Redis. */
export function decodeRunMessage(text: string): RunMessage | undefined {
  let value: { first?: unknown; last?: unknown; fence?: unknown; end?: unknown; events?: unknown };
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null) return undefined;
  const { first, last, fence, end, events } = value;
  if (!isSeq(first) || !isSeq(last) || !isSeq(fence) || typeof end !== 'boolean' || last < first) return undefined;
  if (events === undefined) return { firstSeq: first, lastSeq: last, fence, end, events: undefined };
  if (!Array.isArray(events) || events.length !== last - first + 1) return undefined;
  return { firstSeq: first, lastSeq: last, fence, end, events: events.map((event) => JSON.stringify(event)) };
}

function isSeq(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** Publishes runs after their commit. Never throws and never waits: a failed publish is a missed hint. */
export class Publisher {
  readonly #redis: Redis;
  readonly #prefix: string;
  readonly #log: Logger;
  #unconfirmed = 0;
  #skipped = 0;

  constructor(options: { redis: Redis; prefix: string; log: Logger }) {
    this.#redis = options.redis;
    this.#prefix = options.prefix;
    this.#log = options.log;
  }

  publish(runs: readonly { run: Run; end: boolean }[]): void {
    if (runs.length === 0) return;
    if (this.#redis.status !== 'ready' || this.#unconfirmed > MAX_UNCONFIRMED) {
      if (this.#skipped++ % 1_000 === 0)
        this.#log.warn({ skipped: this.#skipped }, 'live messages skipped: Redis is not ready');
      return;
    }
    this.#unconfirmed += runs.length;
    this.#send(runs)
      .catch((err: unknown) => this.#log.warn({ err }, 'publish failed'))
      .finally(() => {
        this.#unconfirmed -= runs.length;
      });
  }

  async #send(runs: readonly { run: Run; end: boolean }[]): Promise<void> {
    const pairs = runs.map(
      ({ run, end }) => [streamChannel(this.#prefix, run.streamId), encodeRunMessage(run, end)] as const,
    );
    const [only] = pairs;
    if (pairs.length === 1 && only !== undefined) {
      await this.#redis.publish(...only);
      return;
    }
    for (let i = 0; i < pairs.length; i += MAX_PAIRS) {
      await this.#redis.eval(PUBLISH_ALL, 0, ...pairs.slice(i, i + MAX_PAIRS).flat());
    }
  }
}

/**
 * Publishes pairs of channel and message in one command. As a script, because N commands
 * cost their sender and Redis's parser N times the overhead of a short message.
 */
const PUBLISH_ALL = `
for i = 1, #ARGV, 2 do redis.call('PUBLISH', ARGV[i], ARGV[i + 1]) end
return #ARGV / 2`;

/** The pairs one script call may carry; Lua's stack and Redis's latency both want a bound. */
const MAX_PAIRS = 500;

interface Channel {
  listeners: Set<ChannelListener>;
  /** Redis has confirmed the subscription on the present connection. */
  confirmed: boolean;
}

/** One subscriber connection for all followers of a process; channels are reference-counted. */
export class ChannelHub {
  readonly #redis: Redis;
  readonly #prefix: string;
  readonly #log: Logger;
  readonly #channels = new Map<string, Channel>();

  /** @param options.redis a connection of its own, with `autoResubscribe: false`: the hub subscribes again itself */
  constructor(options: { redis: Redis; prefix: string; log: Logger }) {
    this.#redis = options.redis;
    this.#prefix = options.prefix;
    this.#log = options.log;
    this.#redis.on('message', (channel: string, text: string) => this.#deliver(channel, text));
    this.#redis.on('ready', () => this.#resubscribe());
    this.#redis.on('close', () => {
      // Followers look at their heads now, and poll until messages come again.
      for (const channel of this.#channels.values()) {
        channel.confirmed = false;
        for (const listener of [...channel.listeners]) listener.onGap();
      }
    });
  }

  /** Channels with at least one listener. */
  get size(): number {
    return this.#channels.size;
  }

  get connected(): boolean {
    return this.#redis.status === 'ready';
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
      channel = { listeners: new Set(), confirmed: false };
      this.#channels.set(name, channel);
      this.#subscribe([name]);
    } else if (channel.confirmed) {
      queueMicrotask(() => listener.onGap());
    }
    channel.listeners.add(listener);
    const { listeners } = channel;
    return () => {
      if (!listeners.delete(listener) || listeners.size > 0) return;
      this.#channels.delete(name);
      this.#unsubscribe([name]);
    };
  }

  #unsubscribe(names: readonly string[]): void {
    if (names.length === 0 || this.#redis.status !== 'ready') return;
    this.#redis.unsubscribe(...names).catch((err: unknown) => this.#log.debug({ err }, 'unsubscribe failed'));
  }

  #subscribe(names: string[]): void {
    // Not ready: the `ready` handler subscribes to everything that is wanted by then.
    if (names.length === 0 || this.#redis.status !== 'ready') return;
    this.#redis.subscribe(...names).then(
      () => {
        // Let go while the connection was away: ioredis has sent what was under way again.
        this.#unsubscribe(names.filter((name) => !this.#channels.has(name)));
        for (const name of names) {
          const channel = this.#channels.get(name);
          if (channel === undefined) continue;
          channel.confirmed = true;
          for (const listener of [...channel.listeners]) listener.onGap();
        }
      },
      (err: unknown) => this.#log.warn({ err }, 'subscribe failed'),
    );
  }

  #resubscribe(): void {
    this.#subscribe([...this.#channels.keys()]);
  }

  #deliver(name: string, text: string): void {
    const channel = this.#channels.get(name);
    if (channel === undefined) return;
    const message = decodeRunMessage(text);
    if (message === undefined) {
      this.#log.warn({ channel: name }, 'message ignored: not a run');
      return;
    }
    for (const listener of [...channel.listeners]) listener.onRun(message);
  }
}
