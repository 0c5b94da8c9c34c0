/** A private Redis (or Valkey) from the machine's own package. */
import { spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { OncefleetError } from '../../errors.ts';
import { forbidServices, removeStalePolicy } from './apt-policy.ts';
import { Child } from './child.ts';
import { giveFolder } from './own-files.ts';
import { canReach, findOnPath, type Identity } from './place.ts';
import { findFreePort } from './ports.ts';

const START_LIMIT_MS = 20_000;
const STOP_GRACE_MS = 5_000;
const PORT_TRIES = 5;
const INSTALL_LIMIT_MS = 300_000;
const OLDEST: readonly [number, number] = [6, 2];

interface RedisOptions {
  /** Holds its log, and `redis/`, which belongs to `identity`: its data when `lasting`. */
  folder: string;
  identity: Identity | undefined;
  /** Keep data between runs (append-only file). */
  lasting?: boolean;
  /** As a node of a Cluster, which other nodes can meet on its bus port. All its nodes have one password. */
  cluster?: { busPort: number; password: string };
  /** More lines of its configuration. */
  config?: readonly string[];
  /** Default: a random one. */
  password?: string;
  /** As root on Debian and its kin, install what is missing. */
  install: boolean;
  /** Called with a message before anything is installed. */
  say(line: string): void;
}

/** One Redis on one port; it can be killed and started again for tests of outages. */
export class PrivateRedis {
  readonly #program: string;
  readonly #options: RedisOptions;
  readonly #password: string;
  #port = 0;
  #child: Child | undefined;

  private constructor(program: string, options: RedisOptions) {
    this.#program = program;
    this.#options = options;
    this.#password = options.cluster?.password ?? options.password ?? randomBytes(18).toString('base64url');
  }

  /** @throws OncefleetError SERVICE_MISSING: not installed (with the commands that install it), or does not start */
  static async start(options: RedisOptions): Promise<PrivateRedis> {
    const redis = new PrivateRedis(await findProgram(options), options);
    for (let attempt = 1; ; attempt++) {
      redis.#port = await findFreePort();
      try {
        await redis.start();
        return redis;
      } catch (error) {
        if (
          attempt === PORT_TRIES ||
          !/Address already in use|Could not create server TCP/i.test(redis.#child?.tail(10) ?? '')
        )
          throw error;
      }
    }
  }

  get url(): string {
    return `redis://:${this.#password}@127.0.0.1:${this.#port}`;
  }

  get pid(): number | undefined {
    return this.#child?.exit === undefined ? this.#child?.pid : undefined;
  }

  get logFile(): string {
    return join(this.#options.folder, 'redis.log');
  }

  /** Starts it again on its port; empty, unless its data is lasting. */
  async start(): Promise<void> {
    const { folder, lasting, cluster, config: more = [] } = this.#options;
    // The servers' user where it can run the program; else as ourselves.
    const identity = canReach(this.#options.identity, this.#program, 'execute') ? this.#options.identity : undefined;
    const data = join(folder, 'redis');
    await giveFolder(data, identity);
    const config = [
      'bind 127.0.0.1',
      `port ${this.#port}`,
      `requirepass ${this.#password}`,
      `dir "${data.replace(/["\\]/g, '\\$&')}"`,
      'daemonize no',
      // BullMQ's keys must never be evicted.
      'maxmemory-policy noeviction',
      'save ""',
      `appendonly ${lasting === true ? 'yes' : 'no'}`,
      ...(cluster === undefined
        ? ['databases 16']
        : [
            'cluster-enabled yes',
            `cluster-port ${cluster.busPort}`,
            'cluster-announce-ip 127.0.0.1',
            'cluster-node-timeout 2000',
          ]),
      ...more,
    ];
    this.#child = await Child.start(this.#program, ['-'], {
      logFile: this.logFile,
      cwd: data,
      env: { PATH: process.env.PATH ?? '', LC_ALL: 'C' },
      // On standard input, because arguments are visible to every user of the machine.
      input: `${config.join('\n')}\n`,
      stopSignal: 'SIGTERM',
      graceMs: STOP_GRACE_MS,
      ...(identity === undefined ? {} : { uid: identity.uid, gid: identity.gid }),
    });
    await this.#waitUntilReady(this.#child);
  }

  /** `SIGKILL`: as in a crash. Idempotent. */
  async stop(signal?: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    await this.#child?.stop(signal);
  }

  async #waitUntilReady(child: Child): Promise<void> {
    const deadline = Date.now() + START_LIMIT_MS;
    while (Date.now() < deadline && child.exit === undefined) {
      // Its own password: another server on the port would refuse it.
      if (await answers(this.#port, this.#password)) return;
      await Promise.race([sleep(20), child.exited]);
    }
    const why = child.exit === undefined ? `was not ready after ${START_LIMIT_MS / 1_000} s` : 'ended at once';
    await child.stop('SIGKILL');
    throw new OncefleetError(
      'SERVICE_MISSING',
      `The private Redis (${this.#program}) ${why}. The end of its log:\n${child.tail(10)}`,
    );
  }
}

function answers(port: number, password: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1' });
    let reply = '';
    socket.setTimeout(1_000, () => socket.destroy());
    socket.once('error', () => {});
    socket.once('close', () => resolve(false));
    socket.on('data', (chunk) => {
      reply += chunk;
      if (reply.includes('+PONG')) {
        resolve(true);
        socket.destroy();
      } else if (/^-/m.test(reply)) socket.destroy();
    });
    socket.write(`AUTH ${password}\r\nPING\r\n`);
  });
}

async function findProgram(options: RedisOptions): Promise<string> {
  // Also where Redis is there by now: the process that installed it may have been killed.
  if (options.install) removeStalePolicy();
  const program =
    findOnPath('redis-server', 'valkey-server') ?? (options.install ? await installWithApt(options.say) : undefined);
  if (program === undefined) throw new OncefleetError('SERVICE_MISSING', missingRedis('Redis is not installed.'));
  const version = spawnSync(program, ['--version'], { encoding: 'utf8', timeout: 10_000 }).stdout ?? '';
  const [, major, minor] = /v=(\d+)\.(\d+)/.exec(version) ?? [];
  if (major !== undefined && (Number(major) - OLDEST[0] || Number(minor) - OLDEST[1]) < 0) {
    throw new OncefleetError(
      'SERVICE_MISSING',
      missingRedis(`${program} is version ${major}.${minor}; ${OLDEST.join('.')} or newer is needed.`),
    );
  }
  return program;
}

function missingRedis(why: string): string {
  return [
    `${why} Install it with one of these, and run the command again:`,
    '  Debian, Ubuntu    sudo apt-get install -y --no-install-recommends redis-server',
    '  Fedora, RHEL      sudo dnf install -y valkey',
    '  macOS             brew install redis',
    '  Docker            docker run --rm -d -p 127.0.0.1:6379:6379 redis:7 && export REDIS_URL=redis://127.0.0.1:6379',
    'A Redis or Valkey that runs already is used when REDIS_URL names it.',
  ].join('\n');
}

/** @returns its path; `undefined` where apt-get is not the way, or fails */
async function installWithApt(say: (line: string) => void): Promise<string | undefined> {
  const apt = findOnPath('apt-get');
  if (process.getuid?.() !== 0 || apt === undefined || !existsSync('/etc/debian_version')) return undefined;
  say('Redis is not installed: installing the redis-server package with apt-get (no service is started)');
  // The package would start a server on port 6379.
  const policy = await forbidServices();
  try {
    const lock = ['-o', 'DPkg::Lock::Timeout=120'];
    const update = await runApt(apt, [...lock, 'update'], policy);
    const install = await runApt(apt, [...lock, 'install', '-y', '--no-install-recommends', 'redis-server'], policy);
    if (install.code !== 0) {
      const said = `${update.code === 0 ? '' : update.said}${install.said}`.trimEnd().split('\n').slice(-10);
      say(`apt-get failed. The end of what it said:\n${said.join('\n')}`);
    }
  } finally {
    policy.release();
  }
  return findOnPath('redis-server');
}

async function runApt(
  apt: string,
  args: readonly string[],
  policy: { whileRuns(pid: number): void },
): Promise<{ code: number | null; said: string }> {
  const child = spawn(apt, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
    timeout: INSTALL_LIMIT_MS,
  });
  if (child.pid !== undefined) policy.whileRuns(child.pid);
  let said = '';
  child.stdout.on('data', (chunk) => {
    said += chunk;
  });
  child.stderr.on('data', (chunk) => {
    said += chunk;
  });
  return new Promise((resolve) => {
    child.once('error', (error) => resolve({ code: 1, said: `${said}${error.message}\n` }));
    child.once('close', (code) => resolve({ code, said }));
  });
}
