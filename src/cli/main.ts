/** The process entry point of the command line. */
import { readFile } from 'node:fs/promises';
import { CommanderError } from 'commander';
import { type CliContext, wantsDebug } from './context.ts';
import type { ExitCode } from './exit-codes.ts';
import { createProgram } from './program.ts';
import { reportError } from './report.ts';

/** What commander throws after it has printed what was asked for. */
const PRINTED: ReadonlySet<string> = new Set(['commander.helpDisplayed', 'commander.version']);

const context: CliContext = {
  env: process.env,
  cwd: process.cwd(),
  stdin: process.stdin,
  stdout: process.stdout,
  stderr: process.stderr,
  exitCode: 0,
};

// Without listeners a reader that went away would end the process with a stack trace.
process.stdout.on('error', () => process.exit(141));
process.stderr.on('error', () => {});

const code = await run(process.argv.slice(2));
// A pipe takes what is written later than we write it; exit() would throw the rest away.
await Promise.all([drain(process.stdout), drain(process.stderr)]);
process.exit(code);

async function run(args: string[]): Promise<ExitCode> {
  const json = args.slice(0, args.includes('--') ? args.indexOf('--') : undefined).includes('--json');
  try {
    const program = createProgram(context, await packageVersion());
    if (args.length === 0) {
      program.outputHelp({ error: true });
      return 2;
    }
    await program.parseAsync(args, { from: 'user' });
    return context.exitCode;
  } catch (error) {
    if (error instanceof CommanderError && PRINTED.has(error.code)) return 0;
    // Help that commander gives unasked (no subcommand) has said it all.
    if (error instanceof CommanderError && error.code === 'commander.help') return 2;
    return reportError(error, { stderr: context.stderr, json, debug: wantsDebug(context.env) });
  }
}

function drain(stream: NodeJS.WriteStream): Promise<void> {
  return new Promise((resolve) => {
    if (stream.destroyed || stream.writableEnded) resolve();
    else stream.write('', () => resolve());
  });
}

/** package.json is two folders up from src/cli, three from dist/src/cli. */
async function packageVersion(): Promise<string> {
  for (const up of ['../../package.json', '../../../package.json']) {
    const text = await readFile(new URL(up, import.meta.url), 'utf8').catch(() => undefined);
    if (text !== undefined) return (JSON.parse(text) as { version: string }).version;
  }
  return 'unknown';
}
