/** The command line as a whole. Builds it and runs it; `main.ts` connects it to the process. */
import { Command } from 'commander';
import { askCommand } from './ask.ts';
import { cancelCommand } from './cancel.ts';
import { collectionsCommand } from './collections.ts';
import type { CliContext } from './context.ts';
import { devCommand } from './dev.ts';
import { doctorCommand } from './doctor.ts';
import { enqueueCommand } from './enqueue.ts';
import { evalCommand } from './eval.ts';
import { formatExitCodes } from './exit-codes.ts';
import { followCommand } from './follow.ts';
import { ingestCommand } from './ingest.ts';
import { limitsCommand } from './limits.ts';
import { migrateCommand } from './migrate.ts';
import { redriveCommand } from './redrive.ts';
import { retentionCommand } from './retention.ts';
import { schedulesCommand } from './schedules.ts';
import { statusCommand } from './status.ts';
import { sweepCommand } from './sweep.ts';
import { say } from './terminal.ts';
import { tokenCommand } from './token.ts';
import { webCommand } from './web.ts';
import { workCommand } from './work.ts';

const HELP = `
A first look, with Postgres and Redis at hand (DATABASE_URL, REDIS_URL):
  oncefleet migrate                                   make the tables
  oncefleet dev                                       API, Bull Board and a worker, until Ctrl-C
  oncefleet ingest docs/ --collection docs            in another terminal: documents in
  oncefleet ask "How do I …?" --collection docs       and an answer out
  oncefleet status                                    what jobs there are

Settings come from the environment and from .env in the working directory; the
environment wins. Beside \`npm run dev\` its servers are found without any.
docs/reference/cli.md describes every command.

Exit codes:
${formatExitCodes()}`;

export function createProgram(context: CliContext, version: string): Command {
  const program = new Command('oncefleet')
    .description('Runs BullMQ jobs once each and streams what they do.')
    .version(version)
    .addHelpText('after', HELP)
    // The process is ended in one place, and errors are reported in one way.
    .exitOverride()
    .configureOutput({
      writeOut: (text) => say(context.stdout, { text }),
      writeErr: (text) => say(context.stderr, { text }),
      outputError: () => {},
    });
  const commands = [
    devCommand,
    webCommand,
    workCommand,
    migrateCommand,
    enqueueCommand,
    ingestCommand,
    askCommand,
    evalCommand,
    collectionsCommand,
    followCommand,
    statusCommand,
    cancelCommand,
    redriveCommand,
    schedulesCommand,
    sweepCommand,
    retentionCommand,
    limitsCommand,
    tokenCommand,
    doctorCommand,
  ];
  for (const create of commands) {
    const command = create(context).copyInheritedSettings(program);
    // Their own were copied before this one had any.
    for (const child of command.commands) child.copyInheritedSettings(program);
    program.addCommand(command);
  }
  return program;
}
