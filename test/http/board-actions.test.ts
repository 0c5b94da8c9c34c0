/** Every button of Bull Board against Postgres: it does to the row what it says, or says why not. */
import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { createBullBoard } from '@bull-board/api';
import type { AppControllerRoute, IServerAdapter } from '@bull-board/api/typings/app';
import fc from 'fast-check';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createApp } from '../../src/http/app.ts';
import { BOARD_ROUTES } from '../../src/http/board-adapters.ts';
import { silentLogger } from '../../src/log.ts';
import { claimFree, expireLease, journalOf } from '../helpers/fixtures.ts';
import { type BoardStage, type ForeignQueue, startBoardStage, startForeignQueue } from './board-stage.ts';
import { inject } from './requests.ts';

let stage: BoardStage;
let foreign: ForeignQueue;
beforeAll(async () => {
  stage = await startBoardStage();
  foreign = await startForeignQueue(stage);
});
afterAll(async () => {
  await foreign?.close();
  await stage?.close();
});
beforeEach(async () => {
  await stage.loseRedis();
  await sql`truncate oncefleet.jobs, oncefleet.unfinished_jobs, oncefleet.ended_attempts, oncefleet.stream_heads, oncefleet.journal_segments, oncefleet.dispatch_outbox,
    oncefleet.reconciler_rounds, oncefleet.paused_queues`.execute(stage.db);
  stage.ran.length = 0;
});

const WAIT = { timeout: 15_000, interval: 20 };
const HOUR = 3_600_000;

type Place = 'waiting' | 'prioritized' | 'delayed';

async function enqueue(place: Place, text = 'kept'): Promise<string> {
  const options = { waiting: {}, prioritized: { priority: 5 }, delayed: { delayMs: HOUR } }[place];
  const { id } = await stage.fleet.enqueue('keep', { text }, { key: randomUUID(), ...options });
  await reaches(id, place);
  return id;
}

/** A Redis that is slow to answer leaves a dispatch to the reconciler. */
async function reaches(id: string, state: string): Promise<void> {
  const look = async () => {
    const now = await stage.queue.getJobState(id);
    if (now === 'unknown') await stage.reconcile();
    return now;
  };
  await expect.poll(look, WAIT).toBe(state);
}

/** A job that a worker has run; the worker is gone. */
async function enqueueAndRun(text: string): Promise<string> {
  const { id } = await stage.fleet.enqueue('keep', { text }, { key: randomUUID() });
  const worker = await stage.work();
  const state = text.startsWith('fail') ? 'failed' : 'completed';
  await reaches(id, state);
  await worker.close();
  stage.ran.length = 0;
  return id;
}

/** The answer is a sentence for a person, where the board looks for it. */
function expectRefused(
  answer: { statusCode: number; body: string; json(): { error?: unknown; message?: unknown; code?: unknown } },
  sentence: RegExp,
  status = 409,
): void {
  expect([answer.statusCode, answer.body]).toEqual([status, expect.any(String)]);
  const { error, message } = answer.json();
  expect(error).toEqual(expect.any(String));
  expect(message).toMatch(sentence);
}

/** Neither the reconciler, nor the doctor, nor a worker brings it back. */
async function expectGone(id: string): Promise<void> {
  await stage.reconcile();
  const { findings } = await stage.fleet.doctor({ fix: true, lookAgainMs: 20 });
  expect(findings.filter(({ jobs }) => jobs.length > 0)).toEqual([]);
  expect(await stage.queue.getJobState(id)).toBe('unknown');
  const worker = await stage.work();
  // A job that comes after it has run, so it would have run too.
  const probe = await stage.fleet.enqueue('keep', { text: 'probe' });
  await probe.result({ timeoutMs: 15_000 });
  await worker.close();
  expect(stage.ran).toEqual(['probe']);
}

async function expectCancelled(id: string): Promise<void> {
  expect(await stage.rowOf(id)).toMatchObject({ status: 'cancelled' });
  expect((await journalOf(stage.db, id)).map(({ event }) => event.type)).toEqual(['cancelled']);
  expect(await stage.fleet.get(id)).toMatchObject({ error: { code: 'CANCELLED' } });
}

