import type { Logger } from '../log.ts';
import { isSharded, publish, type RedisConnection } from '../redis/pubsub.ts';
import { refusalOf } from '../redis/refusals.ts';
import type { Probes } from '../util/probes.ts';
import { endingsChannel, streamChannel } from './channel.ts';
import { type Announcement, encodeBatchMessage } from './message.ts';
import { type LiveKey, sealBatch, sealEndings } from './seal.ts';

/** Messages handed to Redis and not yet confirmed; past it, live messages are skipped (followers read). */
const MAX_UNCONFIRMED = 10_000;

/** Ends announced in one message. */
const MAX_ENDINGS = 1_000;

/**
 * Announces events to followers. Never throws and never waits: a failed publish is a missed hint.
 *
 * The journal writer announces what it committed (of an `immediate` stream before that). A terminal event
 * does not go through the writer: the module that commits it with the outcome announces it (`Runtime`,
 * `Transitions`, the reconciler, the operator's commands).
 */
export class Publisher {
  readonly #redis: RedisConnection;
  readonly #key: LiveKey;
  readonly #prefix: string;
  readonly #log: Logger;
  readonly #probes: Probes | undefined;
  #unconfirmed = 0;
  #skipped = 0;

  constructor(options: {
    redis: RedisConnection;
    key: LiveKey;
    prefix: string;
    log: Logger;
    probes?: Probes | undefined;
  }) {
    this.#redis = options.redis;
    this.#key = options.key;
    this.#prefix = options.prefix;
    this.#log = options.log;
    this.#probes = options.probes;
  }

  publish(announcements: readonly Announcement[]): void {
    if (announcements.length > 0) this.#handOver(announcements.length, () => this.#send(announcements));
  }

  /** Announces the ends of jobs that emitted nothing. */
  publishEndings(streamIds: readonly string[]): void {
    if (isSharded(this.#redis)) {
      // A follower has its stream's node for certain, and no other.
      this.publish(
        streamIds.map((streamId) => ({ batch: { streamId, fence: 0, firstSeq: 0, events: [] }, end: true })),
      );
      return;
    }
    const redis = this.#redis;
    const channel = endingsChannel(this.#prefix);
    for (let i = 0; i < streamIds.length; i += MAX_ENDINGS) {
      const ids = streamIds.slice(i, i + MAX_ENDINGS).join(',');
      this.#handOver(1, async () => redis.publish(channel, sealEndings(await this.#key.load(), channel, ids)));
    }
  }

  #handOver(count: number, send: () => Promise<unknown>): void {
    if (this.#redis.status !== 'ready' || this.#unconfirmed > MAX_UNCONFIRMED) {
      this.#probes?.listener?.unpublished('skipped', count);
      if (this.#skipped++ % 1_000 === 0)
        this.#log.warn({ skipped: this.#skipped }, 'live messages skipped: Redis is not ready');
      return;
    }
    this.#unconfirmed += count;
    const startedAt = performance.now();
    send()
      .then(
        () => this.#probes?.listener?.published(performance.now() - startedAt, count),
        (err: unknown) => {
          this.#probes?.listener?.unpublished('failed', count);
          this.#log[refusalOf(err) === undefined ? 'warn' : 'debug']({ err }, 'publish failed');
        },
      )
      .finally(() => {
        this.#unconfirmed -= count;
      });
  }

  async #send(announcements: readonly Announcement[]): Promise<void> {
    // Loaded with the first message of the process. All wait for the same promise, so none overtakes another.
    const key = await this.#key.load();
    const pairs = announcements.map(({ batch, end, form }) => {
      const channel = streamChannel(this.#prefix, batch.streamId);
      return [channel, sealBatch(key, channel, encodeBatchMessage(batch, end, form))] as const;
    });
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
