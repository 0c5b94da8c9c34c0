import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, it, onTestFinished } from 'vitest';

const MAIN = fileURLToPath(new URL('../../chaos/main.ts', import.meta.url));

/** The command with a mark in its environment that its processes inherit. */
function start(args: readonly string[]) {
  const mark = randomUUID();
  const child: ChildProcess = spawn(process.execPath, ['--conditions=oncefleet-source', MAIN, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, CHAOS_TEST: mark },
  });
  onTestFinished(() => void child.kill('SIGTERM'));
  const said = { text: '' };
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (text: string) => {
      said.text += text;
    });
  }
  const code = new Promise<number | null>((resolve) => child.once('close', resolve));
  return { child, said, code, isOurs: (environment: string) => environment.includes(mark) };
}

/** Where processes can be found by what they inherited. */
const hasProc = existsSync('/proc/self/environ');

/** Processes that have the mark. */
function processesOf(isOurs: (environment: string) => boolean): string[] {
  return readdirSync('/proc').filter((pid) => {
    try {
      return /^\d+$/.test(pid) && isOurs(readFileSync(`/proc/${pid}/environ`, 'utf8'));
    } catch {
      return false;
    }
  });
}

it.skipIf(!hasProc)(
  'a short run with every kind of process holds, says what it counted, and leaves no process',
  {
    timeout: 120_000,
  },
  async () => {
    const { said, code, isOurs } = start([
      '--seconds',
      '5',
      '--seed',
      '5',
      '--lanes',
      '3',
      '--only',
      'kill,freeze,redis-flush',
    ]);
    expect(await code, said.text).toBe(0);
    expect(said.text).toMatch(/^seed 5, 5 s, only kill, freeze, redis-flush$/m);
    expect(said.text).toMatch(/^jobs +[1-9]\d* \(/m);
    expect(said.text).toMatch(/^every promise held; seed 5$/m);
    expect(processesOf(isOurs)).toEqual([]);
  },
);

it.skipIf(!hasProc)('a signal ends it early, and nothing is left', { timeout: 120_000 }, async () => {
  const { child, said, code, isOurs } = start(['--seconds', '600', '--seed', '6', '--verbose', '--only', 'freeze']);
  await expect.poll(() => said.text, { timeout: 60_000 }).toContain('SIGSTOP a worker');
  expect(processesOf(isOurs).length).toBeGreaterThan(5);
  child.kill('SIGTERM');
  expect(await code, said.text).toBe(143);
  expect(processesOf(isOurs)).toEqual([]);
});

it.each([
  [['--seconds', 'ten'], '--seconds: expected a whole number'],
  [['--only', 'kill,rust'], 'No fault is called rust'],
  [['everything'], 'everything is not a command'],
  [['--sead', '1'], '--sead'],
])('%j is answered with what is wrong with it', async (args, wanted) => {
  const { said, code } = start(args);
  expect(await code).toBe(2);
  expect(said.text).toContain(wanted);
});