describe('the routes of the board', () => {
  it('are those that this package knows, each as a reading or a writing one', () => {
    let routes: AppControllerRoute[] = [];
    const adapter: Record<string, unknown> = {};
    for (const method of [
      'setQueues',
      'setViewsPath',
      'setStaticPath',
      'setUIConfig',
      'setEntryRoute',
      'setErrorHandler',
    ])
      adapter[method] = () => adapter;
    adapter['setApiRoutes'] = (given: AppControllerRoute[]) => {
      routes = given;
      return adapter;
    };
    createBullBoard({ queues: [], serverAdapter: adapter as unknown as IServerAdapter });
    const shown = routes.map(({ method, route }) => `${String(method)} ${String(route)}`);
    expect(shown.toSorted()).toEqual(Object.keys(BOARD_ROUTES).toSorted());
    for (const [route, kind] of Object.entries(BOARD_ROUTES))
      expect([route, kind]).toEqual([route, route.startsWith('get ') ? 'reads' : 'writes']);
  });

  it.each([
    '/redis/stats',
    '/queues',
    '/queues?activeQueue=work&status=waiting&page=1&jobsPerPage=10',
    '/job-schedulers',
    '/job-schedulers?queueName=work',
    '/queues/work/metrics',
    '/queues/work/default-job-options',
    '/queues/work/workers',
    '/queues/work/rate-limit',
    '/queues/work/job-data-schema',
    '/queues/work/JOB/logs',
    '/queues/work/JOB/flow',
    '/queues/work/JOB',
  ])('that read answer: GET %s', async (path) => {
    const id = await enqueue('waiting');
    const answer = await stage.call('GET', path.replace('JOB', id));
    expect([answer.statusCode, answer.body]).toEqual([200, expect.any(String)]);
  });

  it.each([
    ['GET', '/queues?activeQueue=%25', 400],
    ['GET', '/queues?status=nonsense', 400],
    ['GET', '/queues?page=-1', 400],
    ['GET', '/queues?jobsPerPage=1000000', 400],
    ['GET', '/queues?page=1&page=2', 400],
    ['GET', '/job-schedulers?queueName=%25', 400],
    ['GET', '/queues/nowhere/metrics', 404],
    ['GET', '/queues/work/nobody', 404],
    ['GET', '/nonsense', 404],
    ['PUT', '/queues/work/clean/active', 400],
    ['PUT', '/queues/work/clean/nonsense', 400],
    ['PUT', '/queues/work/clean/__proto__', 400],
    ['PUT', '/queues/work/retry/nonsense', 400],
    ['PUT', '/queues/work/retry/completed', 409],
    ['PUT', '/queues/work/obliterate', 400],
    ['PUT', '/queues/nowhere/pause', 404],
    ['PUT', '/queues/work/nobody/clean', 404],
    ['PUT', '/queues/work/nobody/promote', 404],
    ['PUT', '/queues/work/meta/clean', 404],
    ['GET', '/queues/work/wait', 404],
    ['PUT', '/queues/work/delayed/retry', 404],
    ['PUT', '/queues/work/WAITING/retry', 400],
    ['PUT', '/queues/work/WAITING/promote', 409],
    ['PUT', '/queues/work/WAITING/remove-unprocessed-children', 400],
    ['PUT', '/queues/work/job-schedulers/nobody/remove', 404],
    ['PUT', '/queues/work/job-schedulers/nobody/run', 404],
    ['PATCH', '/queues/work/job-schedulers/nobody', 404, { every: 1000 }],
    ['PATCH', '/queues/work/job-schedulers/nobody', 400, { pattern: '* * * * *', every: 1000 }],
    ['PATCH', '/queues/work/WAITING/delay', 400, { runAt: 1 }],
    ['PATCH', '/queues/work/WAITING/delay', 400, {}],
    ['PATCH', '/queues/work/DELAYED/delay', 400, { runAt: 'soon' }],
    ['PATCH', '/queues/work/DELAYED/delay', 400, { runAt: 1e300 }],
    ['PATCH', '/queues/work/WAITING/priority', 400, { priority: -1 }],
    ['PATCH', '/queues/work/WAITING/priority', 400, { priority: 2 ** 40 }],
    ['PATCH', '/queues/work/WAITING/priority', 400, null],
    ['PUT', '/queues/work/concurrency', 400, { concurrency: 'many' }],
    ['PUT', '/queues/work/rate-limit', 400, { max: -1, duration: 1 }],
    ['POST', '/queues/work/add', 400, { name: 7 }],
    ['POST', '/queues/work/add', 404, {}],
    ['POST', '/queues/work/add', 404, []],
    ['POST', '/queues/work/add', 400, { name: 'keep', data: { text: 'x' }, options: 'none' }],
  ] as const)('that cannot be meant get a sentence: %s %s is %i', async (method, path, status, body?: unknown) => {
    const [waiting, delayed] = [await enqueue('waiting'), await enqueue('delayed')];
    const answer = await stage.call(method, path.replace('WAITING', waiting).replace('DELAYED', delayed), body);
    expect([answer.statusCode, answer.body]).toEqual([status, expect.any(String)]);
    if (!path.startsWith('/nonsense')) expect(answer.json().error).toBeDefined();
    for (const id of [waiting, delayed]) expect(await stage.rowOf(id)).toMatchObject({ status: 'pending' });
  });

  it('answer whatever they are sent, never by an error of their own', async () => {
    const id = await enqueue('delayed');
    const text = fc.constantFrom(
      id,
      'meta',
      'work',
      'failed',
      'completed',
      'delayed',
      'wait',
      '__proto__',
      'constructor',
      '%2F',
      '1',
      'a:b',
    );
    const write = fc.constantFrom(...Object.keys(BOARD_ROUTES));
    const values = fc.record(
      {
        name: fc.constantFrom('keep', '', 'toString', null, 3),
        data: fc.anything({ maxDepth: 2 }),
        jobData: fc.anything({ maxDepth: 2 }),
        options: fc.constantFrom({}, { delay: -1 }, { delay: 'x' }, { parent: {} }, null, [], { repeat: { every: 1 } }),
        runAt: fc.constantFrom(Number.MAX_VALUE, -1, null, 'x', 1),
        priority: fc.constantFrom(-1, 1e9, 1.5, null, 2),
        concurrency: fc.constantFrom(-1, 1.5, null, 1),
        max: fc.constantFrom(null, -1, 'x', 1),
        duration: fc.constantFrom(null, -1, 1),
        pattern: fc.constantFrom('', 'nonsense', null, '* * * * *'),
        every: fc.constantFrom(null, 0, 'x', 1000),
        force: fc.constantFrom(true, 'x', null),
      },
      { requiredKeys: [] },
    );
    const body = fc.oneof(values, fc.constantFrom(null, 7, 'text', [], true));
    await fc.assert(
      fc.asyncProperty(write, text, text, body, async (route, first, second, sent) => {
        const [method, path] = route.split(' ') as [string, string];
        const filled = path
          .replace('/api', '')
          .replace(':queueName', 'work')
          .replace(/:\w+/, first)
          .replace(/:\w+/, second);
        const answer = await stage.call(method.toUpperCase() as 'PUT', filled, method === 'get' ? undefined : sent);
        expect([answer.statusCode < 500, answer.body]).toEqual([true, answer.body]);
        if (answer.statusCode >= 400) expect(answer.json().error).toBeDefined();
      }),
      { numRuns: 700 },
    );
  });

  it('that are sent no JSON, or none of this kind, get a sentence', async () => {
    for (const [payload, type, status] of [
      ['{', 'application/json', 400],
      ['a=b', 'application/x-www-form-urlencoded', 415],
      [JSON.stringify({ name: 'keep', data: { text: 'x'.repeat(100_000) } }), 'application/json', 413],
    ] as const) {
      const answer = await inject(stage.app, {
        method: 'POST',
        url: '/admin/queues/api/queues/work/add',
        payload,
        headers: { 'content-type': type },
      });
      expectRefused(answer, /\w+ \w+/, status);
    }
  });
});

