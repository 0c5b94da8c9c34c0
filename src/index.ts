/**
 * The library's public face. What it imports is small: BullMQ, Postgres and Redis drivers, zod and
 * pino are loaded by the first call that needs them, so that a process which wraps no processor,
 * or enqueues nothing, does not pay for them.
 *
 * `require` and not `import()`: none of these calls is asynchronous. Node 22.12 and newer load ES
 * modules with it, the same instances as `import` does.
 */
import { createRequire } from 'node:module';
import type * as Library from './library.ts';

export {
  CancelledError,
  ERROR_CODES,
  InputInvalidError,
  InterruptedError,
  JobFailedError,
  LeaseLostError,
  NonRetryableError,
  OncefleetError,
  RetryAfterError,
} from './errors.ts';
export { isTerminalType } from './journal/event.ts';
export { createFolder, fold } from './journal/fold.ts';
export type * from './library.ts';

const require = createRequire(import.meta.url);
const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';

/** Where each is; a process that defines jobs loads zod, and neither drivers nor the fleet. */
const FILES = {
  CONFIG_VARIABLES: 'config',
  checkSchema: 'db/migrate',
  createBuiltinJobs: 'jobs/builtin-jobs',
  createFleet: 'workers/fleet',
  createLogger: 'log',
  defineJob: 'jobs/define-job',
  fleetSettings: 'config',
  loadConfig: 'config',
  migrate: 'db/migrate',
  startMaintenance: 'maintenance/start-maintenance',
  withIdempotency: 'runs/with-idempotency',
} as const satisfies Partial<Record<keyof typeof Library, string>>;
type Late = keyof typeof FILES;

const loaded: Partial<Record<Late, unknown>> = {};

function load<Name extends Late>(name: Name): (typeof Library)[Name] {
  loaded[name] ??= (require(`./${FILES[name]}.${extension}`) as typeof Library)[name];
  return loaded[name] as (typeof Library)[Name];
}

/** A function of the library under its own type, loaded with its first call. */
function late<Name extends Late>(name: Name): (typeof Library)[Name] {
  const target = (() => {}) as unknown as object;
  const real = () => load(name) as object;
  return new Proxy(target, {
    apply: (_target, self, args) => Reflect.apply(real() as () => unknown, self, args),
    get: (_target, key) => Reflect.get(real(), key),
  }) as (typeof Library)[Name];
}

export const checkSchema = late('checkSchema');
export const createBuiltinJobs = late('createBuiltinJobs');
export const createFleet = late('createFleet');
export const createLogger = late('createLogger');
export const defineJob = late('defineJob');
export const fleetSettings = late('fleetSettings');
export const loadConfig = late('loadConfig');
export const migrate = late('migrate');
export const startMaintenance = late('startMaintenance');
export const withIdempotency = late('withIdempotency');

/** Every variable of the environment that `loadConfig` reads. */
export const CONFIG_VARIABLES = new Proxy({} as typeof Library.CONFIG_VARIABLES, {
  get: (_target, key) => Reflect.get(load('CONFIG_VARIABLES'), key),
  has: (_target, key) => Reflect.has(load('CONFIG_VARIABLES'), key),
  ownKeys: () => Reflect.ownKeys(load('CONFIG_VARIABLES')),
  // Configurable, as a proxy's must be that its target does not have.
  getOwnPropertyDescriptor: (_target, key) => {
    const found = Reflect.getOwnPropertyDescriptor(load('CONFIG_VARIABLES'), key);
    return found === undefined ? undefined : { ...found, configurable: true };
  },
});
