import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { ATTEMPT_OUTCOMES, isTerminalStatus, JOB_STATUSES } from '../../src/db/jobs/states.ts';

const page = readFileSync(new URL('../../docs/internals/job-lifecycle.md', import.meta.url), 'utf8');

function firstColumn(heading: string): string[] {
  const section = page.split(`## ${heading}\n`)[1]?.split('\n## ')[0] ?? '';
  return [...section.matchAll(/^\| `(\w+)` \|/gm)].map((match) => match[1] as string);
}

it('docs/internals/job-lifecycle.md explains every status, and only those', () => {
  expect(firstColumn('Statuses')).toEqual([...JOB_STATUSES]);
});

it('docs/internals/job-lifecycle.md explains every outcome of an attempt, and only those', () => {
  expect(firstColumn('How an attempt ends')).toEqual([...ATTEMPT_OUTCOMES]);
});

it('the diagram has an arrow into every status, and out of every status that is not the last', () => {
  const arrows = [...page.matchAll(/^ {4}(\S+) --> (\w+|\[\*\]):/gm)].map((match) => [match[1], match[2]]);
  for (const status of JOB_STATUSES) {
    expect(
      arrows.some(([, to]) => to === status),
      `into ${status}`,
    ).toBe(true);
    expect(
      arrows.some(([from, to]) => from === status && (to !== '[*]' || isTerminalStatus(status))),
      `out of ${status}`,
    ).toBe(true);
  }
});

it('the functions that the page names are where it says', () => {
  const named = [...page.matchAll(/`(\w+)` \(`(db\/[\w./-]+)`\)/g)];
  expect(named.length).toBeGreaterThan(6);
  for (const [, name, path] of named)
    expect(readFileSync(new URL(`../../src/${path}`, import.meta.url), 'utf8'), `${name} in ${path}`).toMatch(
      new RegExp(`export (async )?function ${name}\\b`),
    );
});
