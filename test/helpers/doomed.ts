/** Starts processes that kill, freeze or block themselves at a crash point (crash-process.ts). */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type Kysely, sql } from 'kysely';
import { expect, onTestFinished } from 'vitest';
import { FaultProxy } from '../../chaos/proxy.ts';
import type { Database } from '../../src/db/schema.ts';
import type { CrashProcessOptions, Order, Word } from './crash-process.ts';
import { claimOne, expireLease, rowOf } from './fixtures.ts';
import { testRedisUrl } from './services.ts';

const PROCESS = fileURLToPath(new URL('./crash-process.ts', import.meta.url));

/** The default: BullMQ brings the job of a process that is dead back within seconds. */
export const SHORT_LEASE = { leaseTtlMs: 3_000, heartbeatMs: 300 };

/** For what must not depend on a lease's end. */
export const LONG_LEASE = { leaseTtlMs: 60_000, heartbeatMs: 20_000 };

const WAIT = { interval: 20 };

export interface Doomed {
  child: ChildProcess;
  /** Messages of its log, warnings and worse. */
  log: readonly string[];
  /** What its handlers told. */
  words: readonly string[];
  order(order: Order): void;
  /** Resolves when its log has had this message. */
  said(message: string): Promise<void>;
  /** Resolves when a handler has told this. */
  told(word: string): Promise<void>;
  /** Resolves when what it had published has reached Redis. */
  ping(): Promise<void>;
  /** Resolves when it has killed itself. */
  dead(): Promise<void>;
  /** Resolves when it has frozen itself. */
  stopped(): Promise<void>;
  wake(): void;
  /** Ends it as a worker is ended, and resolves when all its deliveries have had their answer. */
  end(): Promise<void>;
  /** Resolves when it has ended so, told by somebody else. */
  ended(): Promise<void>;
}

export async function startDoomed(
  options: Partial<CrashProcessOptions> & { databaseUrl: string; prefix: string },
): Promise<Doomed> {
  const argument: CrashProcessOptions = {
    redisUrl: testRedisUrl(),
    ...SHORT_LEASE,
    point: undefined,
    signal: 'SIGKILL',
    role: 'worker',
    reconcileMs: 200,
    skip: 0,
    ...options,
  };
  const child = fork(PROCESS, [JSON.stringify(argument)], {
    execArgv: ['--conditions=oncefleet-source'],
    stdio: [argument.signal === 'BLOCK' ? 'pipe' : 'ignore', 'inherit', 'inherit', 'ipc'],
  });
  const gone = once(child, 'exit') as Promise<[number | null, NodeJS.Signals | null]>;
  onTestFinished(async () => {
    child.kill('SIGKILL');
    await gone;
  });
  const log: string[] = [];
  const words: string[] = [];
  let pongs = 0;
  const ready = Promise.withResolvers<void>();
  child.on('message', (word: Word) => {
    if ('log' in word) log.push(word.log);
    else if ('said' in word) words.push(word.said);
    else if ('pong' in word) pongs++;
    else ready.resolve();
  });
  const ended = async () => expect((await gone)[0]).toBe(0);
  // A reconciler may be dead before it is ready.
  await Promise.race([ready.promise, gone]);
  return {
    child,
    log,
    words,
    order: (order) => void child.send(order),
    said: (message) => expect.poll(() => log, WAIT).toContain(message),
    told: (word) => expect.poll(() => words, WAIT).toContain(word),
    async ping() {
      const before = pongs;
      child.send({ type: 'ping' } satisfies Order);
      await expect.poll(() => pongs, WAIT).toBe(before + 1);
    },
    async dead() {
      expect((await gone)[1]).toBe('SIGKILL');
    },
    stopped: () => expect.poll(() => isStopped(child), WAIT).toBe(true),
    wake: () => void child.kill('SIGCONT'),
    async end() {
      child.kill('SIGTERM');
      await ended();
    },
    ended,
  };
}

/** Whether the kernel has stopped the process. */
function isStopped(child: ChildProcess): boolean {
  return /^\d+ \(.*\) [Tt] /s.test(readFileSync(`/proc/${child.pid}/stat`, 'utf8'));
}

/** Another worker claims the job, and does nothing with it yet. @returns the row as it is then */
export async function takeOver(db: Kysely<Database>, id: string) {
  await expireLease(db, id);
  const answer = await claimOne(db, id, { owner: 'successor', maxCrashes: 5 });
  expect(answer.decision).toBe('claimed');
  return rowOf(db, id);
}

/** A proxy before a server, and the URL through it. */
export async function proxied(url: string): Promise<{ proxy: FaultProxy; url: string }> {
  const target = new URL(url);
  const proxy = await FaultProxy.start({ host: target.hostname, port: Number(target.port) });
  onTestFinished(() => proxy.close());
  target.host = `127.0.0.1:${proxy.port}`;
  return { proxy, url: target.href };
}

/** As the reconciler's own. */
const RECONCILER_LOCK = 0x6f6e6365;

/** Holds the reconciler's lock, so that what happens is the delivery's doing. */
export async function withoutReconcilers<T>(db: Kysely<Database>, run: () => Promise<T>): Promise<T> {
  return db.transaction().execute(async (trx) => {
    await sql`select pg_advisory_xact_lock(${RECONCILER_LOCK})`.execute(trx);
    return run();
  });
}
