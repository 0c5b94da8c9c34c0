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
  'journal|search',
  'jobs',
  'enqueue|leases',
  'runtime',
  'telemetry',
  'client|maintenance',
  'runs',
  'workers|http',
  'cli|testing|web-client',
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

/** What makes, changes or removes the status of a job, by the functions that do. */
const STATUS_WRITERS: Readonly<Record<string, readonly string[]>> = {
  'src/db/jobs/claim.ts': ['claimJobs'],
  'src/db/jobs/finish.ts': ['finishAbandoned'],
  'src/db/jobs/insert.ts': ['insertJobs'],
  'src/db/jobs/redrive.ts': ['redriveJob'],
  'src/db/jobs/settle.ts': ['settleJobs'],
  'src/db/operator.ts': ['cancelWaiting'],
  'src/db/outbox.ts': ['insertJobsWithOutbox'],
  'src/db/retention.ts': ['sweepAlong', 'sweepLater'],
};

/** What reaches them, and from where alone: the door, which tells observers, and the modules between it and the statements. */
const CALLERS: Readonly<Record<string, readonly string[]>> = {
  ...Object.fromEntries(Object.keys(STATUS_WRITERS).map((file) => [file, ['src/runtime/transitions.ts']])),
  'src/db/jobs/insert.ts': ['src/enqueue/accept.ts'],
  'src/db/outbox.ts': ['src/enqueue/accept.ts'],
  'src/db/retention.ts': ['src/maintenance/sweeper.ts'],
  'src/enqueue/accept.ts': ['src/runtime/transitions.ts', 'src/runtime/runtime.ts'],
};

/** Of `accept.ts`, what calls them. */
const ACCEPTORS = ['Acceptor', 'acceptorIn'];

/** Whether a source has a statement that inserts or deletes jobs, or sets their status. */
function writesStatus(text: string): boolean {
  if (/insert into oncefleet\.jobs\b|delete from oncefleet\.jobs\b|(insertInto|deleteFrom)\('jobs'\)/.test(text))
    return true;
  const statements = text.matchAll(
    /update oncefleet\.jobs\b(?:\s+\w+)?\s+set\b((?:(?!\b(?:from|where|returning)\b)[\s\S])*)/g,
  );
  const builders = text.matchAll(/updateTable\('jobs'\)\s*\.set\(\{([\s\S]*?)\}\)/g);
  return (
    [...statements].some(([, set]) => /(?<![.\w])status\s*=/.test(set as string)) ||
    [...builders].some(([, set]) => /(?<![.\w])status\s*(?:[:,]|$)/.test(set as string))
  );
}

it('only the modules listed write the status of a job', () => {
  const writers = sources('src').filter((file) => writesStatus(readFileSync(join(root, file), 'utf8')));
  // Torture and tests of it take rows away by themselves.
  expect(writers.filter((file) => roomOf(file) !== 'testing').toSorted()).toEqual(Object.keys(STATUS_WRITERS));
});

it('what writes the status of a job is called through one door, which tells observers', () => {
  const watched: typeof STATUS_WRITERS = { ...STATUS_WRITERS, 'src/enqueue/accept.ts': ACCEPTORS };
  const wrong: string[] = [];
  for (const file of sources('src')) {
    const text = readFileSync(join(root, file), 'utf8');
    for (const [, names, path] of text.matchAll(/import \{([^}]*)\} from '(\.[^']+)'/g)) {
      const target = relative(root, resolve(join(root, dirname(file)), path as string));
      for (const name of (names as string).split(',').map((one) => one.trim().split(' as ')[0] as string))
        if (watched[target]?.includes(name) && !CALLERS[target]?.includes(file)) wrong.push(`${file} imports ${name}`);
    }
  }
  expect(wrong).toEqual([]);
  for (const [file, names] of Object.entries(STATUS_WRITERS))
    for (const name of names)
      expect(readFileSync(join(root, file), 'utf8'), file).toMatch(new RegExp(`export async function ${name}\\b`));
});

it.each([
  ["update oncefleet.jobs j set status = 'running' where id = 1", true],
  ['update oncefleet.jobs set\n  fence = 1,\n  status = w.status\nfrom want w', true],
  ["db.updateTable('jobs').set({ fence, status })", true],
  ["db\n.updateTable('jobs')\n.set({\n status: 'pending',\n fence })", true],
  ['insert into oncefleet.jobs (id) values (1)', true],
  ['delete from oncefleet.jobs j using victim v', true],
  ["update oncefleet.jobs j set n = n + (d.status = 'running')::int from d", false],
  ["update oncefleet.jobs set run_at = now() where status = 'pending'", false],
  ["db.updateTable('jobs').set({ checkpoint }).where('status', '=', 'running')", false],
  ['delete from oncefleet.jobs_old', false],
])('a statement that writes a status is seen: %j, %s', (text, writes) => {
  expect(writesStatus(text)).toBe(writes);
});
