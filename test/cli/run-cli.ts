/** Starts the real command line, as a person would. */
import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const BIN = fileURLToPath(new URL('../../bin/oncefleet.mjs', import.meta.url));

export interface CliOptions {
  env?: Record<string, string | undefined>;
  cwd?: string;
  /** Flags of Node. */
  flags?: readonly string[];
  /** What is started instead of bin/oncefleet.mjs. */
  script?: string;
  /** Written to standard input, which is then closed. */
  input?: string;
}

export interface CliResult {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

export class Cli {
  readonly child: ChildProcess;
  /** When it ended and all its output was read. */
  readonly ended: Promise<CliResult>;
  stdout = '';
  stderr = '';

  constructor(args: readonly string[], { env = {}, cwd, flags = [], script = BIN, input = '' }: CliOptions = {}) {
    this.child = spawn(process.execPath, [...flags, script, ...args], {
      ...(cwd === undefined ? {} : { cwd }),
      // Nothing of the test run's own environment: its DATABASE_URL would hide a missing one.
      env: {
        PATH: process.env.PATH,
        HOME: process.env.HOME,
        TERM: 'xterm-256color',
        NODE_COMPILE_CACHE: process.env.NODE_COMPILE_CACHE,
        ...env,
      },
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    this.child.stdin?.on('error', () => {});
    this.child.stdin?.end(input);
    this.child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.stdout += text;
    });
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
    });
    this.ended = new Promise((resolve, reject) => {
      this.child.on('error', reject);
      this.child.on('close', (code, signal) => resolve({ code, signal, stdout: this.stdout, stderr: this.stderr }));
    });
  }

  /** Resolves once standard output has `text`; rejects when the command ends without it. */
  async prints(text: string): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      // The end of what was looked at, as far as `text` may begin there.
      let seen = '';
      const look = (piece: string) => {
        seen += piece;
        if (seen.includes(text)) resolve();
        seen = seen.slice(Math.max(0, seen.length - text.length));
      };
      look(this.stdout);
      this.child.stdout?.on('data', look);
      void this.ended.then(({ code, stderr }) => {
        reject(new Error(`Ended with ${code} and without printing ${text}: ${stderr || this.stdout}`));
      });
    });
  }

  kill(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }
}

export function runCli(args: readonly string[], options: CliOptions = {}): Promise<CliResult> {
  return new Cli(args, options).ended;
}
