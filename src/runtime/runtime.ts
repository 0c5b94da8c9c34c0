/** What the jobs of one process share: connections, journal, leases, coalesced statements. */
import { hostname } from 'node:os';
import { z } from 'zod';
import { createDb, type Db } from '../db/client.ts';
import { findInput, setSource } from '../db/jobs/source.ts';
import { requireSessionSoon } from '../db/session.ts';
import { findWeights } from '../db/tenant-limits.ts';
import { Acceptor } from '../enqueue/accept.ts';
import { Dispatcher } from '../enqueue/dispatcher.ts';
import { Outbox } from '../enqueue/outbox.ts';
import { type Issue, OncefleetError } from '../errors.ts';
import { ChannelHub } from '../journal/channel.ts';
import { Followers } from '../journal/follower.ts';
import { Publisher } from '../journal/publisher.ts';
import { LiveKey } from '../journal/seal.ts';
import { JournalWriter } from '../journal/writer.ts';
import { LeaseKeeper } from '../leases/keeper.ts';
import { ERROR_SERIALIZERS, type Logger, silentLogger } from '../log.ts';
import {
  DEFAULT_SCHEMA,
  databaseSchema,
  databaseUrl,
  heartbeatMessage,
  parseOptions,
  RANGES,
  redisUrl,
  SHORT_NAME,
  SHORT_NAME_MESSAGE,
  tenantName,
  wholeNumber,
} from '../options.ts';
import { closeRedis, connectRedis, queuePrefix, trackDuplicates } from '../redis/connections.ts';
import type { RedisConnection } from '../redis/pubsub.ts';
import { RedisWatch } from '../redis/watch.ts';
import { Probes } from '../util/probes.ts';
import { uuidV7 } from '../util/uuid.ts';
import { Cancels } from './cancels.ts';
import { Control } from './control.ts';
import { Health, type HealthReport } from './health.ts';
import { Limits } from './limits.ts';
import { Observers } from './observers.ts';
import { OtherQueues } from './other-queues.ts';
import { Pauses } from './pauses.ts';
import { PoisonAlerts } from './poison-alerts.ts';
import { requireRedis } from './require-redis.ts';
import { Transitions } from './transitions.ts';

export interface RuntimeOptions {
  databaseUrl: string;
  /** Schema of the tables. Default `oncefleet`. */
  databaseSchema?: string;
  redisUrl: string;
  /** `redisUrl` is a node of a Redis Cluster (Redis 7 or newer). Default false. */
  redisCluster?: boolean;
  /** Prefix of every Redis key and channel. Default `oncefleet`. */
  prefix?: string;
  /** Tenant where none is named. Default `default`. */
  tenant?: string;
  log?: Logger;
  /** Postgres connections. Default 10. */
  databasePoolSize?: number;
  /** How long a worker without a heartbeat keeps a job, in milliseconds. Default 60,000. */
  leaseTtlMs?: number;
  /** How often leases are renewed, in milliseconds. Default a third of the TTL. */
  heartbeatMs?: number;
  /** An event loop blocked longer loses its leases, in milliseconds. Default 600,000. */
  maxBlockMs?: number;
  /** More crashes than this poison a job. Default 5. */
  maxCrashes?: number;
  /** How long an outcome is kept for its key, in milliseconds. Default 24 h. */
  resultTtlMs?: number;
  /** How long the journal waits for company, in milliseconds. Default 5. */
  lingerMs?: number;
  /** Jobs of several tenants that wait in one queue are started in turns, by weight. Default true. */
  fairTenants?: boolean;
}

interface RuntimeSettings {
  readonly databaseUrl: string;
  readonly databaseSchema: string;
  readonly redisCluster: boolean;
  readonly prefix: string;
  readonly tenant: string;
  readonly leaseTtlMs: number;
  readonly heartbeatMs: number;
  readonly maxBlockMs: number;
  readonly maxCrashes: number;
  readonly resultTtlMs: number;
}

