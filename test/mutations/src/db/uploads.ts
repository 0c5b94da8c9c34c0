import type { Change } from '../../mutation.ts';

const TEST = 'test/http/uploads.test.ts';
const SWEEP = 'test/maintenance/uploads.test.ts';

export default [
  {
    name: 'upload-job',
    find: ".where('job_id', '=', jobId)\n    .where('tenant', '=', tenant)",
    replace: '',
    mechanism: 'a job reads its own uploads alone',
    test: TEST,
    title: 'read no uploads of others, nor of other jobs, whatever hash they name',
  },
  {
    name: 'upload-parts-order',
    find: 'for (let ordinal = 0; ; ordinal++)',
    replace: 'for (let ordinal = 0; ordinal < 1; ordinal++)',
    mechanism: 'an upload is read to its last part',
    test: TEST,
    title: 'of many parts is put together as it was',
  },
  {
    name: 'upload-sweep-unclaimed',
    find: "when u.job_id is null then u.touched_at < clock_timestamp() - ${UNCLAIMED_MS} * interval '1 ms'",
    replace: 'when u.job_id is null then false',
    mechanism: 'uploads whose request died are removed',
    test: SWEEP,
    title: 'removes an upload: %s',
  },
  {
    name: 'upload-sweep-failed',
    find: "when j.status = 'failed' then j.finished_at < clock_timestamp() - ${FAILED_MS} * interval '1 ms'",
    replace: "when j.status = 'failed' then true",
    mechanism: 'uploads of a failed job are kept for its redrive',
    test: SWEEP,
    title: 'keeps an upload: %s',
  },
  {
    name: 'upload-sweep-ended',
    find: "else j.status in ('completed', 'cancelled')",
    replace: 'else true',
    mechanism: 'uploads of a job that may still run are kept',
    test: SWEEP,
    title: 'keeps an upload: %s',
  },
] satisfies readonly Change[];
