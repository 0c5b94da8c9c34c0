/** What a mutation is, how its place is found, and the table of README.md. */

/** A mechanism taken out of the source, and the test that must notice. */
export interface Mutation {
  /** For people: `npm run mutate -- <part of it>`. */
  name: string;
  /** From the root of the clone. */
  file: string;
  /** Text that occurs once in the file. Layout is ignored: see `placesOf`. */
  find: string;
  replace: string;
  /** What is gone. */
  mechanism: string;
  /** The test file, from the root of the clone. */
  test: string;
  /** The title of a test as its file has it, or a part of it; `%s` stands for anything. */
  title: string;
}

const START = '<!-- mutations: written by `npm run mutate -- --write` -->';
const END = '<!-- end of mutations -->';

/** Where `find` occurs, whatever line breaks, indents and trailing commas a formatter has put there. */
export function placesOf(find: string, source: string): { start: number; end: number }[] {
  const tokens = find.match(/\w+|[^\w\s]/g) ?? [];
  const pattern = tokens
    .map((token, i) => {
      const escaped = escapePattern(token);
      if (i === 0) return /\w/.test(token) ? `\\b${escaped}` : escaped;
      return /^[)\]}]$/.test(token) ? `\\s*,?\\s*${escaped}` : `\\s*${escaped}`;
    })
    .join('');
  return [...source.matchAll(new RegExp(pattern, 'g'))].map((match) => ({
    start: match.index,
    end: match.index + match[0].length,
  }));
}

/** @throws Error the text does not occur exactly once */
export function mutate(source: string, { find, replace, file }: Mutation): string {
  const [place, ...others] = placesOf(find, source);
  if (place === undefined) throw new Error(`not found in ${file}: ${find}`);
  if (others.length > 0) throw new Error(`found ${others.length + 1} times in ${file}: ${find}`);
  return source.slice(0, place.start) + replace + source.slice(place.end);
}

/** A pattern for `vitest --testNamePattern` that fits any of the titles. */
export function titlePattern(titles: readonly string[]): string {
  return titles.map((title) => title.split('%s').map(escapePattern).join('.*')).join('|');
}

/** The text of a README with its table brought up to date. @throws Error its marks are missing */
export function withTable(readme: string, mutations: readonly Mutation[]): string {
  const start = readme.indexOf(START);
  const end = readme.indexOf(END);
  if (start === -1 || end < start) throw new Error(`no table to write: ${START} … ${END}`);
  return `${readme.slice(0, start + START.length)}\n\n${tableOf(mutations)}\n\n${readme.slice(end)}`;
}

function tableOf(mutations: readonly Mutation[]): string {
  const rows = mutations.map(
    ({ name, file, mechanism, test, title }) =>
      `| \`${name}\` | ${cell(mechanism)} | ${file.replace('src/', '')} | ${cell(title)} (${test.replace('test/', '')}) |`,
  );
  return ['| mutation | mechanism taken out | of | test that goes red |', '| --- | --- | --- | --- |', ...rows].join(
    '\n',
  );
}

function cell(text: string): string {
  return text.replace(/[|\\]/g, '\\$&');
}

function escapePattern(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
}
