/** One word for one thing, and the field's words: in pages, comments, messages and the texts of commands. */
import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { pages, ROOT, readPage } from '../helpers/markdown.ts';

/** Private idioms, and what engineers say instead. */
const IDIOMS: readonly (readonly [RegExp, string])[] = [
  [/\bunless told\b/, 'by default'],
  [/\bmend(s|ed|ing)?\b/, 'repair'],
  [/\b(Postgres|Redis|server|it) (is|was) away\b|\b(Postgres|Redis) away\b/, 'unreachable'],
  [/\b([Gg]o(es)?|went|going) on\b/, 'continue'],
  // A question ("Who is calling"), or one within a sentence ("says who may"), is none.
  [
    /\bWho(?! (is|are|may|can)\b) [a-z]|\b(and|but|or|than|that|when|until|for|of|to|by|with) who\b/,
    'a noun: the process that',
  ],
  [
    /^\s*(\/\*\*|\*|\/\/).*, m?s( \*\/|[.:;)]|$)|, m?s\.['`]|\b[Ss]o long, |\b(for|after|over|waited|been) so long\b(?! (as|that)\b)/,
    'a unit in the name',
  ],
  [/(?<!--|')\bsilen(t|ce|tly)\b/i, 'eventless, idle, unresponsive'],
  [
    /\bruns? of (events|deltas|one letter|a server|a scheduler|vitest)\b|\bflushed in runs\b|\beach run is a\b/,
    'batch, start',
  ],
];

/** Words of others: a level of pino's, a function that is named after it. */
const NAMES = /'silent'|\bsilentLogger\b/g;

const FOLDERS = ['src', 'scripts', 'bench', 'chaos', 'examples'];
const sources = FOLDERS.flatMap((folder) =>
  readdirSync(`${ROOT}${folder}`, { recursive: true, encoding: 'utf8' })
    .filter((path) => /\.(ts|mjs)$/.test(path))
    .map((path) => `${folder}/${path}`),
);
const texts = [...pages().filter((page) => page !== 'CHANGELOG.md'), '.env.example', ...sources];

/** @returns a text per line: what is written, without what others have named */
function linesOf(path: string): string[] {
  const text = path.endsWith('.md') ? readPage(path) : readFileSync(`${ROOT}${path}`, 'utf8');
  return text.replaceAll(NAMES, '').split('\n');
}

it.each(IDIOMS)('no page, comment or message says %s, but: %s', (idiom) => {
  const said = texts.flatMap((path) =>
    linesOf(path).flatMap((line, i) => (idiom.test(line) ? [`${path}:${i + 1}: ${line.trim()}`] : [])),
  );
  expect(said).toEqual([]);
});

/** A word that means one thing cannot be half of the name of another. */
it('no name in src says silent', () => {
  const names = sources
    .filter((path) => path.startsWith('src/'))
    .flatMap((path) => linesOf(path).flatMap((line) => line.match(/\w*silen(t|ce)\w*/gi) ?? []));
  expect(names).toEqual([]);
});

describe('the idioms', () => {
  it.each([
    'so many, unless told otherwise',
    'mends the stream',
    'while Redis is away',
    'the job goes on',
    'Who ends a job writes a line',
    'the time of its lock and who takes it over',
    "about: 'How long it waits, ms.'",
    '/** How long it waits, ms */',
    'a process that is quiet for so long.',
    'a silent job',
    'a run of events',
  ])('are found: %s', (text) => {
    expect(IDIOMS.some(([idiom]) => idiom.test(text))).toBe(true);
  });

  it.each([
    'Who is calling:',
    'says who may read it',
    'for so long that the lease was lost',
    'npm run --silent oncefleet',
    'a run of a defined job',
    '`RetryAfterError(message, ms)`',
    'setTimeout(resolve, ms);',
  ])('are not found: %s', (text) => {
    expect(IDIOMS.filter(([idiom]) => idiom.test(text))).toEqual([]);
  });
});
