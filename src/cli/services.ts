/** The two processes of a fleet, as parts that `web`, `work` and `dev` put together. */
import type { Config } from '../config.ts';
import { InputInvalidError, OncefleetError } from '../errors.ts';
import type { Logger } from '../log.ts';
import { METRICS_PACKAGES, requirePackages } from '../optional.ts';
import { isLoopback } from '../options.ts';
import { shareOf } from '../runtime/shared-runtime.ts';
import type { Metrics } from '../telemetry/metrics.ts';
import type { Lifecycle } from '../util/lifecycle.ts';
import type { Fleet } from '../workers/fleet.ts';

/**
 * Opens the web process's part: listens, logs where, and closes with the lifecycle.
 *
 * @returns its base URL
 * @throws OncefleetError CONFIG_INVALID it cannot listen there, or may not without tokens
 */
export async function startWeb(fleet: Fleet, config: Config, log: Logger, lifecycle: Lifecycle): Promise<string> {
  requireTokens(config);
  const { createApp } = await import('../http/app.ts');
  const metrics = hasMetrics(config) ? await openMetrics(fleet, config, lifecycle, { rows: true }) : undefined;
  const app = createApp({ client: fleet, log, config, metrics, doctor: () => fleet.doctor() });
  await lifecycle.add('http', () => app.close());
  // What fails from here on is the address's doing: its own lookup may fail as that of Postgres may.
  await app.ready();
  try {
    return await app.listen({
      host: config.host,
      port: config.port,
      listenTextResolver: (address) => `Listening on ${address}`,
    });
  } catch (cause) {
    throw new OncefleetError('CONFIG_INVALID', `Cannot listen on HOST and PORT: ${(cause as Error).message}`, {
      cause,
    });
  }
}

/** Whoever reaches a server without tokens may do everything. */
function requireTokens({ tokens, host, allowAnyone }: Config): void {
  if (tokens !== undefined || allowAnyone || isLoopback(host)) return;
  throw new InputInvalidError(
    'Configuration',
    [
      {
        path: 'HOST',
        message:
          'may be another address than loopback only with ONCEFLEET_TOKENS; if whoever reaches it may do everything, set ONCEFLEET_ALLOW_ANYONE=true',
      },
    ],
    'CONFIG_INVALID',
  );
}

interface StartWorkerOptions {
  /** Names of the jobs to run; default all. */
  only?: readonly string[];
}

/** Opens the worker's part; when closed it drains, and a hurried close interrupts what runs. @returns the worker's id */
export async function startWorker(
  fleet: Fleet,
  config: Config,
  lifecycle: Lifecycle,
  { only }: StartWorkerOptions = {},
): Promise<string> {
  const worker = await fleet.work({ concurrency: config.concurrency, ...(only === undefined ? {} : { jobs: only }) });
  await lifecycle.add('worker', (signal) => {
    // Intake stops first: a job that came after the interrupt would be waited for.
    const closed = worker.close({ timeoutMs: signal.aborted ? 0 : config.shutdownMs });
    signal.addEventListener('abort', () => worker.interrupt(), { once: true });
    return closed;
  });
  return worker.id;
}

/** Whether a web process serves metrics: where the API has tokens, they need one too. */
function hasMetrics({ tokens, metricsToken }: Config): boolean {
  return tokens === undefined || metricsToken !== undefined;
}

/** What a process measures from now on. @param options.rows whether gauges of rows are shown where the settings do not say */
async function openMetrics(
  fleet: Fleet,
  config: Config,
  lifecycle: Lifecycle,
  { rows }: { rows: boolean },
): Promise<Metrics> {
  requirePackages('/metrics', METRICS_PACKAGES);
  const { Metrics } = await import('../telemetry/metrics.ts');
  const metrics = new Metrics({ runtime: shareOf('fleet', fleet).runtime, rows: config.metricsRows ?? rows });
  await lifecycle.add('metrics', async () => metrics.close());
  return metrics;
}

/**
 * Serves the metrics of a worker where ONCEFLEET_METRICS_PORT says so.
 *
 * @throws OncefleetError CONFIG_INVALID it cannot listen there; SERVICE_MISSING a package was left out
 */
export async function startMetrics(fleet: Fleet, config: Config, log: Logger, lifecycle: Lifecycle): Promise<void> {
  const { metricsPort: port, metricsHost: host, metricsToken: token } = config;
  if (port === undefined) return;
  const metrics = await openMetrics(fleet, config, lifecycle, { rows: false });
  const { listenForMetrics } = await import('../telemetry/listener.ts');
  const listener = await listenForMetrics({ metrics, host, port, token });
  await lifecycle.add('metrics listener', () => listener.close());
  log.info({ url: listener.url }, 'Metrics');
}

/** @throws OncefleetError POSTGRES_UNUSABLE it is there, and a setting of its sessions breaks what is needed */
export async function requirePostgres(fleet: Fleet): Promise<void> {
  await shareOf('fleet', fleet).runtime.requirePostgres();
}

/**
 * Redis may be unreachable when a process starts, or become so later; say so and continue.
 *
 * @throws OncefleetError REDIS_UNUSABLE it is there, and will refuse what is needed
 */
export async function warnWithoutRedis(fleet: Fleet, log: Logger): Promise<void> {
  await shareOf('fleet', fleet).runtime.requireRedis([]);
  const { redis } = await fleet.health();
  if (redis !== undefined) log.warn({ problem: redis }, 'Redis does not answer; jobs wait until it does');
}
