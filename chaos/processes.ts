/** The system under test: real web and worker processes, each behind proxies of its own. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ROOT } from '../scripts/root.ts';
import { Child, type Exit } from '../src/testing/services/child.ts';
import { findFreePort } from '../src/testing/services/ports.ts';
import { FaultProxy } from './proxy.ts';
import { FLEET_ENV, WORKERS } from './settings.ts';

const CLI = join(ROOT, 'src', 'cli', 'main.ts');
const JOBS = join(ROOT, 'chaos', 'jobs.ts');
const JOB_NAMES = ['effect', 'ledger', 'stream', 'block', 'throw', 'refuse', 'hang', 'poison'].map(
  (kind) => `chaos-${kind}`,
);

const RESTART_MS = 150;
const STOP_GRACE_MS = 15_000;
const READY_LIMIT_MS = 30_000;
/** Exit codes of a process that found a server away while it started; src/cli/exit-codes.ts. */
const UNAVAILABLE = 4;

/** libfaketime, where it is installed. */
export const FAKETIME = ['/usr/lib/x86_64-linux-gnu', '/usr/lib/aarch64-linux-gnu', '/usr/lib64', '/usr/lib']
  .map((folder) => `${folder}/faketime/libfaketime.so.1`)
  .find((file) => existsSync(file));

export interface Member {
  readonly name: string;
  readonly role: 'web' | 'worker';
  readonly postgres: FaultProxy;
  readonly redis: FaultProxy;
  child: Child;
  /** How wrong its clock is, in milliseconds. */
  skewMs: number;
  /** Somebody works on it: other faults leave it alone. */
  busy: boolean;
  frozen: boolean;
}

export interface FleetOptions {
  databaseUrl: string;
  redisUrl: string;
  prefix: string;
  folder: string;
  handlers: string;
  workers?: number;
  env?: Readonly<Record<string, string>>;
  /** A process ended. `odd`: nobody asked for it, and no fault explains it. */
  onExit(member: Member, exit: Exit, odd: boolean): void;
}

export class Processes {
  readonly members: Member[] = [];
  readonly #options: FleetOptions;
  readonly #port: number;
  readonly #expected = new Set<Child>();
  #restarts = new Set<Promise<void>>();
  #stopping = false;

  private constructor(options: FleetOptions, port: number) {
    this.#options = options;
    this.#port = port;
  }

  static async start(options: FleetOptions): Promise<Processes> {
    const processes = new Processes(options, await findFreePort());
    try {
      for (let i = 0; i < (options.workers ?? WORKERS); i++)
        await processes.#add(`worker-${String.fromCharCode(97 + i)}`, 'worker');
      await processes.#add('web', 'web');
      await processes.waitUntilReady();
      return processes;
    } catch (error) {
      await processes.stop();
      throw error;
    }
  }

