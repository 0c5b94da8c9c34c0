import type { Change } from '../mutation.ts';

export default [
  {
    name: 'list-heap-only',
    find: 'create index jobs_newest on jobs (tenant, id desc)',
    replace: 'create index jobs_newest on jobs (tenant, id desc) where finished_at is null',
    mechanism: 'no index knows what becomes of a job',
    test: 'test/db/jobs/claim-table.test.ts',
    title: 'a claim and an outcome write to no index',
  },
  {
    name: 'view-seq',
    find: 's.first_seq + e.ordinality - 1 as seq',
    replace: 's.first_seq + e.ordinality as seq',
    mechanism: 'the view journal_events gives every event its seq',
    test: 'test/journal/writer.test.ts',
    title: 'keeps order and seqs over many flushes',
  },
] satisfies readonly Change[];
