/**
 * The live bus: runs of events on Redis pub/sub, one channel a stream. A message is a hint
 * that saves a read; Postgres holds the truth, so losing, repeating or reordering messages
 * costs a follower time and nothing else.
 */
import type { EventEmitter } from 'node:events';
import { lastSeq, type Run } from '../db/streams/segments.ts';
import type { Logger } from '../log.ts';
import {
  isSharded,
  onMessage,
  onSubscribable,
  publish,
  type RedisConnection,
  subscribe,
  unsubscribe,
} from '../redis/pubsub.ts';

/** Larger runs are announced without their events, which followers then read from Postgres. */
const MAX_MESSAGE_LENGTH = 256 * 1024;

/** Messages handed to Redis and not yet confirmed; past it, live messages are skipped (followers read). */
const MAX_UNCONFIRMED = 10_000;

/** A subscription that Redis refused (a slot on the move, a node going away) is asked for again, ms. */
const RESUBSCRIBE_MS = 500;

/** What a message takes in memory besides its text, in characters, about. */
const MESSAGE_OVERHEAD = 100;

export interface RunMessage {
  firstSeq: number;
  lastSeq: number;
  fence: number;
  /** The last event is the stream's terminal event. */
  end: boolean;
  /** False: sent before its commit, which may never come. */
  committed: boolean;
  /** JSON texts, not looked at yet; absent when the message only points at the journal. */
  events: readonly string[] | undefined;
  /** Characters it takes in memory, about. */
  length: number;
}

/**
 * A run to tell followers of.
 *
 * `events`: as it was committed. `ahead`: before its commit. `pointer`: committed, and its
 * events were told ahead (or are in the row, of a silent job).
 */
