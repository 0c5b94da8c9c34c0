import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { ATTEMPT_OUTCOMES, isTerminalStatus, JOB_STATUSES, TRANSITIONS } from '../../src/db/jobs/states.ts';
import type { Transition } from '../../src/runtime/observers.ts';

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

it('the table says of every transition what observers are told, and has all that they can be told', () => {
  const section = page.split('## Transitions\n')[1]?.split('\n## ')[0] ?? '';
  const [header, , ...rows] = section.split('\n').filter((line) => line.startsWith('|'));
  const cells = (line: string) =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim());
  expect(cells(header as string).at(-1)).toBe('observed as');
  const told = rows.map((row) => [...(cells(row).at(-1) ?? '').matchAll(/`(\w+)`/g)].map(([, type]) => type as string));
  expect([...new Set(told.flat())].toSorted()).toEqual([...TRANSITIONS].toSorted());
  // A fence that its own run raises changes nothing that anybody could see.
  expect(rows.filter((_, i) => told[i]?.length === 0).map((row) => cells(row)[2])).toEqual([
    expect.stringContaining('raiseFence'),
  ]);
});

/** Of a `Transition`. */
const FIELDS: readonly string[] = Object.keys({
  type: true,
  jobId: true,
  name: true,
  queue: true,
  tenant: true,
  attempt: true,
  fence: true,
  by: true,
  process: true,
  at: true,
  delayMs: true,
  runMs: true,
  errorCode: true,
} satisfies Record<keyof Transition, true>);

it('the guide lists every transition that observers are told of and every field, and only those', () => {
  const guide = readFileSync(new URL('../../docs/guides/observing.md', import.meta.url), 'utf8');
  const listed = [...guide.matchAll(/^\| `(\w+)` \|/gm)].map((match) => match[1] as string);
  expect(listed).toEqual([...TRANSITIONS, ...FIELDS]);
});
