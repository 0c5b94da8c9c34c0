import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'board-update-own',
    find: `if (delivery.kind !== 'foreign') throw refused(`,
    replace: 'if (false) throw refused(',
    mechanism: 'the data of a job of the fleet are not edited',
    test: 'test/http/board-actions.test.ts',
    title: 'of this fleet are not edited (%s)',
  },
] satisfies readonly Change[];
