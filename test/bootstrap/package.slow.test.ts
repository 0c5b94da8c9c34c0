/** What `npm pack` takes along. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { posix } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));

/** Without the build, which these tests do not need. */
const [packed] = JSON.parse(
  execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { cwd: ROOT, encoding: 'utf8' }),
) as { files: { path: string }[] }[];
const files = new Set(packed?.files.map(({ path }) => path));
const pages = [...files].filter((path) => path.endsWith('.md') && !path.startsWith('dist/'));

const read = (path: string) => readFileSync(`${ROOT}${path}`, 'utf8');

/** Links to somewhere else in the package, with their anchors. */
function linksOf(page: string): string[] {
  const text = read(page).replace(/^```[\s\S]*?^```/gm, '');
  const found = [...text.matchAll(/\]\(([^)\s]+)\)|(?:src|href)="([^"]+)"/g)].map(
    (match) => match[1] ?? match[2] ?? '',
  );
  return found.filter((link) => !/^[a-z]+:/.test(link));
}

/** As GitHub makes them of headings. */
function anchorsOf(page: string): string[] {
  return [...read(page).matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replace(/[^\p{Letter}\p{Number} _-]/gu, '')
      .replaceAll(' ', '-'),
  );
}

test('the package has README, docs, examples and the settings, and no test or tool', () => {
  expect(pages).toEqual(
    expect.arrayContaining(['README.md', 'CHANGELOG.md', 'docs/idempotency.md', 'docs/guides/bullmq.md']),
  );
  expect([...files]).toEqual(expect.arrayContaining(['.env.example', 'examples/hello.ts', 'bin/oncefleet.mjs']));
  const strange = [...files].filter(
    (path) => !/^(dist|docs|examples|bin)\/|^[^/]+$/.test(path) || path.endsWith('.map'),
  );
  expect(strange).toEqual([]);
});

test('a clone installs every optional package: npm leaves out optional ones whose engines are newer than the Node of a set-up', () => {
  const { devDependencies, optionalDependencies } = JSON.parse(read('package.json'));
  expect(devDependencies).toMatchObject(optionalDependencies);
  const { packages } = JSON.parse(read('package-lock.json'));
  for (const name of Object.keys(optionalDependencies))
    expect(packages[`node_modules/${name}`].optional, name).toBeUndefined();
});

test('every relative link of a packed page leads to something that is packed, and every anchor to a heading', () => {
  const broken: string[] = [];
  let links = 0;
  for (const page of pages) {
    for (const link of linksOf(page)) {
      links++;
      const [path = '', anchor] = link.split('#');
      const target = path === '' ? page : posix.normalize(posix.join(posix.dirname(page), path));
      const there = files.has(target) || [...files].some((file) => file.startsWith(`${target.replace(/\/$/, '')}/`));
      if (!there) broken.push(`${page}: ${link} is not packed`);
      else if (anchor !== undefined && target.endsWith('.md') && !anchorsOf(target).includes(anchor))
        broken.push(`${page}: ${link} has no such heading`);
    }
  }
  expect(broken).toEqual([]);
  expect(links).toBeGreaterThan(40);
});
