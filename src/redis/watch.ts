/**
 * What Redis refuses at present, seen by all connections of one runtime. It is in one of two states:
 *
 * - **Open.** Redis does what it is asked. A refusal (`refusals.ts`) that passes by itself leaves this state.
 * - **Refused** (`#kind` set). A line in the log said so, and one says so when the kind changes. Each second a
 *   key of our own is written; when Redis takes it, the state is open again, and the log says that too.
 *
 * A demoted primary keeps its connections open and answers READONLY; the primary of now may be behind the same
 * address. So all connections of the runtime are made anew, the subscriber's too, which hears nothing
 * wrong: at once, and then with growing pauses for as long as they lead to a replica.
 */
import { Redis, ReplyError } from 'ioredis';
import type { Logger } from '../log.ts';
import type { RedisConnection } from './pubsub.ts';
import { refusalOf } from './refusals.ts';

/** How often a refused runtime asks whether it still is. */
const PROBE_EVERY_MS = 1_000;

/** The pause after the first time that connections were made anew for nothing doubles up to this. */
const LONGEST_PAUSE_MS = 5_000;

/** ioredis: make the connection anew, and send the refused command again then. It had no effect. */
const RESEND = 2;

/** Commands whose refusal was logged; what is forgotten is logged again. */
const MAX_DENIED = 100;

export class RedisWatch {
  readonly #log: Logger;
  readonly #cluster: boolean;
  /** Written, and gone after some seconds: no key of anybody's. */
  readonly #probeKey: string;
  readonly #connections = new Set<RedisConnection>();
  /** Of those, the one that asks. */
  #asking: RedisConnection | undefined;
  #kind: string | undefined;
  #probe: NodeJS.Timeout | undefined;
  readonly #denied = new Set<string>();
  #reconnections = 0;
  #reconnectAt = Number.NEGATIVE_INFINITY;

  /** @param options.cluster the connections are to a Cluster, whose nodes send commands on by an error */
  constructor({ prefix, log, cluster }: { prefix: string; log: Logger; cluster: boolean }) {
    this.#log = log;
    this.#cluster = cluster;
    this.#probeKey = `${prefix}:probe`;
  }

  /** The kind of refusal, as Redis calls it. */
  get refusing(): string | undefined {
    return this.#kind;
  }

  /** Takes care of a connection until it ends. The first one asks whether a refusal has passed. */
  add(redis: RedisConnection): void {
    this.#asking ??= redis;
    this.#connections.add(redis);
    redis.on('connect', () => this.#connections.add(redis));
    redis.on('end', () => {
      this.#connections.delete(redis);
      if (redis === this.#asking) clearInterval(this.#probe);
    });
  }

  /** ioredis's `reconnectOnError`, which it asks about each error in an answer: a refusal is noted here. */
  readonly refused = (err: Error): false | typeof RESEND => {
    const refusal = refusalOf(err);
    if (refusal === undefined) return false;
    const { kind, passes, remedy } = refusal;
    if (kind === 'CLUSTER' && this.#cluster) return false;
    if (!passes) {
      this.#noteDenied(err, kind, remedy);
      return false;
    }
    if (this.#kind !== kind) this.#log.warn({ err, refusal: kind }, `Redis refuses commands: ${kind}. ${remedy}`);
    this.#kind = kind;
    this.#startProbe();
    return kind === 'READONLY' && this.#reconnect() ? RESEND : false;
  };

  /** A server said that it is a replica. */
  demoted(): void {
    this.refused(new ReplyError('READONLY The server is a replica'));
  }

  /** A command refused for good would be refused each time: one line each. */
  #noteDenied(err: Error, refusal: string, remedy: string): void {
    if (this.#denied.has(err.message)) return;
    if (this.#denied.size >= MAX_DENIED) this.#denied.clear();
    this.#denied.add(err.message);
    this.#log.error({ err, refusal }, `Redis refuses a command: ${remedy}`);
  }

  /** Makes the connections anew, unless that was done a moment ago. The one that was refused is ioredis's to end. */
  #reconnect(): boolean {
    const now = performance.now();
    if (now < this.#reconnectAt) return false;
    this.#reconnectAt = now + Math.min(PROBE_EVERY_MS * 2 ** this.#reconnections++, LONGEST_PAUSE_MS);
    // A Cluster follows its nodes' roles by itself.
    for (const redis of this.#connections)
      if (redis instanceof Redis && redis.status === 'ready') redis.disconnect(true);
    return true;
  }

  #startProbe(): void {
    if (this.#probe !== undefined || this.#asking === undefined) return;
    const redis = this.#asking;
    let asking = false;
    this.#probe = setInterval(() => {
      if (asking || (redis.status !== 'ready' && redis.status !== 'connect')) return;
      asking = true;
      redis
        .set(this.#probeKey, '', 'PX', PROBE_EVERY_MS * 10)
        .then(
          () => this.#open(),
          () => undefined,
        )
        .finally(() => {
          asking = false;
        });
    }, PROBE_EVERY_MS);
    this.#probe.unref();
  }

  #open(): void {
    clearInterval(this.#probe);
    this.#probe = undefined;
    this.#reconnections = 0;
    this.#log.info({ refusal: this.#kind }, 'Redis takes commands again');
    this.#kind = undefined;
  }
}
