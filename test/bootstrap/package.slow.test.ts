/** What `npm pack` takes along. */
import { execFileSync } from 'node:child_process';
import { posix } from 'node:path';
import { describe, expect, test } from 'vitest';
import { anchorsOf, linksOf, ROOT, readPage } from '../helpers/markdown.ts';

/** Without the build, which these tests do not need. */
const [packed] = JSON.parse(
  execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { cwd: ROOT, encoding: 'utf8' }),
) as { files: { path: string }[] }[];
const files = new Set(packed?.files.map(({ path }) => path));
const pages = [...files].filter((path) => path.endsWith('.md') && !path.startsWith('dist/'));

test('the package has README, docs, examples and the settings, and no test or tool', () => {
  expect(pages).toEqual(
    expect.arrayContaining(['README.md', 'CHANGELOG.md', 'docs/guides/idempotency.md', 'docs/guides/bullmq.md']),
  );
  expect([...files]).toEqual(expect.arrayContaining(['.env.example', 'examples/hello.ts', 'bin/oncefleet.mjs']));
  const strange = [...files].filter(
    (path) => !/^(dist|docs|examples|bin)\/|^[^/]+$/.test(path) || path.endsWith('.map'),
  );
  expect(strange).toEqual([]);
});

interface Locked {
  dev?: boolean;
  optional?: boolean;
  dependencies?: Record<string, string>;
}

const locked: Record<string, Locked> = JSON.parse(readPage('package-lock.json')).packages;

/** A package and all that it depends on, as places in `node_modules`. */
function closureOf(name: string, seen = new Set<string>(), from = ''): Set<string> {
  const place = placeOf(name, from);
  if (seen.has(place)) return seen;
  seen.add(place);
  for (const dependency of Object.keys(locked[place]?.dependencies ?? {})) closureOf(dependency, seen, place);
  return seen;
}

/** The copy of a package that Node finds from a place: the nearest. */
function placeOf(name: string, from: string): string {
  const place = from === '' ? `node_modules/${name}` : `${from}/node_modules/${name}`;
  if (locked[place] !== undefined) return place;
  if (from === '') throw new Error(`${name} is not locked`);
  return placeOf(name, from.slice(0, Math.max(0, from.lastIndexOf('/node_modules/'))));
}

describe('a checkout', () => {
  const { devDependencies, optionalDependencies, peerDependencies, peerDependenciesMeta, dependencies } = JSON.parse(
    readPage('package.json'),
  );

  test('has every optional package, whatever Node installs it: npm leaves out optional ones with newer engines', () => {
    expect(devDependencies).toMatchObject(optionalDependencies);
    for (const name of Object.keys(optionalDependencies))
      expect(locked[`node_modules/${name}`]?.optional, name).toBeUndefined();
  });

  test('without its development packages, as hosts prune it, still has what worker and migrations need', () => {
    const needed = [...Object.keys(dependencies), ...Object.keys(peerDependencies)].filter(
      (name) => peerDependenciesMeta[name]?.optional !== true,
    );
    for (const name of needed) for (const path of closureOf(name)) expect(locked[path]?.dev, path).toBeUndefined();
  });
});

test('every relative link of a packed page leads to something that is packed, and every anchor to a heading', () => {
  const broken: string[] = [];
  let links = 0;
  for (const page of pages) {
    for (const link of linksOf(readPage(page))) {
      links++;
      const [path = '', anchor] = link.split('#');
      const target = path === '' ? page : posix.normalize(posix.join(posix.dirname(page), path));
      const there = files.has(target) || [...files].some((file) => file.startsWith(`${target.replace(/\/$/, '')}/`));
      if (!there) broken.push(`${page}: ${link} is not packed`);
      else if (anchor !== undefined && target.endsWith('.md') && !anchorsOf(readPage(target)).includes(anchor))
        broken.push(`${page}: ${link} has no such heading`);
    }
  }
  expect(broken).toEqual([]);
  expect(links).toBeGreaterThan(40);
});
