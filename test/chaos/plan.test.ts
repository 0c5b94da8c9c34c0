import { expect, it } from 'vitest';
import { FAULTS, planFaults } from '../../chaos/plan.ts';
import { findRecoveries, findRefused } from '../../chaos/report.ts';
import { WORKERS } from '../../chaos/settings.ts';

it('the same seed plans the same faults, another seed others', () => {
  expect(planFaults(7, 120, undefined)).toEqual(planFaults(7, 120, undefined));
  expect(planFaults(8, 120, undefined)).not.toEqual(planFaults(7, 120, undefined));
});

it('a longer run goes on as a shorter one with the same seed began', () => {
  const short = planFaults(7, 60, undefined);
  expect(planFaults(7, 120, undefined).slice(0, short.length)).toEqual(short);
});

it('every fault has its turn, on every process it is meant for', () => {
  const plan = planFaults(1, 3_600, undefined);
  for (const [fault, { on }] of Object.entries(FAULTS)) {
    const targets = new Set(plan.filter((planned) => planned.fault === fault).map(({ target }) => target));
    const workers = Array.from({ length: WORKERS }, (_, i) => i);
    const wanted = { worker: workers, web: [WORKERS], process: [...workers, WORKERS], server: [undefined] }[on];
    expect([...targets].sort(), fault).toEqual(wanted);
  }
});

it('faults can be chosen', () => {
  const plan = planFaults(1, 60, ['freeze', 'redis-flush']);
  expect([...new Set(plan.map(({ fault }) => fault))].sort()).toEqual(['freeze', 'redis-flush']);
});

it('a recovery lasts from the last fault that took a worker away to the next start of what it ran', () => {
  const start = { pid: 1, type: 'start', key: 'k', kind: 'effect' } as const;
  const fault = { pid: 1, type: 'fault', target: 'worker-a' } as const;
  const entries = [
    { ...start, at: 10, jobId: 'taken', fence: 1 },
    { ...start, at: 20, jobId: 'done', fence: 1 },
    { ...fault, at: 50, fault: 'freeze' },
    { ...fault, at: 80, fault: 'cut-redis' },
    { ...fault, at: 100, fault: 'kill' },
    { ...fault, at: 110, fault: 'kill', pid: 3 },
    { ...start, at: 3_100, pid: 2, jobId: 'taken', fence: 2 },
  ];
  const attempts = [
    { jobId: 'taken', fence: 1, worker: 'a', outcome: 'crash' },
    { jobId: 'taken', fence: 2, worker: 'b', outcome: 'completed' },
    { jobId: 'done', fence: 1, worker: 'a', outcome: 'completed' },
  ];
  expect(findRecoveries(entries, attempts)).toEqual([3_000]);
});

it('a refused write is one that Postgres refused, counted once an attempt', () => {
  const refused = { at: 1, pid: 1, type: 'refused', what: 'transaction', code: 'LEASE_LOST' } as const;
  const entries = [
    {
      ...refused,
      jobId: 'zombie',
      fence: 1,
      why: 'Lease of job zombie at fence 1 is lost: a transaction found the row at another fence',
    },
    {
      ...refused,
      jobId: 'stopped',
      fence: 1,
      why: 'Lease of job stopped at fence 1 is lost: it was not renewed in time',
    },
    { ...refused, jobId: 'cut', fence: 1, code: 'ECONNRESET', why: 'read ECONNRESET' },
  ];
  const logs = [
    {
      msg: 'run given up: its lease is lost',
      jobId: 'zombie',
      fence: 1,
      err: { message: 'a transaction found the row at another fence' },
    },
    { msg: 'lease lost', jobId: 'renewer', fence: 2, why: 'its row is no longer at this fence' },
    { msg: 'lease lost', jobId: 'stopped', fence: 1, why: 'it was not renewed in time' },
  ];
  expect([...findRefused(entries, logs)]).toEqual(['zombie/1', 'renewer/2']);
});
