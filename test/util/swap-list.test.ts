import { expect, it } from 'vitest';
import { SwapList } from '../../src/util/swap-list.ts';

interface Thing {
  name: string;
  place: number;
}

/** A list, and a function that makes things; the same name gives the same one. */
function stage() {
  const list = new SwapList<Thing>();
  const made = new Map<string, Thing>();
  const thing = (name: string): Thing => {
    const one = made.get(name) ?? { name, place: 0 };
    made.set(name, one);
    return one;
  };
  const add = (names: string) => {
    for (const name of names) list.add(thing(name));
  };
  const remove = (names: string) => [...names].map((name) => list.remove(thing(name)));
  const names = () =>
    list
      .values()
      .map(({ name }) => name)
      .sort()
      .join('');
  return { list, add, remove, names };
}

it('holds what was added and not removed, whatever the order', () => {
  const { list, add, remove, names } = stage();
  add('abcde');
  expect(remove('bea')).toEqual([true, true, true]);
  expect([list.size, names()]).toEqual([2, 'cd']);
  add('a');
  expect(remove('dc')).toEqual([true, true]);
  expect([list.size, names()]).toEqual([1, 'a']);
});

it('removes a thing once, and nothing that it does not hold', () => {
  const { add, remove, names } = stage();
  add('ab');
  expect(remove('zaa')).toEqual([false, true, false]);
  expect(names()).toBe('b');
});

it('gives its things as they are now: they may be removed on the way', () => {
  const { list, add } = stage();
  add('abc');
  for (const thing of list.values()) expect(list.remove(thing)).toBe(true);
  expect(list.size).toBe(0);
});