/** Every option of a runtime with its range and default. */
export const runtimeShape = {
  databaseUrl,
  databaseSchema: databaseSchema.default(DEFAULT_SCHEMA),
  redisUrl,
  redisCluster: z.boolean().default(false),
  prefix: z.string().regex(SHORT_NAME, SHORT_NAME_MESSAGE).default('oncefleet'),
  tenant: tenantName.default('default'),
  log: z
    .custom<Logger>(
      (value) => ['child', 'info', 'warn'].every((name) => typeof (value as never)?.[name] === 'function'),
      'expected a pino logger',
    )
    .optional(),
  databasePoolSize: wholeNumber(RANGES.databasePoolSize).default(RANGES.databasePoolSize.default),
  leaseTtlMs: wholeNumber(RANGES.leaseTtlMs).default(RANGES.leaseTtlMs.default),
  heartbeatMs: wholeNumber(RANGES.heartbeatMs).optional(),
  maxBlockMs: wholeNumber(RANGES.maxBlockMs).default(RANGES.maxBlockMs.default),
  maxCrashes: wholeNumber(RANGES.maxCrashes).default(RANGES.maxCrashes.default),
  resultTtlMs: wholeNumber(RANGES.resultTtlMs).default(RANGES.resultTtlMs.default),
  lingerMs: wholeNumber(RANGES.lingerMs).default(RANGES.lingerMs.default),
  fairTenants: z.boolean().default(true),
} satisfies Record<keyof RuntimeOptions, z.ZodType>;

const runtimeSchema = z.object(runtimeShape);

/** What is wrong between options of a runtime, each of which is right by itself. */
export function runtimeIssues(options: { readonly leaseTtlMs?: unknown; readonly heartbeatMs?: unknown }): Issue[] {
  const { heartbeatMs, leaseTtlMs = RANGES.leaseTtlMs.default } = options;
  if (typeof heartbeatMs !== 'number' || typeof leaseTtlMs !== 'number') return [];
  const message = heartbeatMessage(heartbeatMs, leaseTtlMs, 'leaseTtlMs');
  return message === undefined ? [] : [{ path: 'heartbeatMs', message }];
}

const loggers = new WeakMap<object, number>();
let loggerCount = 0;

/**
 * Equal for options that make equal runtimes. A logger is equal to itself alone: a child has bindings of its own.
 *
 * @throws InputInvalidError
 */
export function runtimeKey(given: RuntimeOptions): string {
  const { log, ...options } = parseOptions('Runtime', runtimeSchema, given, runtimeIssues);
  if (log !== undefined && !loggers.has(log)) loggers.set(log, ++loggerCount);
  const entries = Object.entries({ ...options, log: log === undefined ? 0 : loggers.get(log) });
  return JSON.stringify(entries.toSorted(([a], [b]) => (a < b ? -1 : 1)));
}

export class Runtime {
  /** Names this process in leases and the ledger. */
  readonly workerId: string;
  readonly settings: RuntimeSettings;
  readonly log: Logger;
  readonly db: Db;
  readonly observers: Observers;
  /** Told of what parts of this process do, by whoever measures it. */
  readonly probes = new Probes();
  readonly transitions: Transitions;
  readonly limits: Limits;
  readonly dispatcher: Dispatcher;
  readonly outbox: Outbox;
  readonly otherQueues: OtherQueues;
  readonly pauses: Pauses;
  readonly poisonAlerts: PoisonAlerts;
  readonly publisher: Publisher;
  readonly hub: ChannelHub;
  readonly control: Control;
  readonly cancels: Cancels;
  readonly followers: Followers;
  readonly writer: JournalWriter;
  readonly leases: LeaseKeeper;
  readonly #redisUrl: string;
  readonly #redis: RedisConnection;
  readonly #duplicates: ReadonlySet<RedisConnection>;
  readonly #publishRedis: RedisConnection;
  readonly #subscriber: RedisConnection;
  #health: Health | undefined;
  #closed: Promise<void> | undefined;
  #owners = 0;

