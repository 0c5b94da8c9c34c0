import { Command } from 'commander';
import { type CliContext, type CommonOptions, terminalOf } from './context.ts';
import { withFleet } from './open-fleet.ts';
import { addExamples, jsonOption, parseJobId } from './options.ts';

export function cancelCommand(context: CliContext): Command {
  const command = new Command('cancel')
    .summary('cancel a job')
    .description(
      'Cancels a job: at once while it waits; a running one is told and ends soon after. Cancelling twice, or too late, is no error.',
    )
    .argument('<id>', "the job's id", parseJobId)
    .addOption(jsonOption())
    .action((id: string, options: CommonOptions) => runCancel(context, id, options));
  return addExamples(command, [
    ['oncefleet cancel <id>', 'cancel it'],
    ['oncefleet cancel <id> && oncefleet follow <id>', 'and see it end (exit code 5)'],
  ]);
}

async function runCancel(context: CliContext, id: string, options: CommonOptions): Promise<void> {
  const terminal = terminalOf(context, options);
  await withFleet(context, {}, async (fleet) => {
    const { outcome, status } = await fleet.cancel(id);
    if (terminal.json) return terminal.jsonLine(JSON.stringify({ id, outcome, status }));
    if (outcome === 'cancelled') await terminal.line(`Job ${id} is cancelled`);
    else if (outcome === 'requested') await terminal.line(`Job ${id} is told to stop`);
    else await terminal.line(`Job ${id} had ended before: ${status}`);
  });
}
