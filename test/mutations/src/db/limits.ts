import type { Change } from '../../mutation.ts';

const TEST = 'test/db/jobs/claim-gated.test.ts';

export default [
  {
    name: 'limits-turn',
    find: 'order by key for update`.execute(trx); if (rows.length',
    replace: 'order by key`.execute(trx); if (rows.length',
    mechanism: 'claims of one key take turns',
    test: TEST,
    title: 'never gives out more, however many claim at the same time on connections of their own',
  },
  {
    name: 'limits-live',
    find: 'count(distinct p.job_id)::int as live',
    replace: '0 as live',
    mechanism: 'places are taken up by runs',
    test: TEST,
    title: 'gives out as many places as there are, in one batch and in several, and the row says that it waits',
  },
  {
    name: 'limits-window',
    find: 'where p.key = k.key and p.started_at > clock_timestamp() -',
    replace: 'where p.key = k.key and p.started_at > clock_timestamp() +',
    mechanism: 'starts are counted as long as the window has them',
    test: TEST,
    title: 'holds for any window, and says when the next place comes free',
  },
  {
    name: 'limits-kept',
    find: 'Math.max(0, state.free - state.kept)',
    replace: 'state.free',
    mechanism: 'a place is kept for whoever was woken, and wakes nobody else',
    test: TEST,
    title: 'an end wakes the one that has waited longest, and its place is kept for it',
  },
  {
    name: 'limits-absent',
    find: 'set woken_at = null, since = clock_timestamp()',
    replace: 'set since = since',
    mechanism: 'a job that does not come for its place is put back',
    test: TEST,
    title: 'a place kept for a job that does not come goes to the next one, and the job behind the others',
  },
  {
    name: 'limits-pause-longest',
    find: 'greatest(k.paused_until, excluded.paused_until)',
    replace: 'excluded.paused_until',
    mechanism: 'the longest pause counts',
    test: TEST,
    title: 'a shorter pause does not end a longer one',
  },
  {
    name: 'limits-redefined',
    find: 'set concurrency = excluded.concurrency,',
    replace: 'set concurrency = l.concurrency,',
    mechanism: 'the numbers of the worker that was started last count',
    test: TEST,
    title: 'numbers that a later worker defines hold for jobs that wait already',
  },
] satisfies readonly Change[];
