/** One chaos run: starts the system, breaks it, heals it, and gathers the evidence. */
import { createReadStream, existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { ROOT } from '../scripts/root.ts';
import type { Services } from '../scripts/services.ts';
import { createDb } from '../src/db/client.ts';
import { migrate } from '../src/db/migrate.ts';
import { Child } from '../src/testing/services/child.ts';
import { createDatabase, execute, uniqueName } from '../src/testing/services/databases.ts';
import type { Evidence, Transcript } from './checker.ts';
import { CREATE_EFFECTS, countUnfinished, findConnections, findSubscriptions, readFinalState } from './final-state.ts';
import { type Entry, readHistory } from './history.ts';
import { Nemesis } from './nemesis.ts';
import type { Fault, PlannedFault } from './plan.ts';
import { Processes } from './processes.ts';
import { DATABASE_POOL_SIZE, PRODUCERS } from './settings.ts';

export interface RunOptions {
  services: Services;
  folder: string;
  seed: number;
  plan: readonly PlannedFault[];
  seconds: number;
  /** Jobs that one producer has under way at once. */
  lanes: number;
  signal: AbortSignal;
  say(line: string): void;
  progress(line: string): void;
}

export interface RunResult {
  evidence: Evidence;
  faults: ReadonlyMap<Fault, number>;
  deaths: number;
}

/** Once faults have ended, everything must have an outcome within this. */
const HEAL_LIMIT_MS = 40_000;
/** What closes late (idle pools, subscriptions of readers that left) may take this long. */
const SETTLE_LIMIT_MS = 10_000;
const PROGRESS_EVERY_MS = 10_000;
const CLIENT_GRACE_MS = 1_000;
/** Redis connections of a process: queue, publish, subscribe; and one that blocks for each queue a worker works. */
const REDIS_CONNECTIONS = { web: 3, worker: 4 } as const;

export async function runChaos(options: RunOptions): Promise<RunResult> {
  const { services, folder, seed, plan, seconds, lanes, signal, say } = options;
  const prefix = uniqueName('chaos');
  const databaseUrl = await createDatabase(services.databaseUrl, prefix);
  await prepare(databaseUrl);
  const handlers = join(folder, 'handlers.jsonl');
  const producerFiles = Array.from({ length: PRODUCERS }, (_, i) => join(folder, `producer-${i}.jsonl`));
  const followerFile = join(folder, 'follower.jsonl');
  const nemesisFile = join(folder, 'nemesis.jsonl');
  for (const file of [handlers, ...producerFiles, followerFile, nemesisFile])
    await writeFile(file, '', { mode: 0o666 });
  const oddities: string[] = [];
  let deaths = 0;

  signal.throwIfAborted();
  const processes = await Processes.start({
    databaseUrl,
    redisUrl: services.redisUrl,
    prefix,
    folder,
    handlers,
    onExit(member, exit, odd) {
      deaths++;
      if (odd)
        oddities.push(`${member.name} ended by itself with ${exit.code ?? exit.signal}:\n${member.child.tail(5)}`);
    },
  });
  const clients = new Map<string, Child>();
  const nemesis = new Nemesis({ plan, processes, services, databaseUrl, file: nemesisFile, signal, say });
  let ticker: NodeJS.Timeout | undefined;
  try {
    for (const [i, file] of producerFiles.entries())
      clients.set(
        `producer-${i}`,
        await startClient('producer', i, folder, { origin: processes.origin, file, seed, name: `p${i}`, lanes }),
      );
    clients.set(
      'follower-0',
      await startClient('follower', 0, folder, {
        origin: processes.origin,
        file: followerFile,
        producers: producerFiles,
        seed,
      }),
    );
    const startedAt = performance.now();
    ticker = setInterval(() => {
      const jobs = producerFiles
        .flatMap((file) => readHistory(file))
        .filter((entry) => entry.type === 'outcome').length;
      const struck = [...nemesis.counts.values()].reduce((sum, n) => sum + n, 0);
      options.progress(
        `${Math.round((performance.now() - startedAt) / 1_000)} s  ${jobs} jobs finished, ${struck} faults, ${deaths} processes ended`,
      );
    }, PROGRESS_EVERY_MS);
    await Promise.all([nemesis.run(), sleep(seconds * 1_000, undefined, { signal })]);

    options.progress('healing: faults are over, everything must come to its end');
    await nemesis.heal();
    await processes.waitUntilReady();
    for (const client of clients.values()) client.kill('SIGTERM');
    const healed = sleep(HEAL_LIMIT_MS, 'late' as const, { signal });
    healed.catch(() => {});
    const late = await Promise.race([Promise.all([...clients.values()].map((client) => client.exited)), healed]);
    if (late === 'late') {
      for (const [name, { exit }] of clients)
        if (exit === undefined) oddities.push(`${name} was not done ${HEAL_LIMIT_MS} ms after the last fault`);
    }
    await waitFor(async () => (await countUnfinished(databaseUrl)) === 0, signal);
    clearInterval(ticker);
    const leftovers = late === 'late' ? [] : await findLeaks(processes, services, prefix, signal);
    const state = await readFinalState(databaseUrl);
    await Promise.all([...clients.values()].map((client) => client.stop('SIGKILL')));
    const failedToEnd = await processes.stop();
    for (const { name, exit } of failedToEnd)
      oddities.push(`${name} ended with ${exit.code ?? exit.signal} after SIGTERM, with nothing wrong any more`);
    // What the proxies keep open is closed before anybody counts.
    await processes.closeProxies();
    let open: string[] = [];
    await waitFor(async () => {
      open = await findConnections(databaseUrl, services.redisUrl);
      return open.length === 0;
    }, signal);
    leftovers.push(...open.map((connection) => `a connection outlived its process: ${connection}`));
    const entries = [handlers, ...producerFiles, nemesisFile]
      .flatMap((file) => readHistory(file))
      .sort((a, b) => a.at - b.at);
    const { transcripts, lost } = await readTranscripts(followerFile);
    return {
      evidence: {
        entries: [...entries, ...lost],
        transcripts,
        state,
        leftovers,
        oddities: [...oddities, ...nemesis.problems],
      },
      faults: nemesis.counts,
      deaths,
    };
  } finally {
    clearInterval(ticker);
    await nemesis.heal();
    await Promise.all([...clients.values()].map((client) => client.stop('SIGKILL')));
    await processes.stop();
    await processes.closeProxies();
  }
}

export async function prepare(databaseUrl: string): Promise<void> {
  const db = createDb({ url: databaseUrl, maxConnections: 2, applicationName: 'chaos set-up', onError: () => {} });
  try {
    await migrate(db.kysely);
  } finally {
    await db.close();
  }
  await execute(databaseUrl, CREATE_EFFECTS);
}

async function startClient(
  role: 'producer' | 'follower',
  index: number,
  folder: string,
  options: object,
): Promise<Child> {
  return Child.start(process.execPath, [join(ROOT, 'chaos', `${role}.ts`), JSON.stringify(options)], {
    logFile: join(folder, 'logs', `${role}-${index}.txt`),
    cwd: ROOT,
    stopSignal: 'SIGKILL',
    graceMs: CLIENT_GRACE_MS,
    group: 2,
  });
}

/** Connections and subscriptions of processes that have nothing left to do. */
async function findLeaks(
  processes: Processes,
  services: Services,
  prefix: string,
  signal: AbortSignal,
): Promise<string[]> {
  let leaks: string[] = [];
  await waitFor(async () => {
    leaks = (await findSubscriptions(services.redisUrl, prefix)).map(
      (channel) => `nobody follows ${channel}, and it is subscribed`,
    );
    for (const { name, role, postgres, redis } of processes.members) {
      // One more than the pool: the lease thread's own.
      if (postgres.connections > DATABASE_POOL_SIZE + 1)
        leaks.push(`${name} has ${postgres.connections} connections to Postgres`);
      if (redis.connections > REDIS_CONNECTIONS[role])
        leaks.push(`${name} has ${redis.connections} connections to Redis`);
    }
    return leaks.length === 0;
  }, signal);
  return leaks;
}

/** Until it is so, or long enough. */
async function waitFor(isSo: () => Promise<boolean>, signal: AbortSignal): Promise<void> {
  const until = performance.now() + SETTLE_LIMIT_MS;
  while (!(await isSo()) && performance.now() < until) await sleep(250, undefined, { signal });
}

async function readTranscripts(file: string): Promise<{ transcripts: Transcript[]; lost: Entry[] }> {
  const byReader = new Map<string, Transcript>();
  const lost: Entry[] = [];
  if (!existsSync(file)) return { transcripts: [], lost };
  for await (const text of createInterface({ input: createReadStream(file) })) {
    if (text === '') continue;
    const entry = JSON.parse(text) as Entry;
    if (entry.type === 'lost') lost.push(entry);
    if (entry.type !== 'seen' && entry.type !== 'finished') continue;
    let transcript = byReader.get(entry.reader);
    if (transcript === undefined) {
      transcript = { reader: entry.reader, jobId: entry.jobId, seqs: [], jsons: [], finished: false, connections: 1 };
      byReader.set(entry.reader, transcript);
    }
    if (entry.type === 'finished') {
      transcript.finished = true;
      transcript.connections = entry.connections;
    } else {
      transcript.seqs.push(entry.seq);
      transcript.jsons.push(entry.json);
    }
  }
  return { transcripts: [...byReader.values()], lost };
}
