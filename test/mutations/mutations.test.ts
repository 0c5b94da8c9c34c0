/** Keeps the list of mutations from rotting; `npm run mutate` runs them. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { elsewhere, faults } from './faults.ts';
import { mutations } from './list.ts';
import { mutate, placesOf, titlePattern, trialOfFault } from './mutation.ts';

const read = (path: string) => readFileSync(fileURLToPath(new URL(`../../${path}`, import.meta.url)), 'utf8');

describe('the list of mutations', () => {
  it('names each once', () => {
    const names = mutations.map(({ name }) => name);
    expect(names).toEqual([...new Set(names)]);
  });

  it('finds each text exactly once in its file, and changes it', () => {
    const found = mutations.map(({ name, file, find }) => [name, placesOf(find, read(file)).length]);
    expect(found).toEqual(mutations.map(({ name }) => [name, 1]));
    for (const mutation of mutations) {
      const source = read(mutation.file);
      expect(mutate(source, mutation), mutation.name).not.toBe(source);
    }
  });

  it('names tests that are there', () => {
    const missing = mutations.filter(({ test, title }) => !read(test).includes(title)).map(({ name }) => name);
    expect(missing).toEqual([]);
  });
});

describe('the list of faults', () => {
  it('has each mutation, or says what else it is for', () => {
    const shown = new Set(faults.flatMap(({ without }) => without));
    const listed = [...shown, ...Object.values(elsewhere).flat()];
    expect(listed.toSorted()).toEqual(mutations.map(({ name }) => name).toSorted());
  });

  it('names tests that are there', () => {
    const missing = faults.filter(({ test, title }) => !read(test).includes(title)).map(({ without }) => without);
    expect(missing).toEqual([]);
  });

  it('takes out together what can be taken out together, and any part of it', () => {
    for (const fault of faults) {
      const all = trialOfFault(fault, mutations).mutations;
      for (const taken of [all, ...all.map((left) => all.filter((mutation) => mutation !== left))]) {
        const sources = new Map<string, string>();
        for (const mutation of taken)
          sources.set(mutation.file, mutate(sources.get(mutation.file) ?? read(mutation.file), mutation));
      }
    }
  });
});

describe('the place of a mutation', () => {
  const find = 'call(first, { second });';

  it.each(['call(first, { second });', 'call(\n    first,\n    { second },\n  );', 'call( first,{second});'])(
    'is found whatever a formatter did: %j',
    (source) => {
      expect(placesOf(find, `before; ${source} after;`)).toEqual([{ start: 8, end: 8 + source.length }]);
    },
  );

  it.each(['recall(first, { second });', 'call(first, { third });', 'call(first, second);'])(
    'is not in %j',
    (source) => {
      expect(placesOf(find, source)).toEqual([]);
    },
  );

  it('must be one', () => {
    const mutation = { name: 'm', file: 'f', find: 'a', replace: 'b', mechanism: '', test: '', title: '' };
    expect(mutate('x + a', mutation)).toBe('x + b');
    expect(() => mutate('x', mutation)).toThrow('not found in f');
    expect(() => mutate('a + a', mutation)).toThrow('found 2 times in f');
  });
});

it('a title is a pattern for itself and, with a placeholder, for anything in that place', () => {
  const pattern = new RegExp(titlePattern(['a (b) [c]?', 'replays %s once', '%j: of %d', 'finds $kind.name after']));
  expect(
    ['group a (b) [c]?', 'replays "x" once', '{"a":1}: of 2', 'finds a job after'].every((title) =>
      pattern.test(title),
    ),
  ).toBe(true);
  expect(['a b c', 'replays once'].some((title) => pattern.test(title))).toBe(false);
});
