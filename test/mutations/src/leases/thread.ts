import type { Change } from '../../mutation.ts';

export default [
  {
    name: 'heartbeat',
    find: 'timer = setTimeout(() => void renew(), afterMs);',
    replace: '',
    mechanism: 'leases are renewed',
    test: 'test/leases/keeper.test.ts',
    title: 'renews by the database clock, again and again',
  },
  {
    name: 'heartbeat-again',
    find: 'schedule(retry ? Math.min(RETRY_MS, paceMs / 2) : undefined);',
    replace: 'if (retry) schedule(RETRY_MS);',
    mechanism: 'leases are renewed again and again',
    test: 'test/leases/keeper.test.ts',
    title: 'renews by the database clock, again and again',
  },
  {
    name: 'heartbeat-retry',
    find: 'schedule(retry ? Math.min(RETRY_MS, paceMs / 2) : undefined);',
    replace: 'if (!retry) schedule();',
    mechanism: 'a failed renewal is tried again',
    test: 'test/leases/keeper.test.ts',
    title: 'goes on after renewals that failed, and tells nobody of a loss',
  },
  {
    name: 'heartbeat-max-block',
    find: 'if (blockedMs > maxBlockMs) {',
    replace: 'if (false) {',
    mechanism: 'a blocked event loop loses its leases after maxBlockMs',
    test: 'test/leases/keeper.test.ts',
    title: 'lets the leases of a loop that is blocked beyond maxBlockMs expire, and aborts as soon as it runs again',
  },
  {
    name: 'heartbeat-released',
    find: '!isRenewed(lease) && held.has(lease.generation)',
    replace: '!isRenewed(lease) || held.has(lease.generation)',
    mechanism: 'only a lease that was not renewed is lost',
    test: 'test/leases/keeper.test.ts',
    title: 'renews by the database clock, again and again',
  },
  {
    name: 'heartbeat-pace',
    find: 'paceMs = message.ms;',
    replace: '',
    mechanism: 'a lease that needs a shorter heartbeat gets it',
    test: 'test/leases/keeper.test.ts',
    title: 'renews a lease whose TTL is shorter than the heartbeat',
  },
] satisfies readonly Change[];
