import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'redrive-leave',
    find: 'AbortSignal.any([left.signal, streams.drainSignal])',
    replace: 'streams.drainSignal',
    mechanism: 'a bulk redrive stops when its caller leaves',
    test: 'test/http/redrive.test.ts',
    title: 'stops when the caller leaves: the rest stays failed, and another request takes it',
  },
  {
    name: 'redrive-drain',
    find: 'AbortSignal.any([left.signal, streams.drainSignal])',
    replace: 'left.signal',
    mechanism: 'a bulk redrive does not hold up a drain',
    test: 'test/http/redrive.test.ts',
    title: 'is answered 503 when the process drains, and holds nothing up',
  },
  {
    name: 'redrive-tenant',
    find: 'tenant: request.tenant,',
    replace: '',
    mechanism: 'a bulk redrive takes jobs of its tenant alone',
    test: 'test/http/redrive.test.ts',
    title: 'needs a token where there are any, and takes jobs of its tenant alone',
  },
  {
    name: 'redrive-body',
    find: `parseOptions('Redrive', redriveManyBody, request.body)`,
    replace: 'request.body',
    mechanism: 'a filter that makes no sense is refused by path',
    test: 'test/http/redrive.test.ts',
    title: 'by path, and redrives nothing',
  },
  {
    name: 'redrive-no-body',
    find: 'if (request.body === undefined)',
    replace: 'request.body ??= {}; if (false)',
    mechanism: 'no body does not stand for every failed job',
    test: 'test/http/redrive.test.ts',
    title: 'refuses no body at all, which is too easily sent by mistake',
  },
] satisfies readonly Change[];
