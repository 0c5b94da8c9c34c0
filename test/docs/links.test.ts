import { existsSync } from 'node:fs';
import { posix } from 'node:path';
import { describe, expect, it } from 'vitest';
import { anchorsOf, linksOf, pages, ROOT, readPage } from '../helpers/markdown.ts';

/** What is wrong with a link, if anything is. */
function fault(page: string, link: string): string | undefined {
  const [path = '', anchor] = link.split('#');
  const target = path === '' ? page : posix.join(posix.dirname(page), path);
  if (!existsSync(`${ROOT}${target}`)) return `${page}: ${link} leads nowhere`;
  if (anchor !== undefined && target.endsWith('.md') && !anchorsOf(readPage(target)).includes(anchor))
    return `${page}: ${link} has no such heading`;
  return undefined;
}

const all = pages();

it('every relative link leads to a file, and every anchor to a heading', () => {
  const links = all.flatMap((page) => linksOf(readPage(page)).map((link) => [page, link] as const));
  expect(links.map(([page, link]) => fault(page, link)).filter((found) => found !== undefined)).toEqual([]);
  expect(links.length).toBeGreaterThan(60);
});

it('docs/README.md leads to every page of docs', () => {
  const linked = new Set(
    linksOf(readPage('docs/README.md')).map((link) => posix.join('docs', link.split('#')[0] ?? '')),
  );
  const ofDocs = all.filter((page) => page.startsWith('docs/') && page !== 'docs/README.md');
  expect(ofDocs.filter((page) => !linked.has(page))).toEqual([]);
});

describe('the test itself', () => {
  it('notices a missing file and a missing heading', () => {
    expect(fault('docs/README.md', 'guides/none.md')).toMatch(/leads nowhere/);
    expect(fault('docs/README.md', '../README.md#none')).toMatch(/no such heading/);
    expect(fault('docs/README.md', '../README.md#what-is-promised')).toBeUndefined();
  });

  it('reads links of prose, not of code', () => {
    expect(linksOf('[a](b.md#c) <img src="d.svg"> [e](https://e)\n```\n[f](g.md)\n```\n')).toEqual(['b.md#c', 'd.svg']);
  });

  it('makes anchors as GitHub does', () => {
    expect(anchorsOf('# `a.b()` and C\n## D\n## D\n')).toEqual(['ab-and-c', 'd', 'd-1']);
  });
});