describe('a job that waits', () => {
  const buttons: [button: string, places: readonly Place[], press: (id: string, place: Place) => Promise<unknown>][] = [
    ['Clean', ['waiting', 'prioritized', 'delayed'], (id) => stage.call('PUT', `/queues/work/${id}/clean`)],
    [
      'Clean all',
      ['waiting', 'prioritized', 'delayed'],
      (_, place) => stage.call('PUT', `/queues/work/clean/${place === 'waiting' ? 'wait' : place}`),
    ],
    ['Empty', ['waiting', 'prioritized'], () => stage.call('PUT', '/queues/work/empty')],
    [
      'Obliterate',
      ['waiting', 'prioritized', 'delayed'],
      async () => {
        await stage.call('PUT', '/queues/work/pause');
        const answer = await stage.call('PUT', '/queues/work/obliterate', { force: false });
        await stage.call('PUT', '/queues/work/resume');
        return answer;
      },
    ],
  ];
  const cases = buttons.flatMap(([button, places, press]) => places.map((place) => ({ button, place, press })));

  it.each(cases)('is cancelled by $button ($place), and does not come back', async ({ place, press }) => {
    const id = await enqueue(place);
    const answer = (await press(id, place)) as { statusCode: number; body: string };
    expect([answer.statusCode, answer.body]).toEqual([expect.toBeOneOf([200, 204]), expect.any(String)]);
    await expectCancelled(id);
    await expectGone(id);
  });

  it('is cancelled by Obliterate also if Redis has lost it', async () => {
    const id = await enqueue('delayed');
    await stage.call('PUT', '/queues/work/pause');
    await stage.loseRedis();
    await stage.reconcile();
    await stage.queue.remove(id);
    expect((await stage.call('PUT', '/queues/work/obliterate', {})).statusCode).toBe(200);
    await expectCancelled(id);
  });

  it('stays when Empty is pressed and it is delayed', async () => {
    const id = await enqueue('delayed');
    expect((await stage.call('PUT', '/queues/work/empty')).statusCode).toBe(200);
    expect(await stage.rowOf(id)).toMatchObject({ status: 'pending' });
    expect(await stage.queue.getJobState(id)).toBe('delayed');
  });

  it('is cancelled in batches, however many there are', async () => {
    const ids = await Promise.all(
      Array.from({ length: 1_500 }, async (_, n) => {
        const { id } = await stage.fleet.enqueue('keep', { text: `${n}` }, { delayMs: HOUR });
        return id;
      }),
    );
    const dispatched = async () => {
      await stage.reconcile();
      return stage.queue.getDelayedCount();
    };
    await expect.poll(dispatched, WAIT).toBe(ids.length);
    expect((await stage.call('PUT', '/queues/work/clean/delayed')).statusCode).toBe(200);
    const { count } = (
      await sql<{ count: number }>`
      select count(*)::int as count from oncefleet.jobs where status = 'cancelled'`.execute(stage.db)
    ).rows[0] as { count: number };
    expect([count, await stage.queue.getDelayedCount()]).toEqual([ids.length, 0]);
  });

  it('is cancelled or run, never both, when a worker fetches it as it is removed', async () => {
    const ids = await Promise.all(Array.from({ length: 40 }, (_, n) => enqueue('waiting', `${n}`)));
    const worker = await stage.work();
    const answers = await Promise.all(ids.map((id) => stage.call('PUT', `/queues/work/${id}/clean`)));
    for (const [n, id] of ids.entries()) {
      await expect.poll(async () => (await stage.rowOf(id)).status, WAIT).toBeOneOf(['cancelled', 'completed']);
      const { status } = await stage.rowOf(id);
      expect([status, stage.ran.filter((text) => text === `${n}`).length]).toEqual([
        status,
        status === 'completed' ? 1 : 0,
      ]);
      // Said to be removed: cancelled, or it had ended before.
      if (answers[n]?.statusCode === 409) expect(status).toBe('completed');
    }
    await worker.close();
  });

  it('stays when its row is locked by a claim, and the person is told', async () => {
    const id = await enqueue('waiting');
    const held = Promise.withResolvers<void>();
    const release = Promise.withResolvers<void>();
    const claim = stage.db.transaction().execute(async (trx) => {
      await sql`select from oncefleet.jobs where id = ${id} for update`.execute(trx);
      held.resolve();
      await release.promise;
    });
    await held.promise;
    expectRefused(await stage.call('PUT', `/queues/work/${id}/clean`), /being run by a worker/);
    release.resolve();
    await claim;
    expect(await stage.rowOf(id)).toMatchObject({ status: 'pending' });
    expect(await stage.queue.getJobState(id)).toBe('waiting');
  });
});

