/** The Markdown pages of this repository, read by tests. */
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../../', import.meta.url));

/** Every page that people read, as paths from the root. */
export function pages(): string[] {
  const under = (folder: string) =>
    readdirSync(`${ROOT}${folder}`, { recursive: true, encoding: 'utf8' })
      .filter((path) => path.endsWith('.md'))
      .map((path) => `${folder}/${path}`);
  const top = readdirSync(ROOT).filter((path) => path.endsWith('.md'));
  return [...top, ...under('docs'), 'test/README.md'].toSorted();
}

export function readPage(page: string): string {
  return readFileSync(`${ROOT}${page}`, 'utf8');
}

/** Blocks of code and comments blanked, so that lines keep their numbers. */
export function proseOf(text: string): string {
  return text.replace(/^```[\s\S]*?^```|<!--[\s\S]*?-->/gm, (block) => block.replace(/[^\n]/g, ''));
}

/** Where the links of a page lead to inside of the repository, with their anchors. */
export function linksOf(text: string): string[] {
  const found = [...proseOf(text).matchAll(/\]\(([^)\s]+)\)|(?:src|href)="([^"]+)"/g)];
  return found.map((match) => match[1] ?? match[2] ?? '').filter((link) => !/^[a-z]+:/.test(link));
}

/** The anchors of a page's headings, as GitHub makes them. */
export function anchorsOf(text: string): string[] {
  const seen = new Map<string, number>();
  return [...proseOf(text).matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) => {
    const anchor = heading
      .toLowerCase()
      .replace(/[^\p{Letter}\p{Number} _-]/gu, '')
      .replaceAll(' ', '-');
    const before = seen.get(anchor) ?? 0;
    seen.set(anchor, before + 1);
    return before === 0 ? anchor : `${anchor}-${before}`;
  });
}

/** The rows of the table that has this header, as their cells. */
export function tableUnder(text: string, header: string): string[][] {
  const [, rest = ''] = text.split(`\n${header}\n`);
  const lines = `${rest}\n`.split('\n').slice(1);
  const rows = lines.slice(
    0,
    lines.findIndex((line) => !line.startsWith('|')),
  );
  return rows.map((row) =>
    row
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
}

/** What stands between backticks. */
export function codeIn(text: string): string[] {
  return [...text.matchAll(/`([^`]+)`/g)].map(([, code]) => code as string);
}

export interface Block {
  page: string;
  /** Of its first line. */
  line: number;
  language: string;
  code: string;
  /** Why a test does not run it, as the comment above it says. */
  notRun: string | undefined;
}

/** Blocks of code, in the order of the page. */
export function blocksOf(page: string): Block[] {
  const text = readPage(page);
  const found = text.matchAll(/(?:^<!-- not run: ([^>]+) -->\n\n?)?^```(\w*)\n([\s\S]*?)^```$/gm);
  return [...found].map((match) => {
    const [whole, notRun, language = '', code = ''] = match;
    const before = text.slice(0, match.index + whole.indexOf('```'));
    return { page, line: before.split('\n').length + 1, language, code, notRun };
  });
}
