/** Child processes that end with this one, however it ends. */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, readFileSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openOwnLog } from './own-files.ts';

/** Source where this is source, built where this is built. */
const WATCHDOG = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? 'watchdog.ts' : 'watchdog.js', import.meta.url),
);

interface ChildOptions {
  /** Receives what the child writes; created, or appended to. */
  logFile: string;
  env?: NodeJS.ProcessEnv;
  cwd?: string;
  uid?: number;
  gid?: number;
  argv0?: string;
  /** Written to the child's standard input, which is then closed. */
  input?: string;
  /** Asks it to stop. */
  stopSignal: NodeJS.Signals;
  /** How long it may take to stop before it is killed. */
  graceMs: number;
  /** Higher ones are ended first when this process is gone. Default 0, for servers. */
  group?: number;
}

export interface Exit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

/** A process of its own session: a Ctrl-C on the terminal reaches the starter alone, which stops things in order. */
export class Child {
  readonly pid: number;
  readonly logFile: string;
  readonly exited: Promise<Exit>;
  readonly #process: ChildProcess;
  readonly #options: ChildOptions;
  #exit: Exit | undefined;

  private constructor(process: ChildProcess, pid: number, options: ChildOptions) {
    this.#process = process;
    this.#options = options;
    this.pid = pid;
    this.logFile = options.logFile;
    this.exited = new Promise((resolve) => {
      process.once('exit', (code, signal) => {
        watchdog.forget(pid);
        this.#exit = { code, signal };
        resolve(this.#exit);
      });
    });
  }

  /** @throws Error the command cannot be started */
  static async start(command: string, args: readonly string[], options: ChildOptions): Promise<Child> {
    await mkdir(dirname(options.logFile), { recursive: true });
    const log = openOwnLog(options.logFile);
    try {
      const child = spawn(command, args, {
        stdio: [options.input === undefined ? 'ignore' : 'pipe', log, log],
        detached: true,
        env: options.env ?? process.env,
        ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
        ...(options.uid === undefined ? {} : { uid: options.uid }),
        ...(options.gid === undefined ? {} : { gid: options.gid }),
        ...(options.argv0 === undefined ? {} : { argv0: options.argv0 }),
      });
      if (child.pid === undefined) {
        await new Promise((_, reject) => child.once('error', reject));
        throw new Error(`${command} did not start`);
      }
      watchdog.watch(child.pid, options);
      const started = new Child(child, child.pid, options);
      child.stdin?.on('error', () => {
        // It ended before it read its input; `exited` says so.
      });
      child.stdin?.end(options.input);
      return started;
    } finally {
      closeSync(log);
    }
  }

  /** How it ended; `undefined` while it runs. */
  get exit(): Exit | undefined {
    return this.#exit;
  }

  kill(signal: NodeJS.Signals): void {
    if (this.#exit === undefined) this.#process.kill(signal);
  }

  /** Asks it to stop, kills it when its grace is over. Idempotent, also concurrently and after its end. */
  async stop(signal: NodeJS.Signals = this.#options.stopSignal): Promise<Exit> {
    this.kill(signal);
    const timer = setTimeout(() => this.kill('SIGKILL'), this.#options.graceMs);
    try {
      return await this.exited;
    } finally {
      clearTimeout(timer);
    }
  }

  /** The last lines of its log. */
  tail(lines = 20): string {
    return tailOf(this.logFile, lines);
  }
}

function tailOf(file: string, lines = 20): string {
  try {
    return readFileSync(file, 'utf8').trimEnd().split('\n').slice(-lines).join('\n');
  } catch {
    return '';
  }
}

/** The one watchdog of this process; started with the first thing it has to watch. */
class Watchdog {
  #process: ChildProcess | undefined;
  readonly #held = new Set<number | string>();

  watch(pid: number, { stopSignal, graceMs, group = 0 }: Pick<ChildOptions, 'stopSignal' | 'graceMs' | 'group'>): void {
    this.#held.add(pid);
    this.#send({ watch: { pid, signal: stopSignal, graceMs, group } });
  }

  forget(pid: number): void {
    this.#held.delete(pid);
    this.#send({ forget: pid });
    this.#endIfIdle();
  }

  /** The folder goes with this process. */
  remove(folder: string): void {
    this.#held.add(folder);
    this.#send({ remove: folder });
  }

  /** Removes the folder now. */
  async removeNow(folder: string): Promise<void> {
    await rm(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
    this.#held.delete(folder);
    this.#send({ keep: folder });
    this.#endIfIdle();
  }

  /** The file goes with this process, if it still says `content`, and not before process `until` has ended. */
  unlink(file: string, content: string, until?: number): void {
    this.#held.add(file);
    this.#send({ unlink: { file, content, ...(until === undefined ? {} : { until }) } });
  }

  /** It is gone already. */
  unlinked(file: string): void {
    this.#held.delete(file);
    this.#send({ unlinked: file });
    this.#endIfIdle();
  }

  /** What was made on a server that others own goes with this process. */
  drop(made: { serverUrl: string; database: string } | { redisUrl: string; prefix: string }): void {
    this.#held.add('database' in made ? `database ${made.database}` : `keys ${made.prefix}`);
    this.#send({ drop: made });
  }

  /** It is gone already. @param name of the database or prefix */
  dropped(kind: 'database' | 'keys', name: string): void {
    this.#held.delete(`${kind} ${name}`);
    this.#send({ dropped: { kind, name } });
    this.#endIfIdle();
  }

  #send(command: object): void {
    this.#process ??= this.#start();
    this.#process.stdin?.write(`${JSON.stringify(command)}\n`);
  }

  #start(): ChildProcess {
    const child = spawn(process.execPath, [WATCHDOG], {
      stdio: ['pipe', 'ignore', 'ignore'],
      detached: true,
      cwd: '/',
      env: {},
    });
    child.on('error', () => {});
    child.stdin?.on('error', () => {});
    child.on('exit', () => {
      if (this.#process === child) this.#process = undefined;
    });
    // It must not keep this process alive.
    child.unref();
    (child.stdin as unknown as { unref(): void }).unref();
    return child;
  }

  #endIfIdle(): void {
    if (this.#held.size > 0) return;
    this.#process?.stdin?.end();
    this.#process = undefined;
  }
}

export const watchdog = new Watchdog();
