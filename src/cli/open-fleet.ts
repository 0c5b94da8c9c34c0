/**
 * The fleet behind a command. What it imports is heavy (Postgres, BullMQ, the AI SDK), so
 * that comes only when a command really runs: `--help` and wrong usage answer at once.
 */
import { type Config, fleetSettings } from '../config.ts';
import { OncefleetError } from '../errors.ts';
import type { AnyJobDefinition } from '../jobs/define-job.ts';
import { createLogger, type Logger } from '../log.ts';
import { within } from '../util/with-timeout.ts';
import type { Fleet } from '../workers/fleet.ts';
import { type CliContext, wantsDebug } from './context.ts';
import { toCommandError } from './report.ts';
import { readSettings } from './settings.ts';

/** A command has its answer by now; a server that does not say goodbye must not keep the person waiting. */
const CLOSE_LIMIT_MS = 3_000;

interface FleetCommandOptions {
  /** Modules of `--jobs`. */
  jobs?: readonly string[];
  /** Whether users' jobs are needed at all; a broken module should not get in the way of `status`. */
  needsJobs?: boolean;
}

/** Opens a fleet, checks the schema, hands it to `use` and closes it, however that ends. */
export async function withFleet<T>(
  context: CliContext,
  options: FleetCommandOptions,
  use: (fleet: Fleet, config: Config) => Promise<T>,
): Promise<T> {
  const config = readSettings(context);
  // A person asked for one thing: log lines between the answer's lines would only be noise.
  const log = createLogger({ level: wantsDebug(context.env) ? config.logLevel : 'silent', process: 'cli', fd: 2 });
  const modules = options.needsJobs === true ? [...config.jobModules, ...(options.jobs ?? [])] : [];
  const jobs = await allJobs(config, modules, context.cwd);
  const fleet = await openFleet(config, jobs, log);
  try {
    await requireSchema(fleet);
    return await use(fleet, config);
  } finally {
    await closeWithin(fleet, CLOSE_LIMIT_MS);
  }
}

/** The built-in jobs and those of the modules. */
export async function allJobs(config: Config, modules: readonly string[], cwd: string): Promise<AnyJobDefinition[]> {
  const [{ createBuiltinJobs }, { loadJobs }] = await Promise.all([
    import('../jobs/builtin-jobs.ts'),
    import('./load-jobs.ts'),
  ]);
  return loadJobs(modules, { cwd, builtin: createBuiltinJobs(config) });
}

export async function openFleet(config: Config, jobs: readonly AnyJobDefinition[], log: Logger): Promise<Fleet> {
  const { createFleet } = await import('../workers/fleet.ts');
  return createFleet({ ...fleetSettings(config), jobs, log });
}

/** @throws OncefleetError STORE_UNAVAILABLE, SCHEMA_OUTDATED, SCHEMA_NEWER */
export async function requireSchema(fleet: Pick<Fleet, 'db'>): Promise<void> {
  const { checkSchema } = await import('../db/migrate.ts');
  try {
    await checkSchema(fleet.db);
  } catch (thrown) {
    const error = toCommandError(thrown);
    // Nothing but Postgres was asked, so whatever else went wrong is its doing.
    if (error.code !== 'INTERNAL' && error.code !== 'SERVICE_MISSING') throw error;
    throw new OncefleetError('STORE_UNAVAILABLE', `Postgres cannot be used: ${error.message}`, { cause: thrown });
  }
}

async function closeWithin(fleet: Fleet, limitMs: number): Promise<void> {
  // What failed while closing changes nothing about the answer already given.
  const closed = fleet.close().catch(() => {});
  await within(limitMs, closed, () => undefined);
}
