import type { Change } from '../../../mutation.ts';

export default [
  {
    name: 'board-cancels',
    find: 'const ending = await endRowOf(host, delivery);',
    replace: `const ending: string = 'over';`,
    mechanism: 'what a person removes is cancelled in Postgres',
    test: 'test/http/board-actions.test.ts',
    title: 'and does not come back',
  },
  {
    name: 'board-cancels-all',
    find: 'const endings = await endRows(host, rowsToEnd(deliveries));',
    replace: 'const endings = new Map<string, string>();',
    mechanism: 'what a person cleans or empties is cancelled in Postgres',
    test: 'test/http/board-actions.test.ts',
    title: 'is cancelled in batches, however many there are',
  },
  {
    name: 'board-keeps-running',
    find: `if (ending === 'running' && delivery.kind === 'own') throw refusedAsRunning(id);`,
    replace: '',
    mechanism: 'what somebody runs is not removed',
    test: 'test/http/board-actions.test.ts',
    title: 'is not removed, by any button that takes what waits',
  },
] satisfies readonly Change[];
