import type { Change } from '../mutation.ts';

export default [
  {
    name: 'delay-clamp',
    find: 'return Number.isNaN(number) ? bounds.default : Math.min(Math.max(number, bounds.min), bounds.max) + 0;',
    replace: 'return number;',
    mechanism: 'a number from a stranger is one that a row takes',
    test: 'test/runs/verdict.test.ts',
    title: 'ends within its attempts and waits for a time that Postgres takes, whatever the numbers',
  },
  {
    name: 'number-text',
    find: `return typeof value === 'string' && value.trim() !== '' ? Number(value) : Number.NaN;`,
    replace: 'return Number.NaN;',
    mechanism: 'a numeric text of another client is its number',
    test: 'test/runs/verdict.test.ts',
    title: 'and the strategy gives a text',
  },
] satisfies readonly Change[];
