/** Whatever a module of `src` exports, another module imports, or users can. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { parseAst } from 'vitest/node';

const root = fileURLToPath(new URL('..', import.meta.url));

/** Entry points of package.json, and the library behind the first. */
const PUBLIC = [
  'src/index.ts',
  'src/library.ts',
  'src/journal/fold.ts',
  'src/testing/index.ts',
  'src/web-client/index.ts',
];

interface Node {
  type: string;
  [key: string]: unknown;
}

interface Module {
  file: string;
  /** Names that it declares and exports. */
  exports: string[];
  /** What it takes from other files; `*` is all of one. */
  imports: { file: string; name: string }[];
}

const nameOf = (node: unknown): string => {
  const { name, value } = node as { name?: string; value?: string };
  return name ?? value ?? '';
};

function readModule(file: string, source = readFileSync(join(root, file), 'utf8')): Module {
  const module: Module = { file, exports: [], imports: [] };
  const use = (from: unknown, names: readonly string[]) => {
    const path = (from as { value?: unknown } | undefined)?.value;
    if (typeof path !== 'string' || !path.startsWith('.')) return;
    const target = relative(root, resolve(join(root, dirname(file)), path));
    for (const name of names) module.imports.push({ file: target, name });
  };
  const visit = (value: unknown): void => {
    if (typeof value !== 'object' || value === null) return;
    const node = value as Node;
    const specifiers = Array.isArray(node['specifiers']) ? (node['specifiers'] as Node[]) : [];
    switch (node.type) {
      case 'ImportDeclaration':
        use(
          node['source'],
          specifiers.map((one) => (one.type === 'ImportSpecifier' ? nameOf(one['imported']) : '*')),
        );
        break;
      case 'ExportNamedDeclaration':
        use(
          node['source'],
          specifiers.map((one) => nameOf(one['local'])),
        );
        module.exports.push(...declaredNames(node['declaration'] as Node | null));
        break;
      case 'ExportAllDeclaration':
      case 'ImportExpression':
      case 'TSImportType':
        use(node['source'] ?? node['argument'], ['*']);
        break;
      default:
    }
    for (const child of Object.values(node)) visit(child);
  };
  visit(parseAst(source, { lang: file.endsWith('.ts') ? 'ts' : 'js' }).body);
  return module;
}

function declaredNames(declaration: Node | null): string[] {
  if (declaration === null) return [];
  const { id, declarations } = declaration as { id?: unknown; declarations?: Node[] };
  return declarations === undefined ? [nameOf(id)] : declarations.map((one) => nameOf(one['id']));
}

function unusedExports(modules: readonly Module[], checked: (file: string) => boolean): string[] {
  const used = new Set(modules.flatMap(({ imports }) => imports.map(({ file, name }) => `${file} ${name}`)));
  return modules
    .filter(({ file }) => checked(file))
    .flatMap(({ file, exports }) => (used.has(`${file} *`) ? [] : exports.map((name) => `${file} ${name}`)))
    .filter((exported, i, all) => !used.has(exported) && all.indexOf(exported) === i);
}

const modules = ['src', 'test', 'bench', 'chaos', 'examples', 'migrations', 'scripts', 'bin'].flatMap((folder) =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => /\.(ts|mjs)$/.test(file))
    .map((file) => readModule(join(folder, file))),
);

describe('exports', () => {
  it('are imported by another file, or public', () => {
    const checked = (file: string) => file.startsWith('src/') && !PUBLIC.includes(file);
    expect(unusedExports(modules, checked)).toEqual([]);
  });
});

describe('the reading of imports', () => {
  const a = readModule(
    'src/a.ts',
    'export const a = 1; export interface B {} export function c() {} export class D {}',
  );
  const unusedBeside = (source: string) =>
    unusedExports([a, readModule('src/b.ts', source)], (file) => file === a.file);

  it('finds what is exported in vain', () => {
    expect(unusedBeside('')).toEqual(['src/a.ts a', 'src/a.ts B', 'src/a.ts c', 'src/a.ts D']);
  });

  it.each([
    `import { a, type B, c as d, D } from './a.ts';`,
    `import * as all from './a.ts';`,
    `export { a, type B, c as e, D } from './a.ts';`,
    `export * from './a.ts';`,
    `const all = await import('./a.ts');`,
    `let all: typeof import('./a.ts');`,
  ])('sees %j', (source) => {
    expect(unusedBeside(source)).toEqual([]);
  });
});
