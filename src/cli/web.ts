import { Command } from 'commander';
import { createLogger } from '../log.ts';
import { requirePackages, WEB_PACKAGES } from '../optional.ts';
import type { CliContext } from './context.ts';
import { allJobs, openFleet, requireSchema } from './open-fleet.ts';
import { addExamples, jobsOption, parseInteger } from './options.ts';
import { serve } from './serve.ts';
import { requirePostgres, startWeb, warnWithoutRedis } from './services.ts';
import { readSettings } from './settings.ts';

export interface WebOptions {
  jobs: string[];
  host?: string;
  port?: number;
}

export function webCommand(context: CliContext): Command {
  const command = new Command('web')
    .summary('run the HTTP API and Bull Board')
    .description(
      'Listens on HOST and PORT: the API under /v1, Bull Board at /admin/queues, /healthz and /readyz. Runs no job; see `work`.',
    )
    .option('--host <address>', 'instead of HOST')
    .option('--port <number>', 'instead of PORT; 0 picks a free one', parseInteger(0, 65_535))
    .addOption(jobsOption())
    .action((options: WebOptions) => runWeb(context, options));
  return addExamples(
    command,
    [
      ['oncefleet web', 'on http://127.0.0.1:3000'],
      [
        'oncefleet web --host 0.0.0.0 --port 8080 --jobs ./jobs.ts',
        'for the network, with jobs of your own; set ONCEFLEET_TOKENS then',
      ],
    ],
    'SIGTERM or Ctrl-C: answers what was asked, tells streams to reconnect elsewhere, ends with 0.',
  );
}

async function runWeb(context: CliContext, options: WebOptions): Promise<void> {
  requirePackages('oncefleet web', WEB_PACKAGES);
  const config = readSettings(context, { HOST: options.host, PORT: options.port?.toString() });
  const log = createLogger({ level: config.logLevel, process: 'web' });
  const jobs = await allJobs(config, [...config.jobModules, ...options.jobs], context.cwd);
  await serve(config, log, async (lifecycle) => {
    const fleet = await openFleet(config, jobs, log);
    await lifecycle.add('fleet', () => fleet.close());
    await requireSchema(fleet);
    await requirePostgres(fleet);
    await warnWithoutRedis(fleet, log);
    await startWeb(fleet, config, log, lifecycle);
  });
}
