/** Bench processes: each case runs in one of its own, asked over IPC. They end with their parent. */
import { type ChildProcess, fork } from 'node:child_process';

/** What a bench process answers to. */
export type Commands = Record<string, (argument: never) => unknown>;

type Argument<F> = F extends (argument: infer A) => unknown ? A : never;
type Answer<F> = F extends (...rest: never[]) => infer R ? Awaited<R> : never;

interface Request {
  id: number;
  command: string;
  argument: unknown;
}

type Response = { id: number; value: unknown } | { id: number; error: string };

/** Typed by the commands its file serves. */
export class BenchProcess<C extends Commands> {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, PromiseWithResolvers<unknown>>();
  readonly #ended: Promise<void>;
  #requests = 0;

  /** @param file an absolute path; its module calls `serve` */
  constructor(file: string, { exposeGc = false }: { exposeGc?: boolean } = {}) {
    this.#child = fork(file, {
      execArgv: exposeGc ? ['--expose-gc'] : [],
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      serialization: 'advanced',
    });
    this.#child.on('message', (response: Response) => {
      const waiting = this.#waiting.get(response.id);
      this.#waiting.delete(response.id);
      if ('error' in response) waiting?.reject(new Error(response.error));
      else waiting?.resolve(response.value);
    });
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#ended = promise;
    const onEnd = (why: string) => {
      for (const waiting of this.#waiting.values()) waiting.reject(new Error(`A bench process ended: ${why}`));
      this.#waiting.clear();
      resolve();
    };
    this.#child.once('error', (error) => onEnd(error.message));
    this.#child.once('exit', (code, signal) => onEnd(`${code ?? signal}`));
  }

  /** @throws Error what the command threw, or the process has ended */
  call<K extends keyof C & string>(command: K, argument: Argument<C[K]>): Promise<Answer<C[K]>> {
    const id = this.#requests++;
    const waiting = Promise.withResolvers<unknown>();
    this.#waiting.set(id, waiting);
    this.#child.send({ id, command, argument } satisfies Request, (error) => {
      if (error === null) return;
      this.#waiting.delete(id);
      waiting.reject(error);
    });
    return waiting.promise as Promise<Answer<C[K]>>;
  }

  /** Ends it, whatever it does. Works twice. */
  async stop(): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) this.#child.kill('SIGKILL');
    await this.#ended;
  }
}

/** Answers the parent's calls, for as long as there is a parent. */
export function serve(commands: Commands): void {
  process.on('message', ({ id, command, argument }: Request) => {
    const answer = async () => (commands[command] as (argument: unknown) => unknown)(argument);
    answer().then(
      (value) => process.send?.({ id, value } satisfies Response),
      (error: Error) => process.send?.({ id, error: error.stack ?? String(error) } satisfies Response),
    );
  });
  // Ctrl-C reaches every process of the terminal; the parent decides what ends.
  process.on('SIGINT', () => {});
  process.on('disconnect', () => process.exit(1));
}
