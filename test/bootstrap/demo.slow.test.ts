/** How the demo ends early; that it succeeds is what CI runs it for. */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { descendantsOf, isRunning } from '../helpers/process-tree.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const LIMIT_MS = 60_000;

test.each([
  ['SIGINT', 130, 'while its servers start', '1. A web process'],
  ['SIGTERM', 143, 'while its processes start', 'Database migrated'],
  ['SIGINT', 130, 'in mid-stream', 'No model is configured'],
] as const)(
  '%s ends it with %i %s, and nothing keeps running',
  { timeout: LIMIT_MS },
  async (signal, code, _, moment) => {
    const { demo, said, ended } = startDemo();
    await expect.poll(said, { timeout: LIMIT_MS }).toContain(moment);
    const pids = descendantsOf(demo.pid as number);
    demo.kill(signal);
    expect(await ended).toEqual({ code, signal: null });
    expect(said()).toContain('Stopped.');
    expect(said()).not.toMatch(/failed/);
    if (process.platform === 'linux') await expect.poll(() => pids.filter(isRunning)).toEqual([]);
  },
);

test('SIGKILL of the demo takes its web process, workers and servers with it', { timeout: LIMIT_MS }, async () => {
  const { demo, said, ended } = startDemo();
  await expect.poll(said, { timeout: LIMIT_MS }).toContain('No model is configured');
  const named = [...said().matchAll(/pid (\d+)/g)].map(([, pid]) => Number(pid));
  expect(named).toHaveLength(3);
  const pids = [...new Set([...named, ...descendantsOf(demo.pid as number)])];
  demo.kill('SIGKILL');
  await ended;
  await expect.poll(() => pids.filter(isRunning)).toEqual([]);
});

function startDemo() {
  const { OPENAI_BASE_URL, OPENAI_MODEL, DATABASE_URL, REDIS_URL, ...env } = process.env;
  const demo = spawn(process.execPath, ['scripts/demo.ts'], { cwd: ROOT, env, stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  demo.stdout.on('data', (chunk) => {
    text += chunk;
  });
  const ended = new Promise((resolve) => demo.once('close', (code, signal) => resolve({ code, signal })));
  return { demo, said: () => text, ended };
}
