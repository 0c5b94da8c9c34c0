import { expect, it } from 'vitest';
import { ThinkSplitter } from '../../../../src/jobs/answer/model/think.ts';

function split(text: string, size: number): { reasoning: string; delta: string } {
  const splitter = new ThinkSplitter();
  const joined = { reasoning: '', delta: '' };
  const take = (parts: readonly { type: 'reasoning' | 'delta'; text: string }[]): void => {
    for (const part of parts) joined[part.type] += part.text;
  };
  for (let from = 0; from < text.length; from += size) take(splitter.push(text.slice(from, from + size)));
  take(splitter.end());
  return joined;
}

const cases: [name: string, text: string, reasoning: string, answer: string][] = [
  ['no reasoning', 'Plain text.', '', 'Plain text.'],
  ['reasoning first', '<think>\nHm.\n</think>\n\nThe answer.', '\nHm.\n', 'The answer.'],
  ['space before it', '\n <think>a</think>b', 'a', 'b'],
  ['empty reasoning', '<think></think>b', '', 'b'],
  ['a tag in the answer', 'The tag is `<think>` and `</think>`.', '', 'The tag is `<think>` and `</think>`.'],
  ['another tag', '<thing>is it</thing>', '', '<thing>is it</thing>'],
  ['reasoning without end', '<think>for ever', 'for ever', ''],
  ['a part of a tag in reasoning', '<think>a </thin b</think>c', 'a </thin b', 'c'],
  ['a beginning that is no tag', '<thi', '', '<thi'],
  ['nothing', '', '', ''],
];

it.each(cases.flatMap((row) => [1, 2, 5, 1_000].map((size) => [...row, size] as const)))(
  'tells %s apart (%s)',
  (_name, text, reasoning, delta, size) => {
    expect(split(text, size)).toEqual({ reasoning, delta });
  },
);
