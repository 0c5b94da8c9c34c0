/**
 * Whether Postgres and Redis serve this process: they answer, and they take writes. A server that is read-only or
 * full answers every question.
 *
 * Each check asks both. A write is tried at most every two seconds, however often and by how many is asked. A
 * refusal of the disk is remembered as well: the small write of a check may find room where a document does not.
 */
import { sql } from 'kysely';
import type { Db } from '../db/client.ts';
import { probeWrite, type WriteRefusal, writeRefusalOf } from '../db/write-probe.ts';
import type { RedisConnection } from '../redis/pubsub.ts';
import { refusalOf } from '../redis/refusals.ts';
import { within } from '../util/with-timeout.ts';

/** How long a check waits for each service. */
const WAIT_MS = 2_000;

/** A write is tried at most this often. */
const WRITE_EVERY_MS = 2_000;

/** How long after a statement found the disk full the process says so. */
const DISK_FULL_MS = 10_000;

/** The key of a probe in Redis is gone after this. */
const KEY_TTL_MS = 10_000;

/** Why a service that answers does not serve. */
type HealthReason = WriteRefusal | 'cannot-save' | 'refuses-writes';

export interface HealthReport {
  /** What is wrong with Postgres; undefined: nothing. */
  postgres: string | undefined;
  redis: string | undefined;
  /** Of what answers and refuses: why. */
  reasons?: { postgres?: HealthReason; redis?: HealthReason };
}

/** Redis's words (`refusals.ts`) that have one of ours. */
const REDIS_REASONS: ReadonlyMap<string, HealthReason> = new Map([
  ['READONLY', 'read-only'],
  ['MISCONF', 'cannot-save'],
  ['OOM', 'out-of-memory'],
]);

interface HealthOptions {
  db: Db;
  redis: RedisConnection;
  prefix: string;
}

/** What a service said last: why it cannot serve, or undefined. */
type Problem = { message: string; reason: HealthReason | undefined } | undefined;

export class Health {
  readonly #postgres: Service;
  readonly #redis: Service;

  constructor({ db, redis, prefix }: HealthOptions) {
    this.#postgres = new Service({
      ask: () => sql`select 1`.execute(db.kysely),
      write: () => probeWrite(db.kysely),
      reasonOf: writeRefusalOf,
      seen: () => {
        const { diskFullAt } = db;
        const isRecent = diskFullAt !== undefined && performance.now() - diskFullAt < DISK_FULL_MS;
        return isRecent ? { message: 'a statement was refused: the disk is full', reason: 'disk-full' } : undefined;
      },
    });
    this.#redis = new Service({
      ask: () => redis.ping(),
      write: () => redis.set(`${prefix}:probe`, '', 'PX', KEY_TTL_MS),
      reasonOf: (error) => {
        const refusal = refusalOf(error);
        return refusal === undefined ? undefined : (REDIS_REASONS.get(refusal.kind) ?? 'refuses-writes');
      },
      seen: () => undefined,
    });
  }

  async check(): Promise<HealthReport> {
    const [postgres, redis] = await Promise.all([this.#postgres.check(), this.#redis.check()]);
    const reasons = {
      ...(postgres?.reason === undefined ? {} : { postgres: postgres.reason }),
      ...(redis?.reason === undefined ? {} : { redis: redis.reason }),
    };
    return {
      postgres: postgres?.message,
      redis: redis?.message,
      ...(Object.keys(reasons).length > 0 ? { reasons } : {}),
    };
  }
}

interface ServiceOptions {
  ask(): Promise<unknown>;
  write(): Promise<unknown>;
  reasonOf(error: unknown): HealthReason | undefined;
  /** What others have found out. */
  seen(): Problem;
}

class Service {
  readonly #options: ServiceOptions;
  /** The last write, which checks share while it is young. */
  #written: Promise<Problem> | undefined;
  #writtenAt = 0;

  constructor(options: ServiceOptions) {
    this.#options = options;
  }

  async check(): Promise<Problem> {
    return (await this.#check()) ?? this.#options.seen();
  }

  async #check(): Promise<Problem> {
    if (this.#written === undefined || performance.now() - this.#writtenAt >= WRITE_EVERY_MS) return this.#write();
    // What was written a moment ago says nothing about a server that has gone since.
    const [written, asked] = await Promise.all([this.#written, this.#problemOf(this.#options.ask())]);
    if (asked !== undefined || written === undefined) return asked;
    // One that was unreachable and answers now may take writes; one that refused is not asked so soon.
    return written.reason === undefined ? this.#write() : written;
  }

  #write(): Promise<Problem> {
    this.#writtenAt = performance.now();
    this.#written = this.#problemOf(this.#options.write());
    return this.#written;
  }

  /** `undefined` when the service answers in time, else what is wrong. */
  #problemOf(answer: Promise<unknown>): Promise<Problem> {
    const problem = answer.then(
      () => undefined,
      (error: Error): Problem => ({
        message: error.message || 'not reachable',
        reason: this.#options.reasonOf(error),
      }),
    );
    return within(WAIT_MS, problem, () => ({ message: `no answer within ${WAIT_MS} ms`, reason: undefined }));
  }
}
