import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'foreign-added-once',
    find: `'deduplication',`,
    replace: '',
    mechanism: 'a deduplication key does not swallow a job that is added again',
    test: 'test/runs/around-bullmq.test.ts',
    title: 'keeps its options: %s',
  },
  {
    name: 'foreign-own-number',
    find: `return isOwnNumber || id === ''`,
    replace: `return id === ''`,
    mechanism: 'a number of BullMQ’s is no id to add a job under',
    test: 'test/runs/around-bullmq.test.ts',
    title: 'keeps its options: %s',
  },
  {
    name: 'foreign-long-id',
    find: 'return fits ? key :',
    replace: 'return key ? key :',
    mechanism: 'an id that is too long for a key is hashed',
    test: 'test/runs/around-bullmq.test.ts',
    title: 'keeps its options: %s',
  },
  {
    name: 'foreign-timestamp',
    find: 'timestamp: source.timestamp,',
    replace: '',
    mechanism: 'a job that is added again keeps the time that names it',
    test: 'test/runs/around-bullmq.test.ts',
    title: 'keeps its options: %s',
  },
  {
    name: 'foreign-empty-key',
    find: `value === null || value === '') return undefined;`,
    replace: 'false) return undefined;',
    mechanism: 'an empty key is none',
    test: 'test/runs/deliveries.test.ts',
    title: 'runs a key once, whichever BullMQ job carries it, and a job without a key under its own id',
  },
] satisfies readonly Change[];
