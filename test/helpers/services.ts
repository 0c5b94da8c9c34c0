/** The servers of a test run, started once by test/global-setup.ts. */
import { mkdtemp } from 'node:fs/promises';
import { join } from 'node:path';
import { inject } from 'vitest';
import { startServices } from '../../scripts/services.ts';
import { createDatabase, dropDatabase, uniqueName } from '../../src/testing/services/databases.ts';
import type { PrivatePostgres } from '../../src/testing/services/postgres.ts';
import type { PrivateRedis } from '../../src/testing/services/redis.ts';

export type { PrivatePostgres, PrivateRedis };

export interface TestDatabase {
  url: string;
  /** Also while connections are open. */
  drop(): Promise<void>;
}

/** A fresh database with every migration applied; one a file. */
export async function createTestDatabase(): Promise<TestDatabase> {
  const { serverUrl, template, run } = inject('services');
  return createOn(serverUrl, uniqueName(run), template);
}

/** A database without a single table, for tests of migrations. */
export async function createEmptyDatabase(): Promise<TestDatabase> {
  const { serverUrl, run } = inject('services');
  return createOn(serverUrl, uniqueName(run));
}

async function createOn(serverUrl: string, name: string, template?: string): Promise<TestDatabase> {
  const url = await createDatabase(serverUrl, name, template);
  return { url, drop: () => dropDatabase(serverUrl, name) };
}

/** The run's Redis, which other files use at the same time: no FLUSHALL, and a `uniquePrefix()` for every key. */
export function testRedisUrl(): string {
  return inject('services').redisUrl;
}

/** Prefix of the Redis keys and channels of one fleet; what is under it is removed after the run. */
export function uniquePrefix(): string {
  return uniqueName(inject('services').run);
}

/** A Postgres of the caller's own, without any table, to stop and to `start()` again. Call `stop()` at the end. */
export async function startTestPostgres(): Promise<{ postgres: PrivatePostgres; stop(): Promise<void> }> {
  const services = await startServices({ kind: 'test', durable: false, redisUrl: testRedisUrl() });
  return { postgres: services.postgres as PrivatePostgres, stop: services.stop };
}

/** A Redis of the caller's own, to flush, to stop and to `start()` again. Call `stop()` at the end. */
export async function startTestRedis(): Promise<{ redis: PrivateRedis; stop(): Promise<void> }> {
  const services = await startServices({ kind: 'test', databaseUrl: inject('services').serverUrl });
  return { redis: services.redis as PrivateRedis, stop: services.stop };
}

/** An empty folder under the temp folder; it goes with the run. */
export function createTestFolder(): Promise<string> {
  return mkdtemp(join(inject('services').folder, 'folder-'));
}
