/** What `oncefleet eval` takes for questions, and how it judges what came. */
import { describe, expect, it } from 'vitest';
import { figuresOf, judge } from '../../src/cli/eval.ts';
import { type EvalQuestion, readQuestions } from '../../src/cli/eval-questions.ts';

const read = (content: string, collection: string | undefined = 'docs') => readQuestions('set', content, collection);

describe('a file of questions', () => {
  it('is lines or an array, with a byte order mark or blank lines', () => {
    const one = '{"question": "Why?", "words": ["a", "b"]}';
    const two = '{"question": "How?", "path": "a.md", "collection": "other"}';
    const expected = [
      { line: 1, question: 'Why?', collection: 'docs', path: undefined, heading: undefined, words: ['a', 'b'] },
      { line: 3, question: 'How?', collection: 'other', path: 'a.md', heading: undefined, words: [] },
    ];
    expect(read(`\uFEFF${one}\n\n${two}\r\n`)).toEqual(expected);
    expect(read(` [${one},\n${two}]`)).toEqual([expected[0], { ...expected[1], line: 2 }]);
  });

  it.each([
    ['', 'set has no question'],
    ['[]', 'set has no question'],
    ['{"question": "Why?"}', 'line 1: says nothing of what is right'],
    ['{"question": "", "path": "a"}', 'line 1.question'],
    ['{"path": "a"}', 'line 1.question'],
    ['{"question": "Why?", "path": "a", "answer": "x"}', 'answer'],
    ['[{"question": "Why?", "words": []}]', 'item 1.words'],
    ['["Why?"]', 'item 1'],
    ['{"question": "Why?", "path": "a"}\nnot json', 'line 2'],
    ['[{', 'set: '],
  ])('is refused with the place: %s', (content, message) => {
    expect(() => read(content)).toThrow(
      expect.objectContaining({ code: 'INPUT_INVALID', message: expect.stringContaining(message) }),
    );
  });
});

describe('a judgement', () => {
  const question = (given: Partial<EvalQuestion>): EvalQuestion => ({
    line: 1,
    question: 'Why?',
    collection: 'docs',
    path: undefined,
    heading: undefined,
    words: [],
    ...given,
  });
  const passages = [
    { path: 'a.md', heading: 'A > One', content: 'Straße  und\nWeg' },
    { path: 'b.md', heading: 'B > Two > Deep', content: 'Other' },
  ];
  const answer = (text: string) => ({ text, citations: { total: 1, invalid: 0 } });

  it.each([
    [{ path: 'b.md' }, 2],
    [{ heading: 'two' }, 2],
    [{ heading: 'Deep' }, 2],
    [{ path: 'a.md', heading: 'Two' }, 'none'],
    [{ path: 'c.md' }, 'none'],
    [{ words: ['STRASSE'] }, 'none'],
    [{ words: ['straße und weg'] }, 1],
    [{ path: 'b.md', words: ['straße'] }, 'none'],
  ])('of a search: %j is at %s', (given, rank) => {
    expect(judge(question(given), { passages })).toMatchObject({ rank, hasWords: undefined });
  });

  it.each([
    [{ path: 'b.md', words: ['It', 'works'] }, 'it WORKS', 2, true],
    [{ words: ['it', 'fails'] }, 'it works', undefined, false],
    [{ path: 'c.md' }, 'anything', 'none', undefined],
  ])('of an answer: %j', (given, text, rank, hasWords) => {
    expect(judge(question(given), { passages, answer: answer(text) })).toMatchObject({ rank, hasWords });
  });

  it('counts a question that failed as a miss', () => {
    const error = { code: 'MODEL_FAILED', message: 'no' };
    const failed = judge(question({ path: 'a.md', words: ['x'] }), { passages: [], error });
    expect(failed).toMatchObject({ rank: 'none', hasWords: false });
    const found = judge(question({ path: 'a.md', words: ['x'] }), { passages, answer: answer('x') });
    expect(figuresOf([failed, found])).toEqual({
      questions: 2,
      failed: 1,
      recall: { of: 2, hit1: 0.5, hit3: 0.5, hit5: 0.5, mrr: 0.5 },
      words: { of: 2, share: 0.5 },
      citations: { total: 1, invalid: 0, share: 1 },
    });
  });
});
