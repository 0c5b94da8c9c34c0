/**
 * One runtime for all guarded processors of a process that ask for the same: ten wrapped workers
 * share a pool, a lease thread and three Redis connections. Counted, and freed by the last `close()`.
 */
import { OncefleetError } from '../errors.ts';
import { Runtime, type RuntimeOptions, runtimeKey } from './runtime.ts';

/** A runtime for as long as it is needed. */
export interface RuntimeShare {
  readonly runtime: Runtime;
  /** Frees the runtime if nobody else in this process uses it. Idempotent. */
  release(): Promise<void>;
}

const shared = new Map<string, { runtime: Runtime; users: number }>();

/**
 * Where a fleet has its runtime, which the fleet closes. A property, and not a map of fleets: a copy of a
 * fleet is as good as the fleet. A function, so that what prints a fleet does not print its settings.
 */
const RUNTIME = Symbol('runtime');

/** The property of a fleet that makes its runtime available to `shareOf`. */
export function lendRuntime(runtime: Runtime): { [RUNTIME]: () => Runtime } {
  return { [RUNTIME]: () => runtime };
}

/**
 * The runtime of a fleet. The fleet closes it.
 *
 * @throws OncefleetError INPUT_INVALID it is no fleet, or one of another copy of this package
 */
export function shareOf(what: string, fleet: object): RuntimeShare {
  const runtime = (fleet as Partial<ReturnType<typeof lendRuntime>>)[RUNTIME]?.();
  if (runtime === undefined) {
    throw new OncefleetError(
      'INPUT_INVALID',
      `${what}: fleet: expected what createFleet returns, from the same copy of this package`,
    );
  }
  return { runtime, release: async () => undefined };
}

/**
 * A share of the runtime that others with equal options use; options that differ in anything but
 * `maxCrashes` and `resultTtlMs` get a runtime of their own. Those two are the caller's to keep:
 * they belong to jobs, not to connections.
 */
export function shareRuntime(options: RuntimeOptions): RuntimeShare {
  const { maxCrashes: _crashes, resultTtlMs: _ttl, ...own } = options;
  const key = runtimeKey(own);
  let entry = shared.get(key);
  if (entry === undefined) {
    const runtime = new Runtime(own);
    entry = { runtime, users: 0 };
    // A processor is made before anybody can wait for it: the log has to do.
    // Its first job would wait for the first connection to Postgres. One that fails is the first job's to tell of.
    void warmUp(runtime);
    runtime.requireRedis([]).catch((err: unknown) => runtime.log.error({ err }, 'Redis cannot be used as it is'));
    shared.set(key, entry);
  }
  const taken = entry;
  taken.users++;
  let released: Promise<void> | undefined;
  return {
    runtime: taken.runtime,
    release() {
      released ??= (async () => {
        taken.users--;
        if (taken.users > 0) return;
        // Before it closes: whoever comes now gets a new one.
        shared.delete(key);
        await taken.runtime.close();
      })();
      return released;
    },
  };
}

/** Opens the first connection to Postgres, and says what is wrong with its sessions. */
async function warmUp(runtime: Runtime): Promise<void> {
  try {
    await runtime.requirePostgres();
  } catch (err) {
    if (err instanceof OncefleetError) runtime.log.error({ err }, 'Postgres cannot be used as it is');
  }
}
