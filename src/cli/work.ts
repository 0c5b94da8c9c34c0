import { Command, Option } from 'commander';
import { InputInvalidError } from '../errors.ts';
import { createLogger } from '../log.ts';
import { MODEL_PACKAGES, requirePackages } from '../optional.ts';
import type { CliContext } from './context.ts';
import { allJobs, openFleet, requireSchema } from './open-fleet.ts';
import { addExamples, collect, jobsOption, parseInteger } from './options.ts';
import { serve } from './serve.ts';
import { requirePostgres, startMetrics, startWorker, warnWithoutRedis } from './services.ts';
import { readSettings } from './settings.ts';

interface WorkOptions {
  jobs: string[];
  only: string[];
  concurrency?: number;
}

export function workCommand(context: CliContext): Command {
  const command = new Command('work')
    .summary('run jobs')
    .description(
      'A worker: claims jobs, renews their leases and runs them. Start as many as the queue needs, on as many machines.',
    )
    .option(
      '--concurrency <number>',
      'jobs at once per queue, instead of ONCEFLEET_CONCURRENCY',
      parseInteger(1, 1_000),
    )
    .addOption(
      new Option('--only <name>', 'run jobs of this name alone; repeatable').argParser(collect).default([], 'all'),
    )
    .addOption(jobsOption())
    .action((options: WorkOptions) => runWork(context, options));
  return addExamples(
    command,
    [
      ['oncefleet work', 'the built-in jobs and those of ONCEFLEET_JOBS'],
      ['oncefleet work --jobs ./jobs.ts --only greet --concurrency 50', 'a worker for one kind of job'],
    ],
    'SIGTERM or Ctrl-C: takes no more jobs, lets running ones finish for ONCEFLEET_SHUTDOWN_MS, interrupts\n' +
      'the rest (another worker runs them again), ends with 0. A second signal interrupts at once.',
  );
}

async function runWork(context: CliContext, options: WorkOptions): Promise<void> {
  const config = readSettings(context, { ONCEFLEET_CONCURRENCY: options.concurrency?.toString() });
  const log = createLogger({ level: config.logLevel, process: 'worker' });
  const jobs = await allJobs(config, [...config.jobModules, ...options.jobs], context.cwd);
  const unknown = options.only.filter((name) => !jobs.some((job) => job.name === name));
  if (unknown.length > 0) {
    const known = jobs.map(({ name }) => name).join(', ');
    throw new InputInvalidError(
      '--only',
      unknown.map((name) => ({ path: '', message: `no job is named "${name}" (there are ${known})` })),
      'JOB_NAME_UNKNOWN',
    );
  }
  const only = options.only.length > 0 ? options.only : undefined;
  if (config.model !== undefined && (only ?? ['answer']).includes('answer'))
    requirePackages('OPENAI_MODEL', MODEL_PACKAGES);
  if (config.embedding !== undefined && (only ?? ['ingest']).some((name) => name === 'answer' || name === 'ingest'))
    requirePackages('EMBEDDING_MODEL', MODEL_PACKAGES);
  await serve(config, log, async (lifecycle) => {
    const fleet = await openFleet(config, jobs, log);
    await lifecycle.add('fleet', () => fleet.close());
    await requireSchema(fleet);
    await requirePostgres(fleet);
    await warnWithoutRedis(fleet, log);
    await startMetrics(fleet, config, log, lifecycle);
    const workerId = await startWorker(fleet, config, lifecycle, only === undefined ? {} : { only });
    log.info(
      { worker: workerId, jobs: only ?? jobs.map(({ name }) => name), concurrency: config.concurrency },
      'Working',
    );
  });
}
