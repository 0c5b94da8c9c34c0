import { Command } from 'commander';
import type { Diagnosis, Finding } from '../maintenance/doctor/diagnosis.ts';
import { type CliContext, type CommonOptions, terminalOf } from './context.ts';
import { withFleet } from './open-fleet.ts';
import { addExamples, jobsOption, jsonOption } from './options.ts';
import { Progress } from './progress.ts';
import { CommandInterruptedError } from './report.ts';
import { listenForInterrupt } from './signals.ts';
import { counted, type Terminal } from './terminal.ts';

/** Jobs listed under a finding; --json has a hundred. */
const MAX_LISTED = 5;

interface DoctorCommandOptions extends CommonOptions {
  fix?: boolean;
  jobs: readonly string[];
}

export function doctorCommand(context: CliContext): Command {
  const command = new Command('doctor')
    .summary('find what Postgres and Redis disagree about')
    .description(
      'Compares every unfinished job with BullMQ, every BullMQ job with its row and every stream with its job, and looks at the servers. Safe beside running workers: what looks wrong is looked at twice.',
    )
    .option('--fix', 'repair what can be repaired, and say what was done')
    .addOption(jobsOption())
    .addOption(jsonOption())
    .action((options: DoctorCommandOptions) => runDoctor(context, options));
  return addExamples(
    command,
    [
      ['oncefleet doctor', 'what is wrong, and why; changes nothing'],
      ['oncefleet doctor --fix', 'repairs it'],
      ['oncefleet doctor --json', '{"findings":[…],"looked":{…},"well":true}'],
    ],
    'Exits with 0 when nothing is wrong or all of it was repaired, else with 8.\nJobs that crashed too often are judged by the limits of ONCEFLEET_JOBS and --jobs.',
  );
}

async function runDoctor(context: CliContext, options: DoctorCommandOptions): Promise<void> {
  const terminal = terminalOf(context, options);
  using interrupt = listenForInterrupt();
  const progress = new Progress(terminal, 'Looking');
  const diagnosis = await withFleet(context, { jobs: options.jobs, needsJobs: true }, (fleet) =>
    fleet.doctor({
      fix: options.fix === true,
      signal: interrupt.signal,
      onProgress: (state) => progress.update(state),
    }),
  ).catch((error: unknown) => {
    if (interrupt.by === undefined) throw error;
    throw new CommandInterruptedError(interrupt.by, 'Interrupted; what was repaired until then stays repaired.');
  });
  progress.finish();
  if (!diagnosis.well) context.exitCode = 8;
  if (terminal.json) return terminal.jsonLine(JSON.stringify(diagnosis));
  for (const finding of diagnosis.findings) await terminal.lines(formatFinding(finding, terminal));
  await terminal.line(formatSummary(diagnosis, options.fix === true));
}

function formatFinding(finding: Finding, terminal: Pick<Terminal, 'style'>): string[] {
  const { kind, message, remedy, count, repaired, jobs } = finding;
  const isRepaired = count > 0 && repaired === count;
  return [
    `${terminal.style(isRepaired ? 'green' : 'red', isRepaired ? 'repaired' : 'wrong   ')} ${terminal.style('bold', kind)}`,
    `  ${message}`,
    ...jobs
      .slice(0, MAX_LISTED)
      .map(({ id, queue, row, bullmq }) => terminal.style('dim', `    ${id}  ${queue}  ${describe(row, bullmq)}`)),
    ...(count > MAX_LISTED ? [terminal.style('dim', `    … and ${count - MAX_LISTED} more`)] : []),
    `  ${remedy}`,
    '',
  ];
}

function describe(row: string | null, bullmq: string | null): string {
  return `Postgres: ${row ?? 'no row'}${bullmq === null ? '' : `, BullMQ: ${bullmq}`}`;
}

function formatSummary({ findings, looked, well }: Diagnosis, fixed: boolean): string {
  const counts = `${counted(looked.rows, 'unfinished row')}, ${counted(looked.bullmqJobs, 'BullMQ job')} and ${counted(looked.streams, 'stream')} looked at`;
  if (findings.length === 0) return `All is well: ${counts}.`;
  if (well) return `All is well now: ${counts}.`;
  const repairable = findings.some((finding) => finding.count > finding.repaired);
  return `${counts}.${repairable && !fixed ? ' `oncefleet doctor --fix` repairs what has to do with jobs.' : ''}`;
}
