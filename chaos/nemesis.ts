/** Does what the plan says to the processes and the servers. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import pg from 'pg';
import type { Services } from '../scripts/services.ts';
import { record } from './history.ts';
import { FAULTS, type Fault, type PlannedFault } from './plan.ts';
import { FAKETIME, type Member, type Processes } from './processes.ts';
import type { ProxyMode } from './proxy.ts';

/** One more outage of a server only when the last has been over for this long: a fleet that never sees its servers does no work to go wrong. */
const BETWEEN_OUTAGES_MS = 2_500;

/** Between two heartbeats a renewal must not bring a lease back. */
const AGAIN_MS = 30;
const FAR_AWAY_MS = 40;
const SLOW_MS = 250;

export interface NemesisOptions {
  plan: readonly PlannedFault[];
  processes: Processes;
  services: Services;
  /** The fleet's database. */
  databaseUrl: string;
  /** Its history. */
  file: string;
  signal: AbortSignal;
  say(line: string): void;
}

export class Nemesis {
  readonly #options: NemesisOptions;
  readonly counts = new Map<Fault, number>();
  readonly #running = new Set<Promise<void>>();
  /** Ends what lasts. */
  readonly #heal = new AbortController();
  #outageUntil = 0;
  readonly problems: string[] = [];

  constructor(options: NemesisOptions) {
    this.#options = options;
  }

  /** Runs the whole plan. */
  async run(): Promise<void> {
    const { plan, signal } = this.#options;
    const startedAt = performance.now();
    for (const planned of plan) {
      const waitMs = startedAt + planned.atMs - performance.now();
      if (waitMs > 0) await sleep(waitMs, undefined, { signal });
      signal.throwIfAborted();
      this.#strike(planned);
    }
  }

  /** Ends every fault, and sees that servers are up. Works twice. */
  async heal(): Promise<void> {
    this.#heal.abort();
    await Promise.all(this.#running);
    const { processes } = this.#options;
    for (const member of processes.members) {
      if (member.frozen) processes.thaw(member);
      member.postgres.set({ kind: 'open' });
      member.redis.set({ kind: 'open' });
      for (const proxy of [member.postgres, member.redis]) proxy.endStranded();
    }
  }

  #strike({ fault, target, forMs }: PlannedFault): void {
    const { processes, file, say } = this.#options;
    const member = target === undefined ? undefined : processes.members[target];
    if (member?.busy === true || (member === undefined && performance.now() < this.#outageUntil)) return;
    if (fault === 'skew' && FAKETIME === undefined) return;
    this.counts.set(fault, (this.counts.get(fault) ?? 0) + 1);
    const name = member?.name ?? 'server';
    record(file, {
      type: 'fault',
      fault,
      target: name,
      forMs,
      ...(member === undefined ? {} : { pid: member.child.pid }),
    });
    say(`${FAULTS[fault].about}: ${name}${forMs === 0 ? '' : ` (${forMs} ms)`}`);
    if (member !== undefined) member.busy = true;
    else this.#outageUntil = Number.POSITIVE_INFINITY;
    const running = (member === undefined ? this.#hitServer(fault, forMs) : this.#hitMember(fault, member, forMs))
      .catch((error: Error) => void this.problems.push(`${fault} of ${name}: ${error.message}`))
      .finally(() => {
        record(file, { type: 'healed', fault, target: name });
        if (member !== undefined) member.busy = false;
        else this.#outageUntil = performance.now() + BETWEEN_OUTAGES_MS;
        this.#running.delete(running);
      });
    this.#running.add(running);
  }

  async #hitMember(fault: Fault, member: Member, forMs: number): Promise<void> {
    const { processes } = this.#options;
    switch (fault) {
      case 'kill':
      case 'kill-web':
        return processes.kill(member);
      case 'skew':
        return processes.kill(member, forMs);
      case 'term':
      case 'term-web': {
        const exit = await processes.terminate(member);
        if (exit !== undefined && exit.signal !== null && exit.signal !== 'SIGKILL')
          this.problems.push(`${member.name} ended with ${exit.signal} after SIGTERM`);
        return;
      }
      case 'freeze':
        processes.freeze(member);
        await this.#last(forMs);
        processes.thaw(member);
        return;
      case 'strand-postgres':
        member.postgres.strand();
        return;
      case 'strand-redis':
        member.redis.strand();
        return;
      default: {
        const proxy = fault.endsWith('-postgres') ? member.postgres : member.redis;
        const mode: ProxyMode = fault.startsWith('cut')
          ? { kind: 'cut' }
          : fault.startsWith('hold')
            ? { kind: 'hold' }
            : { kind: 'delay', ms: FAR_AWAY_MS };
        if (mode.kind === 'hold') {
          // Slow first, so that statements of all sorts are on the way when nothing gets through any more.
          proxy.set({ kind: 'delay', ms: SLOW_MS });
          await this.#last(4 * SLOW_MS);
        }
        proxy.set(mode);
        await this.#last(forMs);
        proxy.set({ kind: 'open' });
      }
    }
  }

  async #hitServer(fault: Fault, forMs: number): Promise<void> {
    const { postgres, redis, redisUrl } = this.#options.services;
    switch (fault) {
      case 'redis-flush':
        return flush(redisUrl);
      case 'lose-leases':
        return this.#loseLeases(forMs);
      case 'redis-restart':
        await redis?.stop('SIGKILL');
        await this.#last(forMs);
        return redis?.start();
      default:
        await postgres?.stop('SIGQUIT');
        await this.#last(forMs);
        return postgres?.start();
    }
  }

  /** Owners do not know before their next heartbeat, and until then nothing but the fence stops them. */
  async #loseLeases(forMs: number): Promise<void> {
    const { databaseUrl, services } = this.#options;
    const client = new pg.Client({ connectionString: databaseUrl });
    client.on('error', () => {});
    await client.connect();
    try {
      const { rows } = await client.query<{ id: string; fence: string }>(
        // In the order in which the fleet's own statements lock rows.
        `select id, fence from oncefleet.jobs where status = 'running' order by id`,
      );
      await flush(services.redisUrl);
      const until = performance.now() + forMs;
      while (performance.now() < until && !this.#heal.signal.aborted) {
        // Locked in the order that everybody keeps, or one of two would be ended as a deadlock.
        await client.query(
          `with held as (
             select j.id from oncefleet.jobs j join unnest($1::uuid[], $2::bigint[]) as l (id, fence) using (id, fence)
             where j.status = 'running' order by j.id for no key update of j)
           update oncefleet.jobs j set lease_expires_at = clock_timestamp() - interval '1 ms' from held where j.id = held.id`,
          [rows.map(({ id }) => id), rows.map(({ fence }) => fence)],
        );
        await this.#last(AGAIN_MS);
      }
    } finally {
      await client.end();
    }
  }

  async #last(ms: number): Promise<void> {
    await sleep(ms, undefined, { signal: this.#heal.signal }).catch(() => undefined);
  }
}

export async function flush(redisUrl: string): Promise<void> {
  const redis = new Redis(redisUrl, { maxRetriesPerRequest: 1, lazyConnect: true });
  redis.on('error', () => {});
  try {
    await redis.connect();
    await redis.flushall();
  } finally {
    redis.disconnect();
  }
}
