/** Front matter: YAML between `---` lines or TOML between `+++` lines, at the very top of a text. */
import { loadPackage } from './packages.ts';

interface FrontMatter {
  title: string | undefined;
  description: string | undefined;
  /** First line after it; 0: there is none. */
  next: number;
}

/** Longer ones are no front matter, and not worth the time of a parser. */
const MAX_LINES = 1_000;
const MAX_LENGTH = 100_000;

const NONE: FrontMatter = { title: undefined, description: undefined, next: 0 };

/**
 * What is no mapping, or does not parse, is none: a thematic break may stand on top as well.
 *
 * @param lines of the document, which may be the whole of it
 */
export async function readFrontMatter(lines: readonly string[]): Promise<FrontMatter> {
  const mark = lines[0]?.trimEnd();
  if (mark !== '---' && mark !== '+++') return NONE;
  const isEnd = (line: string): boolean => line === mark || (mark === '---' && line === '...');
  const end = lines.slice(0, MAX_LINES).findIndex((line, at) => at > 0 && isEnd(line.trimEnd()));
  if (end === -1) return NONE;
  const source = lines.slice(1, end).join('\n');
  if (source.length > MAX_LENGTH) return NONE;
  const fields = mark === '---' ? await readYaml(source) : await readToml(source);
  if (fields === undefined) return NONE;
  return { title: textOf(fields, 'title'), description: textOf(fields, 'description'), next: end + 1 };
}

async function readYaml(source: string): Promise<object | undefined> {
  // What YAML would take for a key must be on the first line that is no comment: `---` may be a thematic break.
  if (!/^(?:[ \t]*(?:#.*)?\n)*["']?[\w-][^:\n]*:(?:\s|$)/.test(source) || /^\s*\n/.test(source)) return undefined;
  const { parse } = await loadPackage('yaml', () => import('yaml'));
  return mappingOf(() => parse(source, { maxAliasCount: 20, prettyErrors: false, logLevel: 'error' }));
}

async function readToml(source: string): Promise<object | undefined> {
  const { parse } = await loadPackage('smol-toml', () => import('smol-toml'));
  return mappingOf(() => parse(source));
}

function mappingOf(parse: () => unknown): object | undefined {
  try {
    const value = parse();
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function textOf(fields: object, name: string): string | undefined {
  const value = Object.entries(fields).find(([key]) => key.toLowerCase() === name)?.[1] as unknown;
  if (typeof value !== 'string' && typeof value !== 'number') return undefined;
  const text = String(value).trim();
  return text === '' ? undefined : text;
}