describe('a job that runs', () => {
  it('is not removed, by any button that takes what waits', async () => {
    const id = await enqueue('waiting');
    await claimFree(stage.db, id);
    expectRefused(await stage.call('PUT', `/queues/work/${id}/clean`), /oncefleet cancel/);
    for (const path of ['clean/wait', 'empty']) await stage.call('PUT', `/queues/work/${path}`);
    expect(await stage.rowOf(id)).toMatchObject({ status: 'running' });
    expect(await stage.queue.getJobState(id)).toBe('waiting');
  });

  it('is cancelled once its worker is gone', async () => {
    const id = await enqueue('waiting');
    await claimFree(stage.db, id);
    await expireLease(stage.db, id);
    expect((await stage.call('PUT', `/queues/work/${id}/clean`)).statusCode).toBe(204);
    await expectCancelled(id);
  });

  it('cannot be rescheduled or given another priority', async () => {
    const [delayed, prioritized] = [await enqueue('delayed'), await enqueue('prioritized')];
    await claimFree(stage.db, delayed);
    await claimFree(stage.db, prioritized);
    const before = await stage.rowOf(delayed);
    expectRefused(await stage.call('PATCH', `/queues/work/${delayed}/delay`, { runAt: Date.now() }), /Somebody runs/);
    expectRefused(await stage.call('PATCH', `/queues/work/${prioritized}/priority`, { priority: 9 }), /Somebody runs/);
    expect((await stage.rowOf(delayed)).run_at).toEqual(before.run_at);
  });
});

describe('a job that has ended', () => {
  it.each(['failed', 'completed'] as const)(
    'leaves BullMQ by Clean and Clean all, and keeps its row (%s)',
    async (state) => {
      const ids = [await enqueueAndRun(`${state}-1`), await enqueueAndRun(`${state}-2`)] as const;
      const before = await stage.rowOf(ids[0]);
      expect((await stage.call('PUT', `/queues/work/${ids[0]}/clean`)).statusCode).toBe(204);
      expect(await stage.queue.getJobState(ids[0])).toBe('unknown');
      expect(await stage.queue.getJobState(ids[1])).toBe(state);
      expect((await stage.call('PUT', `/queues/work/clean/${state}`)).statusCode).toBe(200);
      for (const id of ids) expect(await stage.rowOf(id)).toMatchObject({ status: state, fence: before.fence });
      await expectGone(ids[0]);
      await expectGone(ids[1]).catch(() => undefined);
      expect(await stage.queue.getJobState(ids[1])).toBe('unknown');
    },
  );

  it('that failed is redriven by Retry', async () => {
    const id = await enqueueAndRun('fail');
    expect((await stage.call('PUT', `/queues/work/${id}/retry`)).statusCode).toBe(204);
    expect(await stage.rowOf(id)).toMatchObject({ status: 'pending' });
    expect(await stage.queue.getJobState(id)).toBe('waiting');
    const worker = await stage.work();
    await expect.poll(async () => (await stage.rowOf(id)).fence, WAIT).toBe(2);
    await worker.close();
    expect(stage.ran).toEqual(['fail']);
  });

  it.each([
    ['cancelled', /was cancelled/],
    ['completed', /has completed/],
    ['pending', /is not failed but pending/],
  ] as const)(
    'in BullMQ alone is not retried against its row (%s), and the person is told why',
    async (status, why) => {
      const id = await enqueueAndRun('fail');
      await sql`update oncefleet.jobs set status = ${status}, finished_at = case when ${status} = 'pending' then null else finished_at end
      where id = ${id}`.execute(stage.db);
      expectRefused(await stage.call('PUT', `/queues/work/${id}/retry`), why);
      expect(await stage.rowOf(id)).toMatchObject({ status, fence: 1 });
      expect(await stage.queue.getJobState(id)).toBe('failed');
    },
  );

  it('is retried by Retry all, and those that may not be are told apart', async () => {
    const ids = [await enqueueAndRun('fail-1'), await enqueueAndRun('fail-2'), await enqueueAndRun('fail-3')] as const;
    await sql`update oncefleet.jobs set status = 'cancelled' where id = ${ids[1]}`.execute(stage.db);
    expectRefused(
      await stage.call('PUT', '/queues/work/retry/failed'),
      new RegExp(`2 of 3 jobs are retried\\. The others stay: Job ${ids[1]} was cancelled`),
    );
    expect(await Promise.all(ids.map(async (id) => (await stage.rowOf(id)).status))).toEqual([
      'pending',
      'cancelled',
      'pending',
    ]);
    await stage.call('PUT', `/queues/work/${ids[1]}/clean`);
    await stage.call('PUT', '/queues/work/clean/wait');
    const again = [await enqueueAndRun('fail-4'), await enqueueAndRun('fail-5')];
    expect((await stage.call('PUT', '/queues/work/retry/failed')).json()).toEqual({ retried: 2, skipped: 0 });
    for (const id of again) expect(await stage.rowOf(id)).toMatchObject({ status: 'pending' });
  });

  it('that completed is not run again, though BullMQ could', async () => {
    const id = await enqueueAndRun('done');
    expectRefused(await stage.call('PUT', `/queues/work/${id}/retry`), /has completed/);
    expectRefused(await stage.call('PUT', '/queues/work/retry/completed'), /have their outcome/);
  });

  it('and is still delayed in BullMQ is not promoted or rescheduled', async () => {
    const id = await enqueue('delayed');
    await stage.fleet.cancel(id);
    expectRefused(await stage.call('PUT', `/queues/work/${id}/promote`), /was cancelled/);
    expectRefused(await stage.call('PATCH', `/queues/work/${id}/delay`, { runAt: Date.now() }), /was cancelled/);
  });
});

