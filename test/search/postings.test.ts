import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type Block,
  BlockWriter,
  findPostings,
  lengthCode,
  lengthOfCode,
  type PostingList,
  readEntries,
  termBytes,
  termOf,
} from '../../src/search/postings.ts';

function pack(lists: ReadonlyMap<string, PostingList>): Block[] {
  const blocks: Block[] = [];
  const writer = new BlockWriter((block) => blocks.push(block));
  for (const term of [...lists.keys()].sort()) writer.add(term, lists.get(term) as PostingList);
  writer.flush();
  return blocks;
}

const listOf = (postings: readonly { number: number; frequency: number; length: number }[]): PostingList => ({
  numbers: Int32Array.from(postings, ({ number }) => number),
  frequencies: Uint8Array.from(postings, ({ frequency }) => frequency),
  lengths: Uint8Array.from(postings, ({ length }) => length),
});

const posting = fc.record({
  number: fc.oneof(fc.nat(200), fc.nat(2 ** 31 - 2)),
  frequency: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 255 })),
  length: fc.nat(255),
});
const list = fc
  .uniqueArray(posting, { selector: ({ number }) => number, minLength: 1, maxLength: 1_500, size: 'max' })
  .map((postings) => listOf(postings.sort((a, b) => a.number - b.number)));
const term = fc
  .oneof(fc.string({ unit: 'binary', minLength: 1, maxLength: 60 }), fc.stringMatching(/^[ab]{1,6}$/))
  .map(termOf);

describe('a block', () => {
  it('gives every term the postings that it was given, whatever they are', () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.tuple(term, list), { selector: ([name]) => name, maxLength: 12 }), (given) => {
        const lists = new Map(given);
        const blocks = pack(lists);
        const read = new Map<string, number[][]>();
        for (const { data, firstTerm, lastTerm } of blocks) {
          const entries = readEntries(data);
          expect(termBytes(entries[0]?.term as string)).toEqual(firstTerm);
          expect(termBytes(entries.at(-1)?.term as string)).toEqual(lastTerm);
          for (const { term: name, numbers, frequencies, lengths } of entries)
            read.set(name, [
              ...(read.get(name) ?? []),
              ...[...numbers].map((number, at) => [number, frequencies[at] as number, lengths[at] as number]),
            ]);
          for (const name of lists.keys()) {
            const found = findPostings(data, termBytes(name));
            const entry = entries.find((candidate) => candidate.term === name);
            expect(found?.numbers).toEqual(entry?.numbers);
            expect(found?.lengths).toEqual(entry?.lengths);
          }
        }
        for (const [name, { numbers, frequencies, lengths }] of lists)
          expect(read.get(name)).toEqual([...numbers].map((number, at) => [number, frequencies[at], lengths[at]]));
        expect(read.size).toBe(lists.size);
      }),
      { numRuns: 60 },
    );
  });

  it('has no postings of a term that it was not given', () => {
    const words = Array.from({ length: 62 }, (_, n) => (n + 2).toString(2).slice(1));
    const one = listOf([{ number: 7, frequency: 1, length: 9 }]);
    fc.assert(
      fc.property(fc.subarray(words, { minLength: 1 }), (given) => {
        const blocks = pack(new Map(given.map((word) => [word, one])));
        const found = words.filter((word) => blocks.some(({ data }) => findPostings(data, termBytes(word))));
        expect(found.sort()).toEqual([...given].sort());
      }),
    );
  });

  it('fits in half a page of Postgres', () => {
    const postings = Array.from({ length: 100_000 }, (_, n) => ({ number: n * 20_000, frequency: 9, length: 255 }));
    const blocks = pack(
      new Map([
        ['common', listOf(postings)],
        ...[...'xyz'].map((name) => [name, listOf(postings.slice(0, 300))] as const),
      ]),
    );
    expect(Math.max(...blocks.map(({ data }) => data.length))).toBeLessThan(3_950);
    expect(blocks.filter(({ firstTerm }) => firstTerm.equals(Buffer.from('common'))).map(({ place }) => place)).toEqual(
      blocks.filter(({ firstTerm }) => firstTerm.equals(Buffer.from('common'))).map((_, place) => place),
    );
  });
});

it('keeps the order of terms that Postgres has for bytes', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), fc.string({ unit: 'grapheme' }), (a, b) => {
      const [first, second] = [termOf(a), termOf(b)];
      expect(first < second ? -1 : first > second ? 1 : 0).toBe(Buffer.compare(termBytes(first), termBytes(second)));
    }),
  );
});

it('knows the length of a chunk within three per cent', () => {
  for (let words = 1; words < 40_000; words = Math.ceil(words * 1.1))
    expect(Math.abs(lengthOfCode(lengthCode(words)) / words - 1)).toBeLessThan(0.03);
});
