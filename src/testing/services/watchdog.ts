/**
 * Outlives the process that started it by the moment it takes to end that process's servers.
 *
 * Reads one JSON command a line from standard input, which only the starter holds open:
 * `{"watch":{pid,signal,graceMs,group}}`, `{"forget":pid}`, `{"remove":folder}`, `{"keep":folder}`.
 * `{"drop":{serverUrl,database}}` or `{"drop":{redisUrl,prefix}}`, `{"dropped":{kind,name}}`.
 * `{"unlink":{file,content,until}}`, `{"unlinked":file}`.
 * When the input ends, however the starter ended (also by SIGKILL), every process that is still
 * watched is sent its signal, killed after its grace, and folders, databases and keys are removed.
 */
import { readFileSync, unlinkSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

interface Command {
  watch?: Watched;
  forget?: number;
  remove?: string;
  keep?: string;
  drop?: { serverUrl: string; database: string } | { redisUrl: string; prefix: string };
  unlink?: Unlinked;
  unlinked?: string;
  dropped?: { kind: 'database' | 'keys'; name: string };
}

interface Watched {
  pid: number;
  signal: NodeJS.Signals;
  graceMs: number;
  group: number;
}

/** A file that is removed if it says `content`, after the end of process `until`. */
interface Unlinked {
  file: string;
  content: string;
  until?: number;
}

const POLL_MS = 25;
/** Longer than anybody installs a package. */
const UNTIL_LIMIT_MS = 300_000;
/** The starter no longer waits for a drain. */
const LONGEST_GRACE_MS = 5_000;

/** By pid; a Map keeps the order in which they were started. */
const processes = new Map<number, Watched>();
const folders = new Set<string>();
const files = new Map<string, Unlinked>();
const databases = new Map<string, string>();
const prefixes = new Map<string, string>();

// A signal to the starter's process group or terminal is meant for the starter; this process follows by itself.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGPIPE']) process.on(signal, () => {});

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line) as Command;
  if (command.watch !== undefined) processes.set(command.watch.pid, command.watch);
  else if (command.forget !== undefined) processes.delete(command.forget);
  else if (command.remove !== undefined) folders.add(command.remove);
  else if (command.keep !== undefined) folders.delete(command.keep);
  else if (command.unlink !== undefined) files.set(command.unlink.file, command.unlink);
  else if (command.unlinked !== undefined) files.delete(command.unlinked);
  else if (command.drop !== undefined) {
    if ('database' in command.drop) databases.set(command.drop.database, command.drop.serverUrl);
    else prefixes.set(command.drop.prefix, command.drop.redisUrl);
  } else if (command.dropped !== undefined)
    (command.dropped.kind === 'database' ? databases : prefixes).delete(command.dropped.name);
}

// The later group first: workers before the servers they write to.
const groups = Map.groupBy(processes.values(), ({ group }) => group);
for (const group of [...groups.keys()].sort((a, b) => b - a)) await Promise.all((groups.get(group) ?? []).map(end));
// Loaded only where they are needed: most runs have servers of their own.
if (databases.size > 0) {
  const { dropDatabase } = await import('./databases.ts');
  for (const [database, serverUrl] of databases) await dropDatabase(serverUrl, database).catch(() => undefined);
}
if (prefixes.size > 0) {
  const { removeKeys } = await import('./keys.ts');
  for (const [prefix, redisUrl] of prefixes) await removeKeys(redisUrl, prefix).catch(() => undefined);
}
for (const folder of folders) await rm(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });

await Promise.all([...files.values()].map(unlink));

async function unlink({ file, content, until }: Unlinked): Promise<void> {
  const deadline = Date.now() + UNTIL_LIMIT_MS;
  while (until !== undefined && isAlive(until) && Date.now() < deadline) await sleep(POLL_MS);
  try {
    if (readFileSync(file, 'utf8') === content) unlinkSync(file);
  } catch {
    // Gone already.
  }
}

async function end({ pid, signal, graceMs }: Watched): Promise<void> {
  send(pid, signal);
  const deadline = Date.now() + Math.min(graceMs, LONGEST_GRACE_MS);
  while (isAlive(pid) && Date.now() < deadline) await sleep(POLL_MS);
  if (isAlive(pid)) send(pid, 'SIGKILL');
}

function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // Gone already.
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
  try {
    // Ended, but its new parent has not read how: some containers' first process never does.
    return !/^\d+ \(.*\) [ZX] /s.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return true;
  }
}
