import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'redrive-canary',
    find: 'if (result.failedCanaries.length > 0) return result;',
    replace: '',
    mechanism: 'a canary that fails keeps the rest failed',
    test: 'test/http/redrive.test.ts',
    title: 'leaves the rest failed when a canary fails again',
  },
  {
    name: 'redrive-canary-wait',
    find: 'await waitForResult(host, id, { timeoutMs,',
    replace: 'if (id === undefined) await waitForResult(host, id, { timeoutMs,',
    mechanism: 'the rest waits for the canaries',
    test: 'test/http/redrive.test.ts',
    title: 'leaves the rest failed when a canary fails again',
  },
  {
    name: 'redrive-at-once',
    find: 'const REDRIVE_AT_ONCE = 20;',
    replace: 'const REDRIVE_AT_ONCE = 10_000;',
    mechanism: 'canaries are redriven by the twenty',
    test: 'test/runs/deliveries.test.ts',
    title: 'redrives canaries by the twenty; when one cannot be, reports that once nothing goes on',
  },
  {
    name: 'redrive-settled',
    find: 'await Promise.allSettled(chunk.map(redriveOne))',
    replace:
      'await Promise.all(chunk.map(redriveOne)).then((all) => all.map((value) => ({ status: "fulfilled", value })))',
    mechanism: 'a bulk redrive that fails has come to rest',
    test: 'test/runs/deliveries.test.ts',
    title: 'redrives canaries by the twenty; when one cannot be, reports that once nothing goes on',
  },
] satisfies readonly Change[];
