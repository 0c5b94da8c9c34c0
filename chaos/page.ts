/** The figures in docs/internals/reliability.md, between marks that runs with `--write` keep. */
import { readFile, writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { fileURLToPath } from 'node:url';
import { toMarkdown } from '../bench/lib/table.ts';
import type { Fault } from './plan.ts';
import type { RecoveryFigures } from './recovery.ts';
import type { Counts } from './report.ts';

const PAGE = fileURLToPath(new URL('../docs/internals/reliability.md', import.meta.url));
const COLUMNS = [
  'measured',
  'seed',
  'seconds',
  'faults',
  'processes ended',
  'jobs',
  'requests',
  'takeovers',
  'writes refused',
  'redispatched',
  'events',
  'events read',
  'gaps filled',
  'recoveries: p50, max',
] as const;

export interface RunFigures {
  seed: number;
  seconds: number;
  faults: ReadonlyMap<Fault, number>;
  counts: Counts;
}

/** Adds a run that held to the table of runs, in the place of an earlier one of the same seed and length. */
export async function writeRun(run: RunFigures): Promise<void> {
  await change('runs', (old) => withRun(old, run, today()));
}

/** Puts measured recovery times in the place of earlier ones. */
export async function writeRecovery({ rows }: RecoveryFigures): Promise<void> {
  await change('recovery', () =>
    [
      `Measured ${today()} by \`npm run chaos -- recovery --write\` on ${cpus().length} cores (${cpus()[0]?.model ?? 'unknown'}).`,
      toMarkdown({
        title: '',
        columns: ['', 'p50', 'max'],
        rows: rows.map(({ what, p50Ms, maxMs }) => [what, `${p50Ms} ms`, `${maxMs} ms`]),
      }),
    ].join('\n\n'),
  );
}

/** The table with a row for the run. */
export function withRun(old: string, { seed, seconds, faults, counts }: RunFigures, day: string): string {
  const number = (value: number) => value.toLocaleString('en-US');
  const row = [
    day,
    String(seed),
    String(seconds),
    number([...faults.values()].reduce((sum, n) => sum + n, 0)),
    number(counts.processDeaths),
    number(counts.jobs),
    number(counts.requests),
    number(counts.takeovers),
    number(counts.refusedWrites),
    number(counts.redispatched),
    number(counts.events),
    number(counts.eventsRead),
    number(counts.gapsFilled),
    `${number(counts.recoveries.p50Ms)} ms, ${number(counts.recoveries.maxMs)} ms`,
  ];
  const kept = old
    .split('\n')
    .filter((line) => /^\| \d{4}-/.test(line))
    .map((line) =>
      line
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim()),
    )
    .filter((cells) => cells[1] !== row[1] || cells[2] !== row[2]);
  return toMarkdown({ title: '', columns: COLUMNS, rows: [...kept, row] });
}

/** @throws Error the page has no such part */
async function change(part: string, make: (old: string) => string): Promise<void> {
  const page = await readFile(PAGE, 'utf8');
  await writeFile(PAGE, withPart(page, part, make));
}

/** A page with the text between the marks of one part replaced. @throws Error the marks are missing */
export function withPart(page: string, part: string, make: (old: string) => string): string {
  const [start, end] = [`<!-- ${part}: written by npm run chaos -->`, `<!-- end of ${part} -->`];
  const from = page.indexOf(start);
  const to = page.indexOf(end);
  if (from === -1 || to < from) throw new Error(`no place for ${part}: ${start} … ${end}`);
  return `${page.slice(0, from + start.length)}\n\n${make(page.slice(from + start.length, to))}\n\n${page.slice(to)}`;
}

function today(): string {
  return new Date().toISOString().slice(0, 10);
}
