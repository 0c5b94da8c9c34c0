/** No file, class or function of `src` is longer than a reader can keep in mind. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
// Biome's rules of this kind count neither comments nor lines of SQL, and have none for classes.
import { parseAst } from 'vitest/node';

const root = fileURLToPath(new URL('..', import.meta.url));

/** Lines, comments and blank lines included. */
const MAX_LINES = { file: 450, class: 250, function: 70 };
const MAX_MEDIAN = 100;

type Kind = keyof typeof MAX_LINES;

const KINDS: Readonly<Record<string, Kind>> = {
  ClassDeclaration: 'class',
  ClassExpression: 'class',
  FunctionDeclaration: 'function',
  FunctionExpression: 'function',
  ArrowFunctionExpression: 'function',
};

interface Part {
  kind: Kind;
  firstLine: number;
  lines: number;
}

/** The file itself, and every class and function in it, nested ones too. */
function partsOf(source: string): Part[] {
  const lineOf = (offset: number) => source.slice(0, offset).split('\n').length;
  const parts: Part[] = [{ kind: 'file', firstLine: 1, lines: source.split('\n').length - 1 }];
  const visit = (node: unknown): void => {
    if (typeof node !== 'object' || node === null) return;
    const { type, start, end } = node as { type?: string; start?: number; end?: number };
    const kind = type === undefined ? undefined : KINDS[type];
    if (kind !== undefined && start !== undefined && end !== undefined) {
      const firstLine = lineOf(start);
      parts.push({ kind, firstLine, lines: lineOf(end) - firstLine + 1 });
    }
    for (const child of Object.values(node)) visit(child);
  };
  visit(parseAst(source, { lang: 'ts' }).body);
  return parts;
}

const sources = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .map((file) => join('src', file))
  .map((file) => ({ file, parts: partsOf(readFileSync(join(root, file), 'utf8')) }));

const isTooLong = ({ kind, lines }: Part) => lines > MAX_LINES[kind];

describe('the sources', () => {
  it('have no file, class or function that is too long', () => {
    const wrong = sources.flatMap(({ file, parts }) =>
      parts
        .filter(isTooLong)
        .map(({ kind, firstLine, lines }) => `${file}:${firstLine} is a ${kind} of ${lines} lines`),
    );
    expect(wrong).toEqual([]);
  });

  it('have files whose median is short', () => {
    const lengths = sources.map(({ parts }) => parts[0]?.lines ?? 0).sort((a, b) => a - b);
    expect(lengths[Math.floor(lengths.length / 2)]).toBeLessThan(MAX_MEDIAN);
  });
});

describe('the measure', () => {
  it.each<[Kind, string]>([
    ['class', 'class A {\n}\n'],
    ['class', 'const A = class {\n};\n'],
    ['function', 'function f() {\n}\n'],
    ['function', 'const f = () => {\n};\n'],
    ['function', 'const o = { f() {\n} };\n'],
    ['function', 'class A { #f(): void {\n} }\n'],
    ['function', 'class A { constructor() {\n} }\n'],
    ['function', 'class A { get f(): number {\nreturn 1; } }\n'],
  ])('sees a %s in %j', (kind, source) => {
    expect(partsOf(source)).toContainEqual({ kind, firstLine: 1, lines: 2 });
  });
});