describe('the data of a job', () => {
  it.each(['waiting', 'delayed', 'failed'] as const)('of this fleet are not edited (%s)', async (place) => {
    const id = place === 'failed' ? await enqueueAndRun('fail') : await enqueue(place);
    const before = (await stage.queue.getJob(id))?.data;
    for (const jobData of [{ text: 'other' }, { oncefleet: 1, jobId: randomUUID(), key: null }, null, 'text', []]) {
      const answer = await stage.call('PATCH', `/queues/work/${id}/update-data`, { jobData });
      expectRefused(answer, /its input is kept in Postgres/);
    }
    expect((await stage.queue.getJob(id))?.data).toEqual(before);
  });

  it('do not make one job another, if another client writes them so', async () => {
    const [mine, victim] = [await enqueue('waiting', 'mine'), await enqueue('delayed', 'victim')];
    await (await stage.queue.getJob(mine))?.updateData({ oncefleet: 1, jobId: victim, key: null });
    const worker = await stage.work();
    await expect.poll(async () => (await stage.rowOf(mine)).status, WAIT).toBe('completed');
    await worker.close();
    expect(stage.ran).toEqual(['mine']);
    expect(await stage.rowOf(victim)).toMatchObject({ status: 'pending', fence: 0 });
  });

  it('of another client are edited as BullMQ does, but never into a job of the fleet', async () => {
    const victim = await enqueue('delayed', 'victim');
    await enqueueForeign();
    const { bullId } = await foreign.addFailingOnce({ amount: 1 });
    const path = `/queues/${foreign.shown}/${bullId}/update-data`;
    expectRefused(
      await stage.call('PATCH', path, { jobData: { oncefleet: 1, jobId: victim, key: null } }),
      /name a job of the fleet/,
    );
    expect((await stage.call('PATCH', path, { jobData: { amount: 2, fail: true } })).statusCode).toBe(200);
    expect((await foreign.queue.getJob(bullId))?.data).toEqual({ amount: 2, fail: true });
  });
});

describe('when a job runs', () => {
  it('Promote has it run now, and a lost Redis does not take that back', async () => {
    const id = await enqueue('delayed');
    expect((await stage.call('PUT', `/queues/work/${id}/promote`)).statusCode).toBe(204);
    expect((await stage.rowOf(id)).run_at.getTime()).toBeLessThanOrEqual(Date.now() + 50);
    expect(await stage.queue.getJobState(id)).toBe('waiting');
    await stage.loseRedis();
    await stage.reconcile();
    expect(await stage.queue.getJobState(id)).toBe('waiting');
  });

  it('Promote all does so to all', async () => {
    const ids = [await enqueue('delayed'), await enqueue('delayed')];
    expect((await stage.call('PUT', '/queues/work/promote')).statusCode).toBe(200);
    for (const id of ids) {
      expect((await stage.rowOf(id)).run_at.getTime()).toBeLessThanOrEqual(Date.now() + 50);
      expect(await stage.queue.getJobState(id)).toBe('waiting');
    }
  });

  it.each([
    ['later', 5 * HOUR],
    ['sooner', HOUR / 2],
  ])('Reschedule has it run %s, and neither doctor, reconciler nor a lost Redis undoes it', async (_, delayMs) => {
    const id = await enqueue('delayed');
    const runAt = Date.now() + delayMs;
    expect((await stage.call('PATCH', `/queues/work/${id}/delay`, { runAt })).statusCode).toBe(200);
    expect(Math.abs((await stage.rowOf(id)).run_at.getTime() - runAt)).toBeLessThan(2_000);
    await stage.reconcile();
    const { findings } = await stage.fleet.doctor({ fix: true, lookAgainMs: 20 });
    expect(findings.filter(({ jobs }) => jobs.length > 0)).toEqual([]);
    const dueAt = async () => {
      const score = await stage.redis.zscore(stage.queue.toKey('delayed'), id);
      return Number(score) / 0x1000;
    };
    expect(Math.abs((await dueAt()) - runAt)).toBeLessThan(2_000);
    await stage.loseRedis();
    await stage.reconcile();
    expect(Math.abs((await dueAt()) - runAt)).toBeLessThan(2_000);
  });

  it('Reschedule to the past has it run now', async () => {
    const id = await enqueue('delayed');
    expect((await stage.call('PATCH', `/queues/work/${id}/delay`, { runAt: Date.now() - HOUR })).statusCode).toBe(200);
    const worker = await stage.work();
    await expect.poll(async () => (await stage.rowOf(id)).status, WAIT).toBe('completed');
    await worker.close();
  });

  it('Change priority changes it in the row too, so that a lost Redis keeps it', async () => {
    const id = await enqueue('prioritized');
    expect((await stage.call('PATCH', `/queues/work/${id}/priority`, { priority: 9 })).statusCode).toBe(200);
    expect(JSON.parse((await stage.rowOf(id)).options)).toMatchObject({ priority: 9, attempts: 3 });
    expect((await stage.queue.getJob(id))?.priority).toBe(9);
    await stage.loseRedis();
    await stage.reconcile();
    expect((await stage.queue.getJob(id))?.priority).toBe(9);
    expect((await stage.call('PATCH', `/queues/work/${id}/priority`, { priority: 0 })).statusCode).toBe(200);
    expect(JSON.parse((await stage.rowOf(id)).options)).toMatchObject({ priority: 0 });
  });
});

