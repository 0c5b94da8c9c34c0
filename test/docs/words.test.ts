import { readdirSync, readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { pages, ROOT, readPage } from '../helpers/markdown.ts';

/** Private idioms, and the field's words for them. */
const IDIOMS: readonly (readonly [RegExp, string])[] = [
  [/\bunless told\b/, 'by default'],
  [/\bmend(s|ed|ing)?\b/, 'repair'],
  [/\b(Postgres|Redis|it) (is|was) away\b|\b(Postgres|Redis) away\b/, 'unreachable'],
  [/\b[Ww]ho ends a job\b|\bWho (wants|keeps|leaves) (many|no)\b/, 'a noun: the process that, a reader that'],
];

const sources = readdirSync(`${ROOT}src`, { recursive: true, encoding: 'utf8' })
  .filter((path) => path.endsWith('.ts'))
  .map((path) => `src/${path}`);
const texts = [...pages().filter((page) => page !== 'CHANGELOG.md'), ...sources];

it.each(IDIOMS)('no page, comment or message says %s, but: %s', (idiom) => {
  const said = texts.flatMap((path) => {
    const text = path.endsWith('.md') ? readPage(path) : readFileSync(`${ROOT}${path}`, 'utf8');
    return text.split('\n').flatMap((line, i) => (idiom.test(line) ? [`${path}:${i + 1}: ${line.trim()}`] : []));
  });
  expect(said).toEqual([]);
});
