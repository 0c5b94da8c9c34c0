import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'client-errors',
    find: `pool.on('connect', (client) => client.on('error', options.onError));`,
    replace: '',
    mechanism: 'a connection lost in a transaction does not end the process',
    test: 'test/runs/fences.test.ts',
    title: 'tells of it through onError, and its next statement fails',
  },
] satisfies readonly Change[];
