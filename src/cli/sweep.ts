import { Command } from 'commander';
import { type CliContext, type CommonOptions, terminalOf } from './context.ts';
import { withFleet } from './open-fleet.ts';
import { addExamples, jsonOption } from './options.ts';
import { CommandInterruptedError } from './report.ts';
import { listenForInterrupt } from './signals.ts';
import { counted } from './terminal.ts';

export function sweepCommand(context: CliContext): Command {
  const command = new Command('sweep')
    .summary('fold finished streams and remove old jobs, once')
    .description(
      'What workers do by themselves every ONCEFLEET_SWEEP_MS: merges the segments of finished streams, and removes\n' +
        'events and jobs that are past their retention (`oncefleet retention`). In small batches, beside live readers.',
    )
    .addOption(jsonOption())
    .action((options: CommonOptions) => runSweep(context, options));
  return addExamples(
    command,
    [
      ['oncefleet sweep', 'everything there is to do now'],
      ['17 3 * * * oncefleet sweep --json', 'by cron at night, with ONCEFLEET_SWEEP_MS=0 for the workers'],
    ],
    'While a worker sweeps it leaves the rest to that one ("busy"). Ctrl-C stops after the batch in hand; nothing is lost.',
  );
}

async function runSweep(context: CliContext, options: CommonOptions): Promise<void> {
  const terminal = terminalOf(context, options);
  await withFleet(context, {}, async (fleet) => {
    using interrupt = listenForInterrupt();
    const { busy, ...report } = await fleet.sweep({ signal: interrupt.signal }).catch((error: unknown) => {
      if (!interrupt.signal.aborted) throw error;
      throw new CommandInterruptedError(interrupt.by ?? 'SIGINT', 'Stopped; the next sweep continues from here');
    });
    if (terminal.json) return await terminal.jsonLine(JSON.stringify({ ...report, busy }));
    if (busy) terminal.note('Another process sweeps at present; it does what there is to do');
    await terminal.line(
      `folded ${counted(report.foldedStreams, 'stream')} (${counted(report.segmentsBefore, 'segment')} into ${report.segmentsAfter}), ` +
        `removed the events of ${counted(report.expiredStreams, 'job')}, ${counted(report.removedJobs, 'job')} and ${counted(report.removedUploads, 'upload')}`,
    );
    if (report.failedFolds > 0)
      terminal.note(
        `${counted(report.failedFolds, 'stream stays as it is', 'streams stay as they are')}: Postgres refused to fold`,
      );
  });
}
