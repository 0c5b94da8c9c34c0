/** Runs a bench as a person does, in a process of its own. */
import { spawn } from 'node:child_process';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished } from 'vitest';
import { z } from 'zod';
import { createTestFolder } from '../helpers/services.ts';

const MAIN = fileURLToPath(new URL('../../bench/main.ts', import.meta.url));

/** What every bench promises of `--json`. */
const figures = z.object({
  bench: z.string(),
  quick: z.boolean(),
  machine: z.object({
    measuredAt: z.iso.datetime(),
    cores: z.number().int().positive(),
    node: z.string(),
    postgres: z.string(),
    postgresSettings: z.record(z.string(), z.string()),
    redis: z.string(),
    packages: z.record(z.string(), z.string().regex(/^\d+\.\d+\.\d+/)),
    loadAverageBefore: z.number(),
    loadAverageAfter: z.number(),
  }),
  rows: z.array(z.object({ case: z.string() }).catchall(z.union([z.string(), z.number()]))).nonempty(),
});

export async function runBench(args: readonly string[]): Promise<{ code: number | null; out: string }> {
  // Its own servers: commits are compared, and those of the test run do not reach the disk.
  const { DATABASE_URL: _database, REDIS_URL: _redis, ...env } = process.env;
  const child = spawn(process.execPath, [MAIN, ...args], { stdio: ['ignore', 'pipe', 'pipe'], env });
  onTestFinished(() => void child.kill('SIGTERM'));
  let out = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      out += text;
    });
  }
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { code, out };
}

/** A quick run that has to go well. @returns what it printed, and the rows of its JSON */
export async function runQuickly(name: string): Promise<{ out: string } & z.infer<typeof figures>> {
  const folder = await createTestFolder();
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  const file = join(folder, 'figures.json');
  const { code, out } = await runBench([name, '--quick', '--json', file]);
  expect(code, out).toBe(0);
  const found = figures.parse(JSON.parse(await readFile(file, 'utf8')));
  expect({ bench: found.bench, quick: found.quick }).toEqual({ bench: name, quick: true });
  return { out, ...found };
}
