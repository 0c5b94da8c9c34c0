import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'multi-ids',
    find: `if (issues.length > 0) throw new InputInvalidError('Query', issues);`,
    replace: '',
    mechanism: 'ids that are none are named',
    test: 'test/http/multi-stream.test.ts',
    title: 'name the ids that are none, by their places',
  },
  {
    name: 'multi-first-place',
    find: `if (id !== '' && !places.has(id)) places.set(id, i);`,
    replace: `if (id !== '') places.set(isUuid(id) ? id : id + i, i);`,
    mechanism: 'a list of one bad id over and over is one issue',
    test: 'test/http/multi-stream.test.ts',
    title: 'are refused for %s',
  },
  {
    name: 'multi-count',
    find: '|| places.size > MAX_STREAMS',
    replace: '',
    mechanism: 'a list of too many is refused as one, not id by id',
    test: 'test/http/multi-stream.test.ts',
    title: 'are refused for %s',
  },
] satisfies readonly Change[];
