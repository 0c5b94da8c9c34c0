import { existsSync, readdirSync } from 'node:fs';
import { expect, it } from 'vitest';
import { codeIn, ROOT, readPage, tableUnder } from '../helpers/markdown.ts';

const page = readPage('docs/internals/architecture.md');

it('docs/internals/architecture.md lists every room of src', () => {
  const named = tableUnder(page, '| room | purpose |').flatMap(([rooms = '']) => codeIn(rooms));
  const faces = ['index.ts', 'library.ts'];
  const rooms = readdirSync(`${ROOT}src`).filter((name) => !faces.includes(name));
  expect(named.toSorted()).toEqual(rooms.toSorted());
});

it.each(['docs/internals/architecture.md', 'docs/internals/job-lifecycle.md', 'CONTRIBUTING.md'])(
  'the source files that %s names exist',
  (name) => {
    const paths = [...readPage(name).matchAll(/`((?:[\w-]+\/)+[\w.-]+\.(?:ts|md))`/g)].map(
      ([, path]) => path as string,
    );
    expect(paths.length).toBeGreaterThan(4);
    expect(paths.filter((path) => !existsSync(`${ROOT}src/${path}`) && !existsSync(`${ROOT}${path}`))).toEqual([]);
  },
);
