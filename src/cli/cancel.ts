import { Command, Option } from 'commander';
import type { CancelManyOptions } from '../client/types.ts';
import { OncefleetError } from '../errors.ts';
import { type CliContext, type CommonOptions, terminalOf } from './context.ts';
import { withFleet } from './open-fleet.ts';
import { addExamples, jsonOption, parseDuration, parseInteger, parseJobId } from './options.ts';
import { Progress } from './progress.ts';
import { listenForInterrupt } from './signals.ts';

interface CancelOptions extends CommonOptions {
  waiting?: boolean;
  unfinished?: boolean;
  name?: string;
  queue?: string;
  keyPrefix?: string;
  olderThan?: number;
  limit?: number;
}

export function cancelCommand(context: CliContext): Command {
  const command = new Command('cancel')
    .summary('cancel jobs')
    .description(
      'Cancels a job: at once while it waits; a running one is told and ends soon after. Cancelling twice, or too late, is no error. With --waiting or --unfinished all that match.',
    )
    .argument('[id]', "the job's id", parseJobId)
    .addOption(
      new Option('--waiting', 'waiting jobs that fit the filters below: discards a backlog').conflicts('unfinished'),
    )
    .option('--unfinished', 'the same, and running jobs too')
    .option('--name <name>', 'jobs of this name')
    .option('--queue <queue>', 'jobs of this queue')
    .option('--key-prefix <text>', 'jobs whose key begins with this')
    .option('--older-than <duration>', 'jobs that were enqueued longer ago than this, such as 2h', parseDuration)
    .option('--limit <number>', 'at most this many', parseInteger(1, 1_000_000_000))
    .addOption(jsonOption())
    .action((id: string | undefined, options: CancelOptions) => runCancel(context, id, options));
  return addExamples(
    command,
    [
      ['oncefleet cancel <id>', 'cancel it'],
      ['oncefleet cancel <id> && oncefleet follow <id>', 'and see it end (exit code 5)'],
      ['oncefleet cancel --waiting --name ingest --key-prefix import-7/', 'discard what an import has left'],
    ],
    'Jobs that are enqueued after it has begun are left. Ctrl-C stops it: what was cancelled by then stays so.',
  );
}

async function runCancel(context: CliContext, id: string | undefined, options: CancelOptions): Promise<void> {
  const terminal = terminalOf(context, options);
  const many = options.waiting === true || options.unfinished === true;
  const filter = toFilter(options);
  if ((id === undefined) !== many || (id !== undefined && Object.keys(filter).length > 0))
    throw new OncefleetError(
      'INPUT_INVALID',
      'Name one job by its id, or several with --waiting or --unfinished and filters',
    );
  await withFleet(context, {}, async (fleet) => {
    if (id === undefined) {
      using interrupt = listenForInterrupt();
      const progress = new Progress(terminal, 'cancelled');
      const result = await fleet.cancelMany({
        ...filter,
        ...(options.waiting === true ? { status: 'pending' } : {}),
        signal: interrupt.signal,
        onProgress: ({ matched }) => progress.update({ done: matched }),
      });
      progress.finish();
      if (terminal.json) await terminal.jsonLine(JSON.stringify(result));
      else await terminal.line(`${result.cancelled} jobs are cancelled, ${result.requested} are told to stop`);
      return;
    }
    const { outcome, status } = await fleet.cancel(id);
    if (terminal.json) return terminal.jsonLine(JSON.stringify({ id, outcome, status }));
    if (outcome === 'cancelled') await terminal.line(`Job ${id} is cancelled`);
    else if (outcome === 'requested') await terminal.line(`Job ${id} is told to stop`);
    else await terminal.line(`Job ${id} had ended before: ${status}`);
  });
}

function toFilter({ name, queue, keyPrefix, olderThan, limit }: CancelOptions): CancelManyOptions {
  return {
    ...(name === undefined ? {} : { name }),
    ...(queue === undefined ? {} : { queue }),
    ...(keyPrefix === undefined ? {} : { keyPrefix }),
    ...(olderThan === undefined ? {} : { olderThanMs: olderThan }),
    ...(limit === undefined ? {} : { limit }),
  };
}
