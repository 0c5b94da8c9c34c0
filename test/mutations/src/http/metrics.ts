import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'metrics-hidden',
    find: 'if (config.tokens !== undefined && token === undefined) return;',
    replace: '',
    mechanism: 'where the API has tokens the metrics need one',
    test: 'test/http/metrics.test.ts',
    title: 'of a web process may be read: %s',
  },
] satisfies readonly Change[];
