import { Command } from 'commander';
import { createLogger } from '../log.ts';
import { MODEL_PACKAGES, requirePackages, WEB_PACKAGES } from '../optional.ts';
import { type CliContext, terminalOf } from './context.ts';
import { allJobs, openFleet } from './open-fleet.ts';
import { addExamples, jobsOption, parseInteger } from './options.ts';
import { serve } from './serve.ts';
import { startWeb, startWorker, warnWithoutRedis } from './services.ts';
import { readSettings } from './settings.ts';
import type { WebOptions } from './web.ts';

export function devCommand(context: CliContext): Command {
  const command = new Command('dev')
    .summary('migrate, then API, Bull Board and a worker in one process')
    .description(
      'Everything at once, to develop with: migrates, then runs what `web` and `work` run. Logs go to standard error.',
    )
    .option('--host <address>', 'instead of HOST')
    .option('--port <number>', 'instead of PORT; 0 picks a free one', parseInteger(0, 65_535))
    .addOption(jobsOption())
    .action((options: WebOptions) => runDev(context, options));
  return addExamples(
    command,
    [
      ['oncefleet dev', 'against DATABASE_URL and REDIS_URL'],
      ['oncefleet dev --jobs ./examples/greet-job.ts', 'with a job of your own'],
    ],
    'In a checkout, `npm run dev` also starts a private Postgres and Redis. Ctrl-C ends it.',
  );
}

async function runDev(context: CliContext, options: WebOptions): Promise<void> {
  requirePackages('oncefleet dev', WEB_PACKAGES);
  const terminal = terminalOf(context, {});
  const config = readSettings(context, { HOST: options.host, PORT: options.port?.toString() });
  if (config.model !== undefined) requirePackages('OPENAI_MODEL', MODEL_PACKAGES);
  const log = createLogger({ level: config.logLevel, process: 'dev', fd: 2 });
  const jobs = await allJobs(config, [...config.jobModules, ...options.jobs], context.cwd);
  await serve(config, log, async (lifecycle) => {
    const fleet = await openFleet(config, jobs, log);
    await lifecycle.add('fleet', () => fleet.close());
    const { migrate } = await import('../db/migrate.ts');
    for (const name of await migrate(fleet.db)) await terminal.line(`applied ${name}`);
    await warnWithoutRedis(fleet, log);
    await startWorker(fleet, config, lifecycle);
    const address = await startWeb(fleet, config, log, lifecycle);
    await terminal.line(`API         ${address}/v1/jobs`);
    await terminal.line(`Bull Board  ${address}/admin/queues`);
    await terminal.line(`Jobs        ${jobs.map(({ name }) => name).join(', ')}`);
  });
}