  get origin(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  get workers(): Member[] {
    return this.members.filter(({ role }) => role === 'worker');
  }

  /** SIGKILL, and another in its place. */
  async kill(member: Member, skewMs = member.skewMs): Promise<void> {
    member.skewMs = skewMs;
    this.#expected.add(member.child);
    member.child.kill('SIGKILL');
    await member.child.exited;
  }

  /** SIGTERM, and another in its place. @returns how it ended, unless it was still starting and listened to nobody */
  async terminate(member: Member): Promise<Exit | undefined> {
    this.#expected.add(member.child);
    const { pid } = member.child;
    const exit = await member.child.stop('SIGTERM');
    return this.#listened(member.name, pid) ? exit : undefined;
  }

  freeze(member: Member): void {
    member.frozen = true;
    member.child.kill('SIGSTOP');
  }

  thaw(member: Member): void {
    member.frozen = false;
    member.child.kill('SIGCONT');
  }

  async waitUntilReady(limitMs = READY_LIMIT_MS): Promise<void> {
    const until = performance.now() + limitMs;
    for (;;) {
      const ready = await fetch(`${this.origin}/readyz`, { signal: AbortSignal.timeout(2_000) }).then(
        async (response) => {
          await response.arrayBuffer();
          return response.status === 200;
        },
        () => false,
      );
      if (ready) return;
      if (performance.now() > until)
        throw new Error(
          `The web process was not ready after ${limitMs} ms:\n${this.members.find(({ role }) => role === 'web')?.child.tail(10)}`,
        );
      await sleep(50);
    }
  }

  /** SIGTERM to all. @returns those that did not end with 0 within their grace */
  async stop(): Promise<{ name: string; exit: Exit }[]> {
    this.#stopping = true;
    await Promise.all(this.#restarts);
    const exits = await Promise.all(
      this.members.map(async (member) => {
        this.thaw(member);
        this.#expected.add(member.child);
        return { name: member.name, exit: await member.child.stop() };
      }),
    );
    return exits.filter(({ name, exit }) => exit.code !== 0 && this.#listened(name));
  }

  async closeProxies(): Promise<void> {
    await Promise.all(this.members.flatMap(({ postgres, redis }) => [postgres.close(), redis.close()]));
  }

  /** Whether a process had come so far as to log something: it listens to signals before. */
  #listened(name: string, pid = this.members.find((member) => member.name === name)?.child.pid): boolean {
    return readFileSync(join(this.#options.folder, 'logs', `${name}.log`), 'utf8').includes(`"pid":${pid},`);
  }

  async #add(name: string, role: Member['role']): Promise<void> {
    const { databaseUrl, redisUrl } = this.#options;
    const postgres = await FaultProxy.start(addressOf(databaseUrl));
    const redis = await FaultProxy.start(addressOf(redisUrl));
    const member: Member = {
      name,
      role,
      postgres,
      redis,
      child: undefined as unknown as Child,
      skewMs: 0,
      busy: false,
      frozen: false,
    };
    this.members.push(member);
    await this.#spawn(member);
  }

  async #spawn(member: Member): Promise<void> {
    const { folder, prefix, databaseUrl, redisUrl, handlers, env } = this.#options;
    const own = Object.entries(process.env).filter(
      ([name]) => !name.startsWith('ONCEFLEET_') && !name.startsWith('OPENAI_'),
    );
    const args = member.role === 'web' ? ['web'] : ['work', ...JOB_NAMES.flatMap((name) => ['--only', name])];
    const child = await Child.start(process.execPath, ['--conditions=oncefleet-source', CLI, ...args], {
      logFile: join(folder, 'logs', `${member.name}.log`),
      // Not the clone: neither its .env nor the settings of `npm run dev` are meant.
      cwd: folder,
      env: {
        ...Object.fromEntries(own),
        ...FLEET_ENV,
        ...env,
        DATABASE_URL: through(databaseUrl, member.postgres),
        REDIS_URL: through(redisUrl, member.redis),
        ONCEFLEET_PREFIX: prefix,
        ONCEFLEET_JOBS: JOBS,
        HOST: '127.0.0.1',
        PORT: String(this.#port),
        CHAOS_HANDLERS: handlers,
        ...(member.skewMs === 0 || FAKETIME === undefined
          ? {}
          : {
              LD_PRELOAD: FAKETIME,
              FAKETIME: `${member.skewMs > 0 ? '+' : ''}${member.skewMs / 1_000}s`,
              FAKETIME_DONT_FAKE_MONOTONIC: '1',
              DONT_FAKE_MONOTONIC: '1',
            }),
      },
      stopSignal: 'SIGTERM',
      graceMs: STOP_GRACE_MS,
      group: 1,
    });
    const startedAt = performance.now();
    member.child = child;
    member.frozen = false;
    void child.exited.then((exit) => {
      const starting = performance.now() - startedAt < READY_LIMIT_MS && exit.code === UNAVAILABLE;
      const odd = !this.#expected.has(child) && exit.signal !== 'SIGKILL' && !starting;
      this.#options.onExit(member, exit, odd);
      if (this.#stopping) return;
      const restart = sleep(RESTART_MS)
        .then(() => (this.#stopping ? undefined : this.#spawn(member)))
        .finally(() => this.#restarts.delete(restart));
      this.#restarts.add(restart);
    });
  }
}

function addressOf(url: string): { host: string; port: number } {
  const { hostname, port } = new URL(url);
  return { host: hostname, port: Number(port) };
}

function through(url: string, proxy: FaultProxy): string {
  const changed = new URL(url);
  changed.hostname = '127.0.0.1';
  changed.port = String(proxy.port);
  return changed.href;
}
