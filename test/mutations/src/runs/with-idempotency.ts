import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'alert-plain',
    find: 'forget.push(runtime.poisonAlerts.know([spec]));',
    replace: '',
    mechanism: 'a guarded processor looks after the alerts of its names',
    test: 'test/runtime/poison-alerts.test.ts',
    title: 'of withIdempotency that throws is called again, though there is no reconciler',
  },
  {
    name: 'guarded-closed',
    find: 'if (closed) return leave(delivery, token);',
    replace: '',
    mechanism: 'a closed processor leaves deliveries to others',
    test: 'test/runtime/shared-runtime.test.ts',
    title: 'a delivery to a closed processor waits for another worker',
  },
  {
    name: 'fingerprint-copy',
    find: 'fingerprinted(structuredClone(job.data), job)',
    replace: 'fingerprinted(job.data, job)',
    mechanism: 'a fingerprint cannot change the data of its job',
    test: 'test/runtime/shared-runtime.test.ts',
    title: 'leaves volatile fields out, and the processor still has them',
  },
  {
    name: 'fingerprint-nothing',
    find: `if (counts !== undefined && typeof counts !== 'function' && !isPromise) return counts;`,
    replace: 'if (counts !== null) return counts ?? null;',
    mechanism: 'a fingerprint of nothing is refused',
    test: 'test/runtime/shared-runtime.test.ts',
    title: 'a fingerprint that returns %s fails the job and says so',
  },
] satisfies readonly Change[];
