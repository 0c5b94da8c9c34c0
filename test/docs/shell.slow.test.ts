/**
 * The shell blocks of README and docs, pasted in one go a page, beside `npm run dev` in a copy of the checkout.
 * A block that is not run says why in a comment above it. Ports are replaced by free ones, and that is all.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { cp, readFile, symlink } from 'node:fs/promises';
import { basename, join, relative } from 'node:path';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { findFreePort } from '../../src/testing/services/ports.ts';
import { type Block, blocksOf, pages, ROOT } from '../helpers/markdown.ts';
import { createTestFolder } from '../helpers/services.ts';

const SHARED_PACKAGES = 'node_modules';
/** Not part of a clone, or of no use to its pages. */
const LEFT_BEHIND = new Set(['.git', '.oncefleet', 'dist', 'test', SHARED_PACKAGES]);
const LIMIT_MS = 120_000;

const blocks = pages().flatMap(blocksOf);
const pasted = Map.groupBy(
  blocks.filter(({ language, notRun }) => language === 'sh' && notRun === undefined),
  ({ page }) => page,
);

let clone: string;
let dev: ChildProcess | undefined;
let ports: Record<string, number>;

beforeAll(async () => {
  clone = await createTestFolder();
  await cp(ROOT, clone, {
    recursive: true,
    filter: (source) => !LEFT_BEHIND.has(relative(ROOT, source)) && basename(source) !== '.env',
  });
  await symlink(join(ROOT, SHARED_PACKAGES), join(clone, SHARED_PACKAGES));
  ports = { 3000: await findFreePort(), 3100: await findFreePort() };
  const started = start(['npm', 'run', 'dev'], { PORT: String(ports[3000]) });
  dev = started.child;
  const isUp = () => started.output().includes('Oncefleet is up') || started.child.exitCode !== null;
  await vi.waitUntil(isUp, { timeout: LIMIT_MS });
  expect(started.child.exitCode, started.output()).toBeNull();
}, LIMIT_MS);

afterAll(async () => {
  if (dev === undefined || dev.exitCode !== null) return;
  const ended = new Promise((resolve) => dev?.once('exit', resolve));
  process.kill(-(dev.pid as number), 'SIGTERM');
  await ended;
}, LIMIT_MS);

function start([command = '', ...args]: string[], env: Record<string, string> = {}) {
  const { DATABASE_URL, REDIS_URL, NODE_OPTIONS, ...inherited } = process.env;
  const child = spawn(command, args, {
    cwd: clone,
    env: { ...inherited, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  let text = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      text += chunk;
    });
  }
  return { child, output: () => text };
}

/** The first command that fails ends the page, and is named. */
async function paste(page: readonly Block[]): Promise<string> {
  const code = page.map((block) => block.code).join('\n');
  const there = code.replace(/\b(3000|3100)\b/g, (port) => String(ports[port]));
  const trap = `set -E; trap 'echo "failed: $BASH_COMMAND" >&2; exit 1' ERR\n`;
  const { child, output } = start(['bash', '-c', trap + there]);
  const status = await new Promise((resolve) => child.once('exit', resolve));
  try {
    // What a page that broke off has left running.
    process.kill(-(child.pid as number), 'SIGKILL');
  } catch {}
  expect(status, output()).toBe(0);
  return output();
}

describe('pasted in one go, the shell blocks', () => {
  /** By page: what the output shows, where success alone says little. */
  const SHOWN: Record<string, readonly (string | RegExp)[]> = {
    'README.md': ['event: sources', 'event: end', /Sources\n/],
    'docs/start/quickstart.md': [
      'event: document',
      'event: end',
      'created Hello, Ada!',
      'replayed Hello, Ada!',
      '"status":"pending"',
    ],
    'docs/reference/http.md': ['event: end', '"outcome":"created"'],
  };

  it.for([...pasted.keys()].map((page) => [page] as const))('of %s work', { timeout: LIMIT_MS }, async ([page]) => {
    const output = await paste(pasted.get(page) ?? []);
    for (const shown of SHOWN[page] ?? []) expect(output).toMatch(shown);
  });

  it('are those of pages that users read', () => {
    expect([...pasted.keys()]).toEqual(expect.arrayContaining(Object.keys(SHOWN)));
    const reasons = blocks.map(({ notRun }) => notRun).filter((reason) => reason !== undefined);
    expect(reasons.every((reason) => reason.length > 20)).toBe(true);
  });
});

it.for(
  blocks
    .filter(({ language, notRun }) => language === 'sql' && notRun === undefined)
    .map((b) => [`${b.page}:${b.line}`, b] as const),
)('the SQL of %s works', async ([, { code }]) => {
  const settings = await readFile(join(clone, '.oncefleet/dev.env'), 'utf8');
  const client = new Client({ connectionString: /^DATABASE_URL='?([^'\n]+)/m.exec(settings)?.[1] });
  await client.connect();
  try {
    await client.query('begin');
    await client.query(code.replace(/'[^']*…'/g, "'00000000-0000-0000-0000-000000000000'"));
    await client.query('rollback');
  } finally {
    await client.end();
  }
});
