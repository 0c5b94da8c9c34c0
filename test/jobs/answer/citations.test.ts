import { describe, expect, it } from 'vitest';
import { checkCitations } from '../../../src/jobs/answer/citations.ts';

const sources = [
  'Green tea wants water of *80 degrees*; it’s bitter otherwise.\n\nSee `kettle.md`.',
  'Der Kessel darf nicht überlaufen.\nReinigen Sie ihn wöchentlich.',
  '水は八十度が適温です。',
];
const problems = (text: string): unknown[] =>
  checkCitations(text, sources.length, sources).problems.map(({ n, reason }) => [n, reason]);

describe('a mark', () => {
  it.each([
    ['Tea [1].', 1, []],
    ['Tea [1][3], kettles [2].', 3, []],
    [
      'Tea [4] and [0].',
      2,
      [
        [4, 'no_such_source'],
        [0, 'no_such_source'],
      ],
    ],
    ['In code `a[4]` and\n```js\nb[5]\n```\nnone.', 0, []],
    ['An open fence\n~~~\nb[5]', 0, []],
    ['A [4](https://example.org) link and\n[5]: https://example.org', 0, []],
  ])('%j', (text, total, expected) => {
    expect(checkCitations(text, sources.length, sources).total).toBe(total);
    expect(problems(text)).toEqual(expected);
  });

  it('has its place', () => {
    expect(checkCitations('`[9]` tea [7].', 3, sources)).toEqual({
      total: 1,
      invalid: 1,
      problems: [{ n: 7, at: 10, reason: 'no_such_source' }],
    });
  });
});

describe('a quotation', () => {
  it.each([
    'It says "green tea wants water of 80 degrees" [1].',
    "It says “Green tea wants water of 80 degrees; it's bitter otherwise.” [1]",
    'It says "Green tea wants […] bitter otherwise" [1].',
    'Dort steht „Der Kessel darf nicht überlaufen. Reinigen Sie ihn wöchentlich“ [2].',
    'On lit « Der Kessel darf nicht überlaufen » [2].'.replaceAll('« ', '«').replaceAll(' »', '»'),
    '「水は八十度が適温です」[3]。',
    'One of two has it: "Green tea wants water" [2][1].',
    'Called "green tea" [2].',
  ])('that holds: %s', (text) => {
    expect(problems(text)).toEqual([]);
  });

  it.each([
    ['It says "green tea wants water of 95 degrees" [1].', 1],
    ['From another: "Green tea wants water of 80 degrees" [2].', 2],
    ['Dort steht „Der Kessel darf ruhig überlaufen“ [2].', 2],
    ['「水は九十度が適温です」[3]。', 3],
    ['With a gap: "Green tea wants … boiling water" [1].', 1],
  ])('that does not: %s', (text, n) => {
    expect(problems(text)).toEqual([[n, 'quote_not_found']]);
  });
});

it('lists the first of many and counts all, in time that grows with the text', () => {
  const text = 'x "some words that are nowhere" [1] '.repeat(20_000);
  const checked = checkCitations(text, 3, sources);
  expect(checked).toMatchObject({ total: 20_000, invalid: 20_000 });
  expect(checked.problems).toHaveLength(50);
  expect(checkCitations('"“„«»「'.repeat(50_000), 3, sources).total).toBe(0);
});