describe('Add job', () => {
  const add = (body: unknown, queue = 'work') => stage.call('POST', `/queues/${queue}/add`, body);

  it.each(['', '__default__', 'nobody', 'constructor'])('refuses the name %j, and adds nothing', async (name) => {
    expectRefused(await add({ name, data: { text: 'x' }, options: {} }), /queue work runs keep, other/, 404);
    expect(await stage.queue.getJobCounts()).toMatchObject({ waiting: 0, delayed: 0, active: 0 });
  });

  it('enqueues a known name: a row with its input, delay, priority and key', async () => {
    const options = { delay: HOUR, priority: 3 };
    const answer = await add({ name: 'keep', data: { text: 'added', idempotencyKey: 'a-1' }, options });
    expect([answer.statusCode, answer.json().status]).toEqual([200, 'delayed']);
    const { id } = answer.json().job;
    const row = await stage.rowOf(id);
    expect(row).toMatchObject({ status: 'pending', idempotency_key: 'a-1' });
    expect(JSON.parse(row.options)).toMatchObject({ priority: 3 });
    expect(row.run_at.getTime()).toBeGreaterThan(Date.now() + HOUR / 2);
    expect((await stage.fleet.get(id))?.input).toEqual({ text: 'added' });
    expectRefused(
      await add({ name: 'keep', data: { text: 'added', idempotencyKey: 'a-1' }, options }),
      /Nothing was added: job \S+ has this key/,
    );
    const mismatch = await add({ name: 'keep', data: { text: 'else', idempotencyKey: 'a-1' } });
    expectRefused(mismatch, /another input/, 422);
  });

  it('refuses an input that the definition does, and options that are not kept', async () => {
    expectRefused(await add({ name: 'keep', data: { text: 7 } }), /text/, 400);
    expectRefused(await add({ name: 'keep', data: { text: 'x' }, options: { jobId: 'mine' } }), /jobId/, 400);
    expectRefused(await add({ name: 'keep', data: { text: 'x' }, options: { delay: -1 } }), /delay/, 400);
    expect(await stage.queue.getJobCounts()).toMatchObject({ waiting: 0, delayed: 0 });
  });

  it('refuses a duplicate of a job of this fleet, whatever job its data name', async () => {
    const id = await enqueue('delayed');
    const shown = (await stage.call('GET', `/queues/work/${id}`)).json().job;
    const answer = await add({ name: 'keep', data: shown.data, options: shown.opts });
    expectRefused(answer, /To run that job again, retry it/);
    expect(await stage.queue.getJobCounts()).toMatchObject({ waiting: 0, delayed: 1 });
    expect(await stage.rowOf(id)).toMatchObject({ status: 'pending', fence: 0 });
  });

  it('adds to the queue of another client as BullMQ does, and says so where BullMQ would keep silent', async () => {
    await enqueueForeign();
    const body = { name: 'pay', data: { amount: 5 }, options: { jobId: 'p-1', delay: HOUR } };
    expect((await add(body, foreign.shown)).statusCode).toBe(200);
    expect((await foreign.queue.getJob('p-1'))?.data).toEqual({ amount: 5 });
    expectRefused(await add(body, foreign.shown), /has a job p-1 already/);
    expectRefused(await add({ ...body, options: { jobId: '77' } }, foreign.shown), /BullMQ does not take/);
    expectRefused(await add({ name: 'pay', data: { oncefleet: 1 } }, foreign.shown), /name a job of the fleet/);
  });
});

/** Has the board know the other client's queue. */
async function enqueueForeign(): Promise<void> {
  await foreign.queue.add('pay', { amount: 1 });
  await expect
    .poll(async () => (await stage.call('GET', '/queues')).body.includes(foreign.queue.name), {
      timeout: 25_000,
      interval: 200,
    })
    .toBe(true);
}

