/** What a figure depends on besides the code: machine, servers, their settings. */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism, cpus, loadavg, type as osType, release, totalmem } from 'node:os';
import { Redis } from 'ioredis';
import { execute } from '../../src/testing/services/databases.ts';

export interface Machine {
  measuredAt: string;
  cpu: string;
  cores: number;
  memoryGib: number;
  os: string;
  node: string;
  postgres: string;
  /** Those that decide what a commit costs. */
  postgresSettings: Record<string, string>;
  redis: string;
  redisSettings: Record<string, string>;
  packages: Record<string, string>;
  /** Of the last minute, before and after the run: how busy the machine was with other things, then with this. */
  loadAverageBefore: number;
  loadAverageAfter: number;
}

const POSTGRES_SETTINGS = ['fsync', 'synchronous_commit', 'full_page_writes', 'wal_level', 'shared_buffers'];

/** @param packages names of those whose versions matter */
export async function describeMachine(
  services: { databaseUrl: string; redisUrl: string },
  packages: readonly string[],
): Promise<Omit<Machine, 'loadAverageAfter'>> {
  const settings = await execute(
    services.databaseUrl,
    `select name, current_setting(name) as value from unnest(array['${POSTGRES_SETTINGS.join("','")}']) as name`,
  );
  const version = await execute(services.databaseUrl, `select current_setting('server_version') as version`);
  const redis = new Redis(services.redisUrl, { maxRetriesPerRequest: 1 });
  redis.on('error', () => {});
  try {
    const info = await redis.info('server');
    const appendonly = (await redis.config('GET', 'appendonly')) as string[];
    return {
      measuredAt: new Date().toISOString(),
      cpu: cpus()[0]?.model.trim() ?? 'unknown',
      cores: availableParallelism(),
      memoryGib: Math.round((totalmem() / 2 ** 30) * 10) / 10,
      os: `${osType()} ${release().split('-')[0]}`,
      node: process.versions.node,
      postgres: String(version.rows[0]?.version),
      postgresSettings: Object.fromEntries(settings.rows.map((row) => [row.name, row.value])),
      redis: /(?:valkey|redis)_version:(\S+)/.exec(info)?.[1] ?? 'unknown',
      redisSettings: { appendonly: appendonly[1] ?? 'unknown' },
      packages: Object.fromEntries(packages.map((name) => [name, versionOf(name)])),
      loadAverageBefore: load(),
    };
  } finally {
    redis.disconnect();
  }
}

/** Load average of the last minute. */
export function load(): number {
  return Math.round((loadavg()[0] as number) * 100) / 100;
}

/** One line for people. */
export function machineLine(machine: Machine): string {
  const settings = Object.entries(machine.postgresSettings).map(([name, value]) => `${name} ${value}`);
  return (
    `${machine.cores} cores (${machine.cpu}), ${machine.memoryGib} GiB, ${machine.os}; Node ${machine.node}; ` +
    `Postgres ${machine.postgres} (${settings.join(', ')}); Redis ${machine.redis} (appendonly ${machine.redisSettings.appendonly}); ` +
    `${Object.entries(machine.packages)
      .map(([name, version]) => `${name} ${version}`)
      .join(', ')}; load average ${machine.loadAverageBefore} before, ${machine.loadAverageAfter} after`
  );
}

function versionOf(name: string): string {
  const folders = createRequire(import.meta.url).resolve.paths(name) ?? [];
  for (const folder of folders) {
    try {
      return JSON.parse(readFileSync(`${folder}/${name}/package.json`, 'utf8')).version;
    } catch {
      // Not in this one.
    }
  }
  return 'unknown';
}
