import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));

/** Rooms from the bottom up; each may import what stands before it, and itself. */
const ROOMS = [
  '.',
  'redis|util',
  'db',
  'journal',
  'jobs',
  'enqueue|leases',
  'runtime',
  'client|maintenance',
  'runs',
  'workers|http',
  'cli|testing',
];

/** Composition: the library's face joins all rooms. */
const FACES = new Set(['src/index.ts', 'src/library.ts']);

function sources(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts'))
    .map((file) => join(folder, file));
}

function importsOf(file: string): string[] {
  const text = readFileSync(join(root, file), 'utf8');
  return [...text.matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g)].map((match) =>
    relative(root, resolve(join(root, dirname(file)), match[1] as string)),
  );
}

function roomOf(file: string): string {
  const [, room = '.', rest] = file.split('/');
  return rest === undefined ? '.' : room;
}

function heightOf(room: string): number {
  return ROOMS.findIndex((rooms) => rooms.split('|').includes(room));
}

it('imports run one way: a room imports those below it, and itself', () => {
  const wrong: string[] = [];
  for (const file of sources('src')) {
    if (FACES.has(file)) continue;
    for (const target of importsOf(file)) {
      const [from, to] = [roomOf(file), roomOf(target)];
      if (from === to) continue;
      const lower = heightOf(to) < heightOf(from);
      if (!lower || FACES.has(target)) wrong.push(`${file} imports ${target}`);
    }
  }
  expect(wrong).toEqual([]);
});

it('http and workers do not import each other', () => {
  const wrong = sources('src').flatMap((file) => {
    const forbidden = { http: 'workers', workers: 'http' }[roomOf(file)];
    return importsOf(file).filter((target) => roomOf(target) === forbidden);
  });
  expect(wrong).toEqual([]);
});

it('migrations import nothing from src', () => {
  expect(sources('migrations').flatMap(importsOf)).toEqual([]);
});

it('only the command line, and what runs in test processes, reads the environment, arguments and standard streams', () => {
  const wrong = sources('src')
    .filter((file) => roomOf(file) !== 'cli' && roomOf(file) !== 'testing')
    .filter((file) => /process\.(env|argv|stdin|stdout|stderr|exit|on)\b/.test(readFileSync(join(root, file), 'utf8')));
  expect(wrong).toEqual([]);
});
