import { Command } from 'commander';
import { type CliContext, type CommonOptions, terminalOf } from './context.ts';
import { withFleet } from './open-fleet.ts';
import { addExamples, jsonOption, parseJobId } from './options.ts';

export function redriveCommand(context: CliContext): Command {
  const command = new Command('redrive')
    .summary('run a failed job again')
    .description(
      'Puts a failed job back: its counters start anew, its stream goes on where it ended, its checkpoint holds.',
    )
    .argument('<id>', "the job's id", parseJobId)
    .addOption(jsonOption())
    .action((id: string, options: CommonOptions) => runRedrive(context, id, options));
  return addExamples(
    command,
    [
      ['oncefleet redrive <id>', 'after its cause is mended'],
      [
        `oncefleet status --status failed --json | jq -r '.jobs[].id' | xargs -n1 oncefleet redrive`,
        'every failed job of the first page',
      ],
    ],
    'Only failed jobs: any other exits with 6 and is left as it is.',
  );
}

async function runRedrive(context: CliContext, id: string, options: CommonOptions): Promise<void> {
  const terminal = terminalOf(context, options);
  await withFleet(context, { needsJobs: true }, async (fleet) => {
    await fleet.redrive(id);
    await (terminal.json
      ? terminal.jsonLine(JSON.stringify({ id, status: 'pending' }))
      : terminal.line(`Job ${id} is to run again`));
  });
}
