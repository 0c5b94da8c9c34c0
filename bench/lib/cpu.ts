/** What servers have used: CPU time, where the system tells, and write-ahead log. */
import { readdirSync, readFileSync } from 'node:fs';
import type { Redis } from 'ioredis';
import type { Services } from '../../scripts/services.ts';
import { connectRedis, type Place, walBytes } from './databases.ts';

/** Of Linux, on every architecture Node runs on. */
const TICKS_PER_SECOND = 100;

export interface ServerUsage {
  redisCpuMs: number;
  /** Absent for a Postgres that is not ours to look at. */
  postgresCpuMs: number | undefined;
  walBytes: number;
}

/** What the servers use from `start` on. */
export class ServerMeter {
  readonly #redis: Redis;
  readonly #pid: number | undefined;
  readonly #databaseUrl: string;
  #before: ServerUsage | undefined;

  private constructor(services: Services, place: Place) {
    this.#redis = connectRedis(place.redisUrl);
    this.#pid = services.postgres?.pid;
    this.#databaseUrl = place.databaseUrl;
  }

  static async start(services: Services, place: Place): Promise<ServerMeter> {
    const meter = new ServerMeter(services, place);
    meter.#before = await meter.#sample();
    return meter;
  }

  async read(): Promise<ServerUsage> {
    const before = this.#before as ServerUsage;
    const after = await this.#sample();
    return {
      redisCpuMs: after.redisCpuMs - before.redisCpuMs,
      postgresCpuMs:
        before.postgresCpuMs === undefined || after.postgresCpuMs === undefined
          ? undefined
          : after.postgresCpuMs - before.postgresCpuMs,
      walBytes: after.walBytes - before.walBytes,
    };
  }

  close(): void {
    this.#redis.disconnect();
  }

  async #sample(): Promise<ServerUsage> {
    return {
      redisCpuMs: await redisCpuMs(this.#redis),
      postgresCpuMs: postgresCpuMs(this.#pid),
      walBytes: await walBytes(this.#databaseUrl),
    };
  }
}

/**
 * A private Postgres and all its processes, the ended ones included, in milliseconds; undefined where
 * there is no /proc, or its pid is not known.
 */
function postgresCpuMs(pid: number | undefined): number | undefined {
  if (pid === undefined) return undefined;
  try {
    let ticks = 0;
    for (const entry of readdirSync('/proc')) {
      if (!/^\d+$/.test(entry)) continue;
      const stat = statOf(Number(entry));
      if (stat === undefined) continue;
      if (stat.pid === pid) ticks += stat.own + stat.children;
      else if (stat.parent === pid) ticks += stat.own;
    }
    return (ticks * 1_000) / TICKS_PER_SECOND;
  } catch {
    return undefined;
  }
}

async function redisCpuMs(redis: Redis): Promise<number> {
  const info = await redis.info('cpu');
  const seconds = (field: string) => Number(new RegExp(`^${field}:([\\d.]+)`, 'm').exec(info)?.[1] ?? 0);
  return (seconds('used_cpu_sys') + seconds('used_cpu_user')) * 1_000;
}

function statOf(pid: number): { pid: number; parent: number; own: number; children: number } | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name, in brackets, may hold anything.
    const fields = text
      .slice(text.lastIndexOf(')') + 2)
      .split(' ')
      .map(Number);
    const [parent, own, ownSystem, children, childrenSystem] = [
      fields[1],
      fields[11],
      fields[12],
      fields[13],
      fields[14],
    ] as number[];
    return {
      pid,
      parent: parent as number,
      own: (own as number) + (ownSystem as number),
      children: (children as number) + (childrenSystem as number),
    };
  } catch {
    return undefined;
  }
}