describe('a guarded queue that rows name', () => {
  it('appears on the board without a restart, once', async () => {
    await enqueueForeign();
    const { queues } = (await stage.call('GET', '/queues')).json() as { queues: { name: string }[] };
    expect(queues.filter(({ name }) => name.endsWith(foreign.queue.name)).map(({ name }) => name)).toEqual([
      `bull:${foreign.queue.name}`,
    ]);
  });

  it.each([
    ['Clean', (id: string) => stage.call('PUT', `/queues/${foreign.shown}/${id}/clean`)],
    ['Clean all', () => stage.call('PUT', `/queues/${foreign.shown}/clean/delayed`)],
  ])('has the row cancelled by %s, whether its job has a key or not', async (_, press) => {
    await enqueueForeign();
    for (const data of [
      { amount: 1 },
      { amount: 2, idempotencyKey: randomUUID() },
      { amount: 3, idempotencyKey: 17 },
    ]) {
      const { bullId, rowId } = await foreign.addFailingOnce(data);
      expect((await press(bullId)).statusCode).toBeOneOf([200, 204]);
      expect(await stage.rowOf(rowId)).toMatchObject({ status: 'cancelled' });
      expect(await foreign.queue.getJobState(bullId)).toBe('unknown');
    }
  });

  it('gives a job without a row to BullMQ alone', async () => {
    await enqueueForeign();
    const job = await foreign.queue.add('pay', { amount: 1 }, { delay: HOUR });
    const path = `/queues/${foreign.shown}/${job.id}`;
    expect((await stage.call('PATCH', `${path}/delay`, { runAt: Date.now() + 2 * HOUR })).statusCode).toBe(200);
    expect((await foreign.queue.getJob(job.id as string))?.delay).toBeGreaterThan(1.5 * HOUR);
    expect((await stage.call('PUT', `${path}/clean`)).statusCode).toBe(204);
    expect(await foreign.queue.getJobState(job.id as string)).toBe('unknown');
  });

  it('keeps the row in step when a retry that waits is promoted or rescheduled', async () => {
    await enqueueForeign();
    const { bullId, rowId } = await foreign.addFailingOnce({ amount: 1, idempotencyKey: randomUUID() });
    const path = `/queues/${foreign.shown}/${bullId}`;
    const runAt = Date.now() + 3 * HOUR;
    expect((await stage.call('PATCH', `${path}/delay`, { runAt })).statusCode).toBe(200);
    expect(Math.abs((await stage.rowOf(rowId)).run_at.getTime() - runAt)).toBeLessThan(2_000);
    expect((await stage.call('PUT', `${path}/promote`)).statusCode).toBe(204);
    await expect.poll(async () => (await stage.rowOf(rowId)).fence, WAIT).toBe(2);
  });
});

describe('a paused queue', () => {
  const pausesOf = () => stage.db.selectFrom('paused_queues').select(['queue', 'paused_by']).execute();

  it.each([
    ['Pause and Resume', 'work/'],
    ['Pause all and Resume all', ''],
  ])('is in Postgres, and back after Redis has lost it (%s)', async (_, at) => {
    expect((await stage.call('PUT', `/queues/${at}pause`)).statusCode).toBe(200);
    expect(await pausesOf()).toContainEqual({ queue: 'work', paused_by: 'bull-board' });
    await stage.loseRedis();
    await stage.reconcile();
    expect(await stage.queue.isPaused()).toBe(true);
    expect((await stage.call('PUT', `/queues/${at}resume`)).statusCode).toBe(200);
    expect([await stage.queue.isPaused(), await pausesOf()]).toEqual([false, []]);
    await stage.reconcile();
    expect(await stage.queue.isPaused()).toBe(false);
  });

  it('is resumed by Resume all also while only Postgres has the pause', async () => {
    await stage.call('PUT', '/queues/work/pause');
    await stage.loseRedis();
    expect((await stage.call('PUT', '/queues/resume')).statusCode).toBe(200);
    await stage.reconcile();
    expect([await stage.queue.isPaused(), await pausesOf()]).toEqual([false, []]);
  });

  it('says who paused it', async () => {
    const adminToken = 'admin-token-of-16-or-more';
    const app = createApp({
      client: stage.fleet,
      log: silentLogger(),
      config: { tokens: undefined, adminToken, tenant: 'default', bodyLimitBytes: 1024 },
    });
    const authorization = `Basic ${Buffer.from(`ada\u0007 l.:${adminToken}`).toString('base64')}`;
    const url = '/admin/queues/api/queues/work/pause';
    expect((await inject(app, { method: 'PUT', url, headers: { authorization } })).statusCode).toBe(200);
    expect(await pausesOf()).toEqual([{ queue: 'work', paused_by: 'bull-board (ada l.)' }]);
    await app.close();
    await stage.call('PUT', '/queues/work/resume');
  });

  it.each([false, true])(
    'is still paused after Obliterate (force: %s), and runs jobs again after Resume',
    async (force) => {
      await stage.call('PUT', '/queues/work/pause');
      const id = await enqueue('waiting');
      expect((await stage.call('PUT', '/queues/work/obliterate', { force })).statusCode).toBe(200);
      expect([await stage.queue.isPaused(), await pausesOf()]).toEqual([
        true,
        [{ queue: 'work', paused_by: 'bull-board' }],
      ]);
      await expectCancelled(id);
      await stage.call('PUT', '/queues/work/resume');
      await expectGone(id);
    },
  );

  it('is not obliterated while a job runs, unless forced; that job goes on', async () => {
    const id = await enqueue('waiting');
    await claimFree(stage.db, id);
    await stage.redis.lmove(stage.queue.toKey('wait'), stage.queue.toKey('active'), 'RIGHT', 'LEFT');
    await stage.call('PUT', '/queues/work/pause');
    const waiting = await enqueue('waiting');
    const answer = await stage.call('PUT', '/queues/work/obliterate', { force: false });
    expect([answer.statusCode, answer.json().error.key]).toEqual([409, 'ERRORS.QUEUE_HAS_ACTIVE_JOBS']);
    expect(await stage.rowOf(waiting)).toMatchObject({ status: 'pending' });
    expect((await stage.call('PUT', '/queues/work/obliterate', { force: true })).statusCode).toBe(200);
    expect(await stage.rowOf(waiting)).toMatchObject({ status: 'cancelled' });
    expect(await stage.rowOf(id)).toMatchObject({ status: 'running' });
    await stage.call('PUT', '/queues/work/resume');
  });
});