  /** @throws InputInvalidError; OncefleetError SERVICE_MISSING. Nothing is opened then */
  constructor(given: RuntimeOptions) {
    requireNode();
    const options = parseOptions('Runtime', runtimeSchema, given, runtimeIssues);
    this.settings = toSettings(options);
    this.workerId = `${hostname()}:${process.pid}:${uuidV7().slice(-8)}`;
    this.log = (options.log ?? silentLogger()).child({ worker: this.workerId }, { serializers: ERROR_SERIALIZERS });
    this.db = openDb(options, this.workerId, this.log);
    const { prefix, redisCluster: cluster } = this.settings;
    const { log, probes } = this;
    const db = this.db.kysely;
    const watch = new RedisWatch({ prefix, log, cluster });
    const connect = (name: string, overrides: { enableOfflineQueue?: boolean; autoResubscribe?: boolean } = {}) =>
      connectRedis(options.redisUrl, { cluster, name, log, watch, ...overrides });
    this.#redisUrl = options.redisUrl;
    this.#redis = connect('queue');
    this.#duplicates = trackDuplicates(this.#redis, watch);
    this.#publishRedis = connect('publish', { enableOfflineQueue: false });
    this.#subscriber = connect('subscribe', { autoResubscribe: false });
    const key = new LiveKey(db);
    this.publisher = new Publisher({ redis: this.#publishRedis, key, prefix, log, probes });
    this.hub = new ChannelHub({ redis: this.#subscriber, key, prefix, log });
    this.control = new Control({ publish: this.#publishRedis, subscribe: this.#subscriber, prefix, log });
    this.followers = new Followers({ db, hub: this.hub, log, probes });
    this.writer = new JournalWriter({ db, publisher: this.publisher, log, probes, lingerMs: options.lingerMs });
    this.leases = new LeaseKeeper({ ...this.settings, log, probes });
    this.cancels = new Cancels({ db, leases: this.leases, log });
    this.observers = new Observers({ log, process: this.workerId });
    this.poisonAlerts = new PoisonAlerts({ db, log });
    this.limits = new Limits({ db, deliver: (row) => this.dispatcher.deliverNow(row), log });
    const transitions = new Transitions({
      limits: this.limits,
      db,
      acceptor: new Acceptor(db),
      publisher: this.publisher,
      poisonAlerts: this.poisonAlerts,
      observers: this.observers,
      probes,
      settings: this.settings,
      workerId: this.workerId,
    });
    this.transitions = transitions;
    this.dispatcher = new Dispatcher({
      redis: this.#redis,
      prefix,
      prefixOf: (queue) => this.queuePrefix(queue),
      rows: { findInput: (id) => findInput(db, id), setSource: (id, to) => setSource(db, id, to, 'pending') },
      dispatched: (row, by) => transitions.dispatched(row, by),
      findWeights: options.fairTenants ? () => findWeights(db) : undefined,
      log,
    });
    this.outbox = new Outbox({
      db,
      dispatcher: this.dispatcher,
      committed: (rows) => transitions.committed(rows),
      log,
    });
    this.otherQueues = new OtherQueues({ db, redis: this.#redis, log, prefixOf: (queue) => this.queuePrefix(queue) });
    this.pauses = new Pauses({
      db,
      redis: this.#redis,
      log,
      queueAt: (queuePrefix, queue) =>
        queuePrefix === this.queuePrefix(queue)
          ? this.dispatcher.queue(queue)
          : this.otherQueues.at(queuePrefix, queue),
    });
  }

  /**
   * Throws where Redis is there and cannot be used, such as by a user without the rights that BullMQ needs.
   *
   * @throws OncefleetError REDIS_UNUSABLE
   */
  async requireRedis(queues: readonly string[]): Promise<void> {
    const { redisCluster: cluster, prefix } = this.settings;
    const queuePrefixes = queues.map((queue) => this.queuePrefix(queue));
    for (const warning of await requireRedis({ url: this.#redisUrl, cluster, prefix, queuePrefixes }))
      this.log.warn(warning);
  }

  /**
   * Throws where Postgres is there and cannot be used, such as by a role whose sessions are read-only.
   *
   * @throws OncefleetError POSTGRES_UNUSABLE
   */
  async requirePostgres(): Promise<void> {
    await requireSessionSoon(this.db.kysely);
  }

  /** The queue connection, for BullMQ workers to share and to duplicate. */
  get redis(): RedisConnection {
    return this.#redis;
  }

  /** What BullMQ puts before the keys of a queue. */
  queuePrefix(queue: string): string {
    return queuePrefix(this.settings.prefix, queue, this.settings.redisCluster);
  }

  /**
   * Names the owner of one claim. Counted here and not by each guard: two deliveries of one job to two
   * guards of this process must not take each other for themselves.
   */
  newOwner(): string {
    return `${this.workerId}/${this.#owners++}`;
  }

  /** Ends the connections that BullMQ made for itself, however busy they are. */
  dropDuplicates(): void {
    for (const redis of this.#duplicates) redis.disconnect();
  }

  /** What is wrong with Postgres and Redis, `undefined` for what answers and takes writes. */
  health(): Promise<HealthReport> {
    this.#health ??= new Health({ db: this.db, redis: this.#publishRedis, prefix: this.settings.prefix });
    return this.#health.check();
  }

  /** Flushes the journal, then lets go of everything. Idempotent. */
  close(): Promise<void> {
    this.#closed ??= (async () => {
      this.limits.close();
      await this.writer.close();
      await this.outbox.close();
      await this.poisonAlerts.close();
      await this.leases.close();
      await this.dispatcher.close();
      await this.otherQueues.close();
      await this.observers.close();
      await Promise.all([this.#redis, this.#publishRedis, this.#subscriber].map(closeRedis));
      await this.db.close();
    })();
    return this.#closed;
  }
}

function openDb(options: z.infer<typeof runtimeSchema>, workerId: string, log: Logger): Db {
  return createDb({
    url: options.databaseUrl,
    schema: options.databaseSchema,
    maxConnections: options.databasePoolSize,
    applicationName: `oncefleet ${workerId}`.slice(0, 63),
    onError: (err) => log.warn({ err }, 'Postgres connection lost'),
    onNotice: (message) => log.info(message),
    unansweredMs: unansweredMsOf(options.leaseTtlMs),
  });
}

function toSettings(options: z.infer<typeof runtimeSchema>): RuntimeSettings {
  return Object.freeze({
    databaseUrl: options.databaseUrl,
    databaseSchema: options.databaseSchema,
    redisCluster: options.redisCluster,
    prefix: options.prefix,
    tenant: options.tenant,
    leaseTtlMs: options.leaseTtlMs,
    heartbeatMs: options.heartbeatMs ?? Math.floor(options.leaseTtlMs / 3),
    maxBlockMs: options.maxBlockMs,
    maxCrashes: options.maxCrashes,
    resultTtlMs: options.resultTtlMs,
  });
}

/** Well within a lease, so that a claim or an outcome that was lost on the way is tried again in time. */
function unansweredMsOf(leaseTtlMs: number): number {
  return Math.max(2_000, Math.min(10_000, Math.floor(leaseTtlMs / 3)));
}

/** Says at once what would otherwise fail every job: `engines` only warns. @throws OncefleetError SERVICE_MISSING */
function requireNode(): void {
  if (typeof Promise.withResolvers === 'function') return;
  throw new OncefleetError('SERVICE_MISSING', `Node 22.12 or newer is needed; this is ${process.version}`);
}
