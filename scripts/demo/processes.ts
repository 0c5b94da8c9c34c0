/** The system as it is deployed: one web process and some workers, as processes of their own. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Child, type Exit } from '../../src/testing/services/child.ts';
import { findFreePort } from '../../src/testing/services/ports.ts';
import { ROOT } from '../root.ts';
import { type Api, createApi } from './api.ts';

const MAIN = join(ROOT, 'src', 'cli', 'main.ts');
const LOOPBACK = '127.0.0.1';
const PORT_TRIES = 3;
/** What they may take to drain, on top of ONCEFLEET_SHUTDOWN_MS, before they are killed. */
const STOP_GRACE_MS = 12_000;
const READY_POLL_MS = 50;

export interface ProcessesOptions {
  /** What every process gets, on top of the caller's environment. */
  env: Readonly<Record<string, string>>;
  /** Where logs go. */
  folder: string;
  workers: number;
  /** Address and port of the web process; by default a free port on 127.0.0.1. */
  host?: string | undefined;
  port?: number | undefined;
  signal: AbortSignal;
  /** A process ended by itself. Without it, `broken` rejects. */
  onEnd?(member: Member, exit: Exit): void;
}

export interface Member {
  /** `web`, `worker A`, … */
  readonly name: string;
  child: Child;
}

export interface Processes {
  readonly api: Api;
  readonly web: Member;
  readonly workers: readonly Member[];
  /** Rejects when one of them ends by itself. */
  readonly broken: Promise<never>;
  /** SIGKILL, on purpose. */
  kill(member: Member): Promise<void>;
  /** Starts another in the place of one that ended. */
  replace(member: Member): Promise<void>;
  /** Drains and ends all of them. Works twice. @returns those that did not end with 0 */
  stop(): Promise<Member[]>;
}

/** Runs one command of the CLI to its end. @throws Error with the end of what it said */
export async function runCommand(
  args: readonly string[],
  options: Pick<ProcessesOptions, 'env' | 'folder' | 'signal'>,
): Promise<void> {
  options.signal.throwIfAborted();
  const child = await start(args, `${args[0]}`, options);
  const stop = () => void child.stop();
  options.signal.addEventListener('abort', stop, { once: true });
  const { code, signal } = await child.exited;
  options.signal.removeEventListener('abort', stop);
  if (code !== 0) throw new Error(`oncefleet ${args.join(' ')} ended with ${code ?? signal}:\n${child.tail(10)}`);
}

/** Starts all of them and waits until the web process is ready. */
export async function startProcesses(options: ProcessesOptions): Promise<Processes> {
  const broken = Promise.withResolvers<never>();
  broken.promise.catch(() => {});
  const members: Member[] = [];
  const expected = new Set<Child>();

  const watch = (member: Member) => {
    const { name, child } = member;
    void child.exited.then((exit) => {
      if (expected.has(child)) return;
      if (options.onEnd !== undefined) options.onEnd(member, exit);
      else broken.reject(new Error(`The ${name} process ended by itself (${exit.code ?? exit.signal})`));
    });
  };
  const add = (name: string, child: Child): Member => {
    const member = { name, child };
    members.push(member);
    watch(member);
    return member;
  };
  let stopping = false;
  const stop = async () => {
    stopping = true;
    for (const { child } of members) expected.add(child);
    const exits = await Promise.all(members.map(async (member) => ({ member, ...(await member.child.stop()) })));
    return exits.filter(({ code, signal }) => code !== 0 && signal !== 'SIGKILL').map(({ member }) => member);
  };

  try {
    options.signal.throwIfAborted();
    const workers = await Promise.all(
      Array.from({ length: options.workers }, async (_, i) => {
        const name = `worker ${String.fromCharCode(65 + i)}`;
        return add(name, await startWorker(name, options));
      }),
    );
    const { api, child } = await startWeb(options);
    const web = add('web', child);
    return {
      api,
      web,
      workers,
      broken: broken.promise,
      async kill(member) {
        expected.add(member.child);
        member.child.kill('SIGKILL');
        await member.child.exited;
      },
      async replace(member) {
        member.child =
          member === web ? await startWebOn(portOf(api), options) : await startWorker(member.name, options);
        if (stopping) await member.child.stop();
        else watch(member);
      },
      stop,
    };
  } catch (error) {
    const logs = members
      .filter(({ child }) => child.exit !== undefined)
      .map(({ name, child }) => `\n${name}:\n${child.tail(10)}`);
    await stop();
    throw new Error(`${(error as Error).message}${logs.join('')}`, { cause: error });
  }
}

function startWorker(name: string, options: ProcessesOptions): Promise<Child> {
  return start(['work'], name.replace(' ', '-').toLowerCase(), options);
}

async function startWeb(options: ProcessesOptions): Promise<{ api: Api; child: Child }> {
  for (let attempt = 1; ; attempt++) {
    const port = options.port ?? (await findFreePort());
    const api = createApi(originOf(options.host ?? LOOPBACK, port));
    const child = await startWebOn(port, options);
    try {
      while (child.exit === undefined) {
        options.signal.throwIfAborted();
        if (await api.isReady(AbortSignal.any([options.signal, AbortSignal.timeout(2_000)])).catch(() => false))
          return { api, child };
        await sleep(READY_POLL_MS);
      }
    } catch (error) {
      await child.stop('SIGKILL');
      throw error;
    }
    const said = child.tail(10);
    // Somebody may have taken the port in between.
    if (options.port === undefined && attempt < PORT_TRIES && said.includes('EADDRINUSE')) continue;
    throw new Error(`The web process ended at once:\n${said}`);
  }
}

function startWebOn(port: number, options: ProcessesOptions): Promise<Child> {
  return start(['web'], 'web', {
    ...options,
    env: { ...options.env, PORT: String(port), HOST: options.host ?? LOOPBACK },
  });
}

function portOf(api: Api): number {
  return Number(new URL(api.origin).port || 80);
}

function originOf(host: string, port: number): string {
  if (host === '0.0.0.0' || host === '::') return `http://${LOOPBACK}:${port}`;
  return `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
}

/** Not through bin/oncefleet.mjs: it may put a process in between, and the demo means to kill the worker itself. */
function start(
  args: readonly string[],
  log: string,
  options: Pick<ProcessesOptions, 'env' | 'folder'>,
): Promise<Child> {
  return Child.start(process.execPath, [...process.execArgv, '--conditions=oncefleet-source', MAIN, ...args], {
    logFile: join(options.folder, 'logs', `${log}.log`),
    cwd: ROOT,
    env: { ...process.env, ...options.env },
    stopSignal: 'SIGTERM',
    group: 1,
    graceMs: Number(options.env.ONCEFLEET_SHUTDOWN_MS ?? 0) + STOP_GRACE_MS,
  });
}
