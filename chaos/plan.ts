/** Which faults strike when: decided by the seed alone. */
import { Random } from './random.ts';
import { LEASE_TTL_MS, WORKERS } from './settings.ts';

export const FAULTS = {
  kill: { weight: 5, on: 'worker', about: 'SIGKILL a worker' },
  freeze: { weight: 4, on: 'worker', about: 'SIGSTOP a worker past its leases, then SIGCONT' },
  term: { weight: 3, on: 'worker', about: 'SIGTERM a worker, as a deploy does' },
  skew: { weight: 2, on: 'worker', about: 'SIGKILL a worker and start it with a clock that is wrong' },
  'kill-web': { weight: 1, on: 'web', about: 'SIGKILL the web process' },
  'term-web': { weight: 1, on: 'web', about: 'SIGTERM the web process' },
  'redis-flush': { weight: 2, on: 'server', about: 'FLUSHALL' },
  'lose-leases': {
    weight: 2,
    on: 'server',
    about: 'leases expire under owners that are well, as when the clock of Postgres jumps, and Redis is flushed',
  },
  'redis-restart': { weight: 1, on: 'server', about: 'SIGKILL Redis and start it empty' },
  'postgres-restart': { weight: 1, on: 'server', about: 'stop Postgres in immediate mode and start it' },
  'cut-postgres': { weight: 2, on: 'process', about: 'reset connections to Postgres, refuse new ones' },
  'cut-redis': { weight: 2, on: 'process', about: 'reset connections to Redis, refuse new ones' },
  'hold-postgres': {
    weight: 4,
    on: 'worker',
    about: 'nothing gets through to Postgres past the leases; then all of it, late',
  },
  'hold-redis': { weight: 2, on: 'process', about: 'nothing gets through to Redis; then all of it, late' },
  'delay-postgres': { weight: 1, on: 'process', about: 'Postgres is far away' },
  'delay-redis': { weight: 1, on: 'process', about: 'Redis is far away' },
  'strand-postgres': { weight: 2, on: 'process', about: 'connections to Postgres go half-open for good' },
  'strand-redis': { weight: 2, on: 'process', about: 'connections to Redis go half-open for good' },
} as const satisfies Record<string, { weight: number; on: 'worker' | 'web' | 'process' | 'server'; about: string }>;

export type Fault = keyof typeof FAULTS;

export interface PlannedFault {
  atMs: number;
  fault: Fault;
  /** Place among the processes: the workers, then the web process. Absent for servers. */
  target: number | undefined;
  /** How long it lasts; of a `skew`, how wrong the clock is, in milliseconds. */
  forMs: number;
}

const FIRST_AFTER_MS = 1_500;
const LARGEST_SKEW_MS = 10_000;

/** The faults of a run in their order. The same seed, length and choice give the same plan. */
export function planFaults(seed: number, seconds: number, only: readonly Fault[] | undefined): PlannedFault[] {
  const random = new Random(`faults ${seed}`);
  const choices = Object.entries(FAULTS)
    .map(([fault, { weight, on }]) => ({ fault: fault as Fault, weight, on }))
    .filter(({ fault }) => only === undefined || only.includes(fault));
  const plan: PlannedFault[] = [];
  for (let atMs = FIRST_AFTER_MS; atMs < seconds * 1_000; atMs += random.int(400, 1_600)) {
    const { fault, on } = random.weighted(choices);
    const worker = random.int(0, WORKERS - 1);
    const target =
      on === 'server' ? undefined : on === 'web' || (on === 'process' && random.chance(0.25)) ? WORKERS : worker;
    plan.push({ atMs, fault, target, forMs: lengthOf(fault, random) });
  }
  return plan;
}

function lengthOf(fault: Fault, random: Random): number {
  switch (fault) {
    case 'freeze':
    case 'hold-postgres':
      return random.int(Math.round(LEASE_TTL_MS * 1.2), LEASE_TTL_MS * 2);
    case 'skew':
      return random.int(-LARGEST_SKEW_MS, LARGEST_SKEW_MS);
    case 'lose-leases':
      return random.int(600, 1_500);
    case 'redis-restart':
    case 'postgres-restart':
      return random.int(0, 2_000);
    case 'delay-postgres':
    case 'delay-redis':
    case 'cut-postgres':
    case 'cut-redis':
    case 'hold-redis':
      return random.int(200, 4_000);
    default:
      return 0;
  }
}
