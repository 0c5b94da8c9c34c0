/** Databases and key prefixes of cases: each starts empty, cloned from a template made once a subject. */
import { Redis } from 'ioredis';
import type { Services } from '../../scripts/services.ts';
import { createDatabase, dropDatabase, execute, uniqueName } from '../../src/testing/services/databases.ts';
import { removeKeys } from '../../src/testing/services/keys.ts';

export interface Place {
  databaseUrl: string;
  redisUrl: string;
  /** Of every Redis key. */
  prefix: string;
}

/** Hands out places and removes them. */
export class Places {
  readonly #services: Services;
  readonly #templates = new Map<string, Promise<string>>();
  readonly #made = new Set<string>();

  constructor(services: Services) {
    this.#services = services;
  }

  /**
   * A database like the template of this name, and a prefix that nothing has.
   *
   * @param prepare makes the template's tables, the first time
   */
  async create(
    template: string,
    prepare: (databaseUrl: string) => Promise<void>,
  ): Promise<Place & { remove(): Promise<void> }> {
    let made = this.#templates.get(template);
    if (made === undefined) {
      made = this.#createTemplate(prepare);
      this.#templates.set(template, made);
    }
    const name = this.#name();
    const databaseUrl = await createDatabase(this.#services.databaseUrl, name, await made);
    const { redisUrl } = this.#services;
    return {
      databaseUrl,
      redisUrl,
      prefix: name,
      remove: async () => {
        await dropDatabase(this.#services.databaseUrl, name);
        this.#made.delete(name);
        await removeKeys(redisUrl, name);
      },
    };
  }

  /** Removes all that is left, from servers that stay. */
  async close(): Promise<void> {
    if (this.#services.postgres === undefined)
      for (const name of this.#made) await dropDatabase(this.#services.databaseUrl, name);
    if (this.#services.redis === undefined)
      for (const name of this.#made) await removeKeys(this.#services.redisUrl, name);
  }

  async #createTemplate(prepare: (databaseUrl: string) => Promise<void>): Promise<string> {
    const name = this.#name();
    await prepare(await createDatabase(this.#services.databaseUrl, name));
    return name;
  }

  #name(): string {
    const name = uniqueName('oncefleet_bench');
    this.#made.add(name);
    return name;
  }
}

/** Leaves the server with nothing to write and the planner with fresh statistics, so that cases start alike. */
export async function settle(databaseUrl: string): Promise<void> {
  await execute(databaseUrl, 'vacuum analyze');
  await execute(databaseUrl, 'checkpoint');
}

/** Tables with their indexes and TOAST, once vacuumed. */
export async function bytesOnDisk(databaseUrl: string, tables: readonly string[]): Promise<number> {
  await settle(databaseUrl);
  const sum = tables.map((table) => `pg_total_relation_size('${table}')`).join(' + ');
  const result = await execute(databaseUrl, `select (${sum})::float8 as bytes`);
  return Number(result.rows[0]?.bytes);
}

/** Bytes of write-ahead log written so far. */
export async function walBytes(databaseUrl: string): Promise<number> {
  const result = await execute(
    databaseUrl,
    `select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8 as bytes`,
  );
  return Number(result.rows[0]?.bytes);
}

export function connectRedis(url: string): Redis {
  const redis = new Redis(url, { maxRetriesPerRequest: null });
  redis.on('error', () => {});
  return redis;
}
