import { Command } from 'commander';
import type { RedriveManyOptions } from '../client/types.ts';
import { OncefleetError } from '../errors.ts';
import { type CliContext, type CommonOptions, terminalOf } from './context.ts';
import { withFleet } from './open-fleet.ts';
import { addExamples, jsonOption, parseDuration, parseInteger, parseJobId } from './options.ts';

interface RedriveOptions extends CommonOptions {
  failed?: boolean;
  name?: string;
  code?: string;
  within?: number;
  limit?: number;
  canary?: number;
  canaryTimeout?: number;
}

export function redriveCommand(context: CliContext): Command {
  const command = new Command('redrive')
    .summary('run failed jobs again')
    .description(
      'Puts a failed job back, or with --failed all that match: counters start anew, the stream continues where it ended, the checkpoint holds.',
    )
    .argument('[id]', "the job's id", parseJobId)
    .option('--failed', 'failed jobs that fit the filters below, 10,000 at most')
    .option('--name <name>', 'jobs of this name')
    .option('--code <code>', 'jobs that failed with this error code')
    .option('--within <duration>', 'jobs that failed in this time, such as 2h', parseDuration)
    .option('--limit <number>', 'at most this many, longest failed first', parseInteger(1, 10_000))
    .option('--canary <number>', 'this many first; the rest only if all of them complete', parseInteger(1, 10_000))
    .option('--canary-timeout <duration>', 'how long to wait for the canaries; default 10m', parseDuration)
    .addOption(jsonOption())
    .action((id: string | undefined, options: RedriveOptions) => runRedrive(context, id, options));
  return addExamples(
    command,
    [
      ['oncefleet redrive <id>', 'after its cause is fixed'],
      ['oncefleet redrive --failed --name answer --within 2h', 'what an outage of the model server failed'],
      ['oncefleet redrive --failed --code MODEL_FAILED --canary 5', 'five first; the others if those complete'],
    ],
    'Only failed jobs: a single one in another state exits with 6 and is left as it is. If a canary fails, exits with 1.',
  );
}

async function runRedrive(context: CliContext, id: string | undefined, options: RedriveOptions): Promise<void> {
  const filters = (['name', 'code', 'within', 'limit', 'canary', 'canaryTimeout'] as const).filter(
    (name) => options[name] !== undefined,
  );
  if ((id === undefined) !== (options.failed === true) || (id !== undefined && filters.length > 0)) {
    throw new OncefleetError('INPUT_INVALID', 'Name one job by its id, or several with --failed and filters');
  }
  const terminal = terminalOf(context, options);
  await withFleet(context, { needsJobs: true }, async (fleet) => {
    if (id !== undefined) {
      await fleet.redrive(id);
      await (terminal.json
        ? terminal.jsonLine(JSON.stringify({ id, status: 'pending' }))
        : terminal.line(`Job ${id} is to run again`));
      return;
    }
    const result = await fleet.redriveMany(toFilter(options));
    if (terminal.json) await terminal.jsonLine(JSON.stringify(result));
    else await terminal.line(`${result.redriven} of ${result.matched} failed jobs are to run again`);
    const [canary] = result.failedCanaries;
    if (canary !== undefined) {
      throw new OncefleetError(
        'HANDLER_ERROR',
        `${result.failedCanaries.length} of the canaries did not complete, so the rest was left failed; ${canary.id}: ${canary.code}: ${canary.message}`,
      );
    }
  });
}

function toFilter(options: RedriveOptions): RedriveManyOptions {
  const { name, code, within, limit, canary, canaryTimeout } = options;
  return {
    ...(name === undefined ? {} : { name }),
    ...(code === undefined ? {} : { code }),
    ...(within === undefined ? {} : { withinMs: within }),
    ...(limit === undefined ? {} : { limit }),
    ...(canary === undefined ? {} : { canary }),
    ...(canaryTimeout === undefined ? {} : { canaryTimeoutMs: canaryTimeout }),
  };
}
