import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'doctor-dead-rows',
    find: `to_regclass('oncefleet.ended_attempts')`,
    replace: `to_regclass('oncefleet.job_attempts')`,
    mechanism: 'the doctor counts the dead rows of a table and not of a view',
    test: 'test/maintenance/doctor/doctor.test.ts',
    title: 'a table that is full of dead rows',
  },
  {
    name: 'list-doctor',
    find: 'not exists (select from oncefleet.unfinished_jobs where job_id = id)',
    replace: 'false',
    mechanism: 'the doctor finds unfinished jobs that are not on the list',
    test: 'test/maintenance/doctor/doctor.test.ts',
    title: 'finds $kind after $how, repairs it when asked to, and is content then',
  },
] satisfies readonly Change[];
