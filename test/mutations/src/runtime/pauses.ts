import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'pause-restored',
    find: 'await queue.pause();',
    replace: '',
    mechanism: 'a pause that Redis lost is restored',
    test: 'test/runtime/pauses.test.ts',
    title: 'before anything is dispatched',
  },
  {
    name: 'pause-adopted',
    find: `await insertPause(db, { ...name, id, by: 'bullmq' });`,
    replace: '',
    mechanism: 'a pause by another client is noted',
    test: 'test/runtime/pauses.test.ts',
    title: 'by another client is noted, and comes back after a flush as any other',
  },
  {
    name: 'pause-forgotten',
    find: `case 'resumed-elsewhere': await deletePause(db, name);`,
    replace: `case 'resumed-elsewhere':`,
    mechanism: 'a resume by another client is respected',
    test: 'test/runtime/pauses.test.ts',
    title: 'is over when another client resumes the queue, also after a flush',
  },
  {
    name: 'pause-lock',
    find: 'await lockPause(trx, name, IDLE_LIMIT_MS);',
    replace: '',
    mechanism: 'one process at a time changes the pause of a queue',
    test: 'test/runtime/pauses.test.ts',
    title: 'is what was asked for last, whatever rounds of the reconciler run beside it',
  },
] satisfies readonly Change[];