describe('settings of a queue', () => {
  it('concurrency and rate limit are set, shown and taken back', async () => {
    expect((await stage.call('PUT', '/queues/work/concurrency', { concurrency: 2 })).statusCode).toBe(200);
    expect(await stage.queue.getGlobalConcurrency()).toBe(2);
    expect((await stage.call('PUT', '/queues/work/concurrency', { concurrency: 0 })).statusCode).toBe(200);
    expect(await stage.queue.getGlobalConcurrency()).toBeNull();
    expect((await stage.call('PUT', '/queues/work/rate-limit', { max: 5, duration: 1000 })).statusCode).toBe(200);
    expect((await stage.call('GET', '/queues/work/rate-limit')).json().rateLimit).toEqual({ max: 5, duration: 1000 });
    expect((await stage.call('PUT', '/queues/work/rate-limit', { max: null })).statusCode).toBe(200);
    expect((await stage.call('PUT', '/queues/work/rate-limit/release')).statusCode).toBe(200);
  });
});

describe('a scheduler', () => {
  it('is edited, run and removed as BullMQ does, but a name that no worker knows is not run', async () => {
    const every = { every: HOUR };
    await stage.queue.upsertJobScheduler('known', every, { name: 'keep', data: { text: 'scheduled' } });
    await stage.queue.upsertJobScheduler('unknown', every, { name: 'nobody', data: {} });
    const path = '/queues/work/job-schedulers';
    expect((await stage.call('PATCH', `${path}/known`, { every: 2 * HOUR })).statusCode).toBe(204);
    expect((await stage.queue.getJobScheduler('known'))?.every).toBe(2 * HOUR);
    const run = await stage.call('PUT', `${path}/known/run`);
    expect(run.statusCode).toBe(200);
    expectRefused(await stage.call('PUT', `${path}/unknown/run`), /No job named "nobody"/, 404);
    const worker = await stage.work();
    await expect.poll(() => stage.ran, WAIT).toContain('scheduled');
    await worker.close();
    for (const id of ['known', 'unknown'])
      expect((await stage.call('PUT', `${path}/${id}/remove`)).statusCode).toBe(204);
    await delay(0);
    expect(await stage.queue.getJobSchedulersCount()).toBe(0);
  });

  it('keeps its next run when that is removed alone, and the person is told', async () => {
    await stage.queue.upsertJobScheduler('known', { pattern: '0 0 1 1 *' }, { name: 'keep', data: { text: 'x' } });
    const [next] = await stage.queue.getDelayed();
    const answer = await stage.call('PUT', `/queues/work/${next?.id}/clean`);
    expect([answer.statusCode, answer.json().code]).toEqual([400, 'JOB_BELONGS_TO_JOB_SCHEDULER']);
    await stage.call('PUT', '/queues/work/job-schedulers/known/remove');
  });
});

describe('a flow of another client', () => {
  it('loses the children that wait with Remove unprocessed children, and their rows are cancelled', async () => {
    await enqueueForeign();
    const { rowId } = await foreign.addFailingOnce({ amount: 1, idempotencyKey: 'child' });
    const parent = await foreign.queue.add('pay', { amount: 2 }, { delay: HOUR });
    const child = (await foreign.queue.getDelayed()).find(({ data }) => data.idempotencyKey === 'child');
    // As a flow has them.
    await stage.redis.sadd(
      `${foreign.queue.toKey(parent.id as string)}:dependencies`,
      foreign.queue.toKey(child?.id as string),
    );
    const path = `/queues/${foreign.shown}/${parent.id}`;
    const answer = await stage.call('PUT', `${path}/remove-unprocessed-children`);
    expect([answer.statusCode, answer.json()]).toEqual([200, { removed: 1 }]);
    expect(await stage.rowOf(rowId)).toMatchObject({ status: 'cancelled' });
    expect(await foreign.queue.getJobState(child?.id as string)).toBe('unknown');
    await parent.remove();
  });
});