export interface Announcement {
  run: Run;
  end: boolean;
  form?: 'events' | 'ahead' | 'pointer';
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
 * Where the ends of silent jobs are told, many in a message: a message each would cost Redis
 * and the worker as much as the rest of such a job's journal.
 */
function endingsChannel(prefix: string): string {
  return `${prefix}:endings`;
}

/**
 * A run as a message: a line of JSON about it, then a line an event. Events are JSON texts,
 * which hold no line breaks, so neither end has to parse them to take them apart.
 */
export function encodeRunMessage(run: Run, end: boolean, form: Announcement['form'] = 'events'): string {
  const { events, firstSeq, fence } = run;
  const last = Math.max(firstSeq, lastSeq(run));
  const head = `{"first":${firstSeq},"last":${last},"fence":${fence},"end":${end}${form === 'ahead' ? ',"ahead":true' : ''}}`;
  if (form === 'pointer' || events.length === 0) return head;
  let length = 0;
  for (const event of events) {
    length += event.length + 1;
    if (event.includes('\n')) return head;
  }
  return length > MAX_MESSAGE_LENGTH ? head : `${head}\n${events.join('\n')}`;
}

/** `undefined` for anything that is not a run message: a channel is open to whoever can reach Redis. */
export function decodeRunMessage(text: string): RunMessage | undefined {
  const lineEnd = text.indexOf('\n');
  let value: { first?: unknown; last?: unknown; fence?: unknown; end?: unknown; ahead?: unknown } | null;
  try {
    value = JSON.parse(lineEnd === -1 ? text : text.slice(0, lineEnd));
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null) return undefined;
  const { first, last, fence, end } = value;
  if (!isSeq(first) || !isSeq(last) || !isSeq(fence) || typeof end !== 'boolean' || last < first) return undefined;
  const events = lineEnd === -1 ? undefined : text.slice(lineEnd + 1).split('\n');
  if (events !== undefined && events.length !== last - first + 1) return undefined;
  const committed = value.ahead !== true;
  return { firstSeq: first, lastSeq: last, fence, end, committed, events, length: MESSAGE_OVERHEAD + text.length };
}

/** What a listener is told of a silent job's end: its terminal event is in its row. */
const SILENT_END: RunMessage = Object.freeze({
  firstSeq: 0,
  lastSeq: 0,
  fence: 0,
  end: true,
  committed: true,
  events: undefined,
  length: MESSAGE_OVERHEAD,
});

/** Ends told in one message. */
const MAX_ENDINGS = 1_000;

function isSeq(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/**
 * Announces events to followers. Never throws and never waits: a failed publish is a missed hint.
 *
 * The journal writer announces what it committed (of an `immediate` stream before that). A terminal event
 * does not go through the writer: the module that commits it with the outcome announces it (`Runtime`,
 * `finishJob`, the reconciler, the operator's commands).
 */
export class Publisher {
  readonly #redis: RedisConnection;
  readonly #prefix: string;
  readonly #log: Logger;
  #unconfirmed = 0;
  #skipped = 0;

  constructor(options: { redis: RedisConnection; prefix: string; log: Logger }) {
    this.#redis = options.redis;
    this.#prefix = options.prefix;
    this.#log = options.log;
  }

  publish(announcements: readonly Announcement[]): void {
    if (announcements.length > 0) this.#handOver(announcements.length, () => this.#send(announcements));
  }

  /** Tells that jobs have ended which never said anything. */
  publishEndings(streamIds: readonly string[]): void {
    if (isSharded(this.#redis)) {
      // A follower has its stream's node for certain, and no other.
      this.publish(streamIds.map((streamId) => ({ run: { streamId, fence: 0, firstSeq: 0, events: [] }, end: true })));
      return;
    }
    const redis = this.#redis;
    for (let i = 0; i < streamIds.length; i += MAX_ENDINGS) {
      const message = streamIds.slice(i, i + MAX_ENDINGS).join(',');
      this.#handOver(1, () => redis.publish(endingsChannel(this.#prefix), message));
    }
  }

  #handOver(count: number, send: () => Promise<unknown>): void {
    if (this.#redis.status !== 'ready' || this.#unconfirmed > MAX_UNCONFIRMED) {
      if (this.#skipped++ % 1_000 === 0)
        this.#log.warn({ skipped: this.#skipped }, 'live messages skipped: Redis is not ready');
      return;
    }
    this.#unconfirmed += count;
    send()
      .catch((err: unknown) => this.#log.warn({ err }, 'publish failed'))
      .finally(() => {
        this.#unconfirmed -= count;
      });
  }

  async #send(announcements: readonly Announcement[]): Promise<void> {
    const pairs = announcements.map(
      ({ run, end, form }) => [streamChannel(this.#prefix, run.streamId), encodeRunMessage(run, end, form)] as const,
    );
    // On a Cluster a script may publish to its own node's channels only.
    if (pairs.length === 1 || isSharded(this.#redis)) {
      await Promise.all(pairs.map(([channel, message]) => publish(this.#redis, channel, message)));
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

/**
 * One subscriber connection for all followers of a process (on a Cluster one a node, with
 * sharded pub/sub); channels are reference-counted.
 */
export class ChannelHub {
  readonly #redis: RedisConnection;
  readonly #prefix: string;
  readonly #log: Logger;
  readonly #channels = new Map<string, Channel>();
  /** A Cluster is ready before its subscribers are. */
  #ready: boolean;

  /** @param options.redis a connection of its own, with `autoResubscribe: false`: the hub subscribes again itself */
  constructor(options: { redis: RedisConnection; prefix: string; log: Logger }) {
    this.#redis = options.redis;
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
      this.#ask(batch).then(
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
    // Let go while the connection was away: ioredis has sent what was under way again.
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
    if (name === endingsChannel(this.#prefix)) {
      for (const streamId of text.split(',')) {
        const ended = this.#channels.get(streamChannel(this.#prefix, streamId));
        if (ended !== undefined) for (const listener of [...ended.listeners]) listener.onRun(SILENT_END);
      }
      return;
    }
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
