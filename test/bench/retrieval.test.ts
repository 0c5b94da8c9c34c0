import { expect, it } from 'vitest';
import { fallen } from '../../bench/retrieval/baseline.ts';
import { LANGUAGES, readQuestions } from '../../bench/retrieval/question-set.ts';

const figures = { case: 'a', part: 'held-out', group: 'g', ranker: 'r', questions: 40, hit1: 50, hit3: 60 } as const;

it.each([
  ['as much is found', { hit5: 70, mrr: 0.6 }, 0],
  ['one question of forty less', { hit5: 67.5, mrr: 0.58 }, 0],
  ['two questions less', { hit5: 65, mrr: 0.6 }, 1],
  ['as many, further down', { hit5: 70, mrr: 0.5 }, 1],
])('%s than the baseline has: %j', (_what, found, lines) => {
  expect(fallen([{ ...figures, ...found }], [{ ...figures, hit5: 70, mrr: 0.6 }])).toHaveLength(lines);
});

it('a case that the baseline does not have is not held by it', () => {
  expect(fallen([{ ...figures, hit5: 70, mrr: 0.6 }], [])).toEqual(['a: not in the baseline']);
});

it('each question names a passage; those held out are 120 or more, in six languages, about two texts', async () => {
  const questions = (await Promise.all(LANGUAGES.map(readQuestions))).flat();
  const heldOut = questions.filter(({ part }) => part === 'held-out');
  expect(heldOut.length).toBeGreaterThanOrEqual(120);
  expect(new Set(heldOut.map(({ language }) => language)).size).toBe(6);
  expect(new Set(heldOut.map(({ expected }) => expected.path.split('/')[1]))).toEqual(
    new Set(['insurance.md', 'handbook.md']),
  );
});
