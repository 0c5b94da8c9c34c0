/**
 * While a package is installed no service may start: https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt
 * A policy that says 101 ("not allowed") sees to it. It is the machine's, so it must not outlive us: it goes with the
 * installation, by the watchdog where this process is ended, and by the next start where both were killed.
 */
import { lstatSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { watchdog } from './child.ts';

const APT_POLICY = '/usr/sbin/policy-rc.d';

const OURS =
  /^#!\/bin\/sh\n# Made by oncefleet \(process (\d+)\) while it installs a package, and removed afterwards\.\nexit 101\n$/;

const textOf = (pid: number) =>
  `#!/bin/sh\n# Made by oncefleet (process ${pid}) while it installs a package, and removed afterwards.\nexit 101\n`;

/** Forbids services to start until it is released. Where there is a policy already it is left as it is. */
export async function forbidServices(path = APT_POLICY): Promise<{ whileRuns(pid: number): void; release(): void }> {
  removeStalePolicy(path);
  const text = textOf(process.pid);
  await mkdir(dirname(path), { recursive: true });
  try {
    writeFileSync(path, text, { flag: 'wx', mode: 0o755 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    return { whileRuns: () => {}, release: () => {} };
  }
  watchdog.unlink(path, text);
  return {
    whileRuns: (pid) => watchdog.unlink(path, text, pid),
    release() {
      if (read(path) === text) rmSync(path, { force: true });
      watchdog.unlinked(path);
    },
  };
}

/** Removes a policy that a process of ours has left, if that process is gone; never anybody else's. */
export function removeStalePolicy(path = APT_POLICY): void {
  const pid = OURS.exec(read(path) ?? '')?.[1];
  if (pid === undefined || isAlive(Number(pid))) return;
  try {
    rmSync(path, { force: true });
  } catch {
    // Not root any more: the process that can will do it.
  }
}

function read(path: string): string | undefined {
  try {
    return lstatSync(path).isFile() ? readFileSync(path, 'utf8') : undefined;
  } catch {
    return undefined;
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
