import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { NonRetryableError } from '../../src/errors.ts';
import { HTTP_STATUS, problemSchema } from '../../src/http/problem.ts';
import { redriveManyAnswer } from '../../src/http/schemas.ts';
import { defineJob } from '../../src/jobs/define-job.ts';
import { type Harness, startHarness } from './harness.ts';
import { inject, listenLocally } from './requests.ts';

/** Fails while it is broken; a run that is held ends when it is let go. */
const state = { broken: true, held: undefined as PromiseWithResolvers<void> | undefined, runs: 0 };
const fragile = defineJob({
  name: 'fragile',
  input: z.object({ n: z.number() }),
  async run() {
    state.runs++;
    await state.held?.promise;
    if (state.broken) throw new NonRetryableError('the model is away', { code: 'MODEL_FAILED' });
    return 'repaired';
  },
});

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness({}, [fragile]);
});
afterAll(() => harness?.close());
beforeEach(() => {
  Object.assign(state, { broken: true, held: undefined, runs: 0 });
});

const tokens = new Map([
  ['token-of-tenant-a', 'a'],
  ['token-of-tenant-b', 'b'],
]);
const bearer = (tenant: string) => ({ authorization: `Bearer token-of-tenant-${tenant}` });

type App = ReturnType<Harness['another']>;
const redrive = (app: App, body: unknown, headers: Record<string, string> = {}) =>
  inject(app, {
    method: 'POST',
    url: '/v1/redrive',
    headers: { 'content-type': 'application/json', ...headers },
    payload: JSON.stringify(body),
  });
type Response = Awaited<ReturnType<typeof redrive>>;

function answerOf(response: Response): z.output<typeof redriveManyAnswer> {
  expect(response.statusCode, response.body).toBe(202);
  return redriveManyAnswer.strict().parse(response.json());
}

function expectProblem(response: Response, code: keyof typeof HTTP_STATUS) {
  expect(response.statusCode, response.body).toBe(HTTP_STATUS[code]);
  expect(problemSchema.strict().parse(response.json()).code).toBe(code);
  return response.json() as z.output<typeof problemSchema>;
}

/** So many jobs of a tenant of the test's own that have failed. */
async function failed(tenant: string, count: number): Promise<string[]> {
  const handles = await Promise.all(
    Array.from({ length: count }, (_, n) => harness.fleet.enqueue(fragile, { n }, { tenant })),
  );
  await Promise.all(handles.map((handle) => handle.result({ timeoutMs: 15_000 }).catch(() => undefined)));
  expect(await statuses(tenant)).toEqual(Array.from({ length: count }, () => 'failed'));
  return handles.map(({ id }) => id);
}

async function statuses(tenant: string): Promise<string[]> {
  return (await harness.fleet.find({ tenant, name: 'fragile', limit: 100 })).jobs.map(({ status }) => status);
}

const ofTenant = (tenant: string) => harness.another({ tenant });

describe('POST /v1/redrive', () => {
  it('runs all failed jobs again that the filter fits; sent again it finds none', async () => {
    await failed('all', 3);
    const app = ofTenant('all');
    for (const filter of [{ name: 'echo' }, { code: 'TIMEOUT' }])
      expect(answerOf(await redrive(app, filter))).toEqual({ matched: 0, redriven: 0, failedCanaries: [] });
    state.broken = false;
    state.runs = 0;
    const filter = { name: 'fragile', code: 'MODEL_FAILED', withinMs: 3_600_000 };
    expect(answerOf(await redrive(app, filter))).toEqual({ matched: 3, redriven: 3, failedCanaries: [] });
    expect(answerOf(await redrive(app, filter))).toEqual({ matched: 0, redriven: 0, failedCanaries: [] });
    await expect.poll(() => statuses('all'), { timeout: 15_000 }).toEqual(['completed', 'completed', 'completed']);
    expect(state.runs).toBe(3);
  });

  it('sent twice at once redrives each job once', async () => {
    await failed('twice', 5);
    state.broken = false;
    state.runs = 0;
    const app = ofTenant('twice');
    const answers = (await Promise.all([redrive(app, {}), redrive(app, {})])).map(answerOf);
    expect(answers.reduce((sum, { redriven }) => sum + redriven, 0)).toBe(5);
    await expect
      .poll(() => statuses('twice'), { timeout: 15_000 })
      .toEqual(Array.from({ length: 5 }, () => 'completed'));
    expect(state.runs).toBe(5);
  });

  it('takes the limit, those first that failed first', async () => {
    const [first] = await failed('limit', 1);
    await failed('later', 1);
    const more = await harness.fleet.enqueue(fragile, { n: 9 }, { tenant: 'limit' });
    await more.result({ timeoutMs: 15_000 }).catch(() => undefined);
    state.broken = false;
    expect(answerOf(await redrive(ofTenant('limit'), { limit: 1 }))).toMatchObject({ matched: 1, redriven: 1 });
    await expect
      .poll(async () => (await harness.fleet.get(first as string, { tenant: 'limit' }))?.status, { timeout: 15_000 })
      .toBe('completed');
    expect((await harness.fleet.get(more.id, { tenant: 'limit' }))?.status).toBe('failed');
  });

  it('leaves the rest failed when a canary fails again', async () => {
    await failed('canary', 4);
    const answer = answerOf(await redrive(ofTenant('canary'), { canary: 2 }));
    expect(answer).toMatchObject({ matched: 4, redriven: 2 });
    expect(answer.failedCanaries).toHaveLength(2);
    expect(answer.failedCanaries[0]).toMatchObject({ code: 'MODEL_FAILED', message: 'the model is away' });
    const fences = (await harness.fleet.find({ tenant: 'canary' })).jobs.map(({ fence }) => fence);
    expect(fences.toSorted()).toEqual([1, 1, 2, 2]);
  });

  it('waits for the canaries, and goes on when all of them complete', async () => {
    await failed('waits', 4);
    state.broken = false;
    state.held = Promise.withResolvers();
    state.runs = 0;
    const answer = redrive(ofTenant('waits'), { canary: 2 });
    await expect.poll(() => state.runs, { timeout: 15_000 }).toBe(2);
    expect((await statuses('waits')).filter((status) => status === 'failed')).toHaveLength(2);
    state.held.resolve();
    expect(answerOf(await answer)).toEqual({ matched: 4, redriven: 4, failedCanaries: [] });
    await expect
      .poll(() => statuses('waits'), { timeout: 15_000 })
      .toEqual(Array.from({ length: 4 }, () => 'completed'));
  });

  it('takes a canary that has not ended in time for one that failed', async () => {
    await failed('slow', 2);
    state.held = Promise.withResolvers();
    const answer = answerOf(await redrive(ofTenant('slow'), { canary: 1, canaryTimeoutMs: 50 }));
    expect(answer).toMatchObject({ matched: 2, redriven: 1, failedCanaries: [{ code: 'WAIT_TIMEOUT' }] });
    state.broken = false;
    state.held.resolve();
    await expect.poll(() => statuses('slow'), { timeout: 15_000 }).toContain('completed');
    expect(await statuses('slow')).toContain('failed');
  });

  it('stops when the caller leaves: the rest stays failed, and another request takes it', async () => {
    await failed('leaves', 3);
    const app = ofTenant('leaves');
    const port = await listenLocally(app);
    state.broken = false;
    state.held = Promise.withResolvers();
    state.runs = 0;
    const leave = new AbortController();
    const gone = fetch(`http://127.0.0.1:${port}/v1/redrive`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ canary: 1 }),
      signal: leave.signal,
    }).catch((error: Error) => error.name);
    await expect.poll(() => state.runs, { timeout: 15_000 }).toBe(1);
    leave.abort();
    expect(await gone).toBe('AbortError');
    // The canary completes now; had the request gone on, the rest would follow it.
    await expect.poll(() => app.server.listening && connections(app), { timeout: 15_000 }).toBe(0);
    state.held.resolve();
    await expect.poll(() => statuses('leaves'), { timeout: 15_000 }).toContain('completed');
    expect((await statuses('leaves')).filter((status) => status === 'failed')).toHaveLength(2);
    expect(answerOf(await redrive(app, {}))).toMatchObject({ matched: 2, redriven: 2 });
  });

  it('is answered 503 when the process drains, and holds nothing up', async () => {
    await failed('drains', 2);
    const app = ofTenant('drains');
    await listenLocally(app);
    state.held = Promise.withResolvers();
    state.runs = 0;
    const answer = redrive(app, { canary: 1, canaryTimeoutMs: 600_000 });
    await expect.poll(() => state.runs, { timeout: 15_000 }).toBe(1);
    await app.close();
    expectProblem(await answer, 'SHUTTING_DOWN');
    state.held.resolve();
    await expect.poll(() => statuses('drains'), { timeout: 15_000 }).toEqual(['failed', 'failed']);
  });

  it('needs a token where there are any, and takes jobs of its tenant alone', async () => {
    const app = harness.another({ tokens });
    await Promise.all([failed('a', 2), failed('b', 1)]);
    expectProblem(await redrive(app, {}), 'UNAUTHORIZED');
    expectProblem(await redrive(app, {}, { authorization: 'Bearer token-of-tenant-c' }), 'UNAUTHORIZED');
    expect(await statuses('a')).toEqual(['failed', 'failed']);
    state.broken = false;
    expect(answerOf(await redrive(app, {}, bearer('a')))).toMatchObject({ matched: 2, redriven: 2 });
    expect(await statuses('b')).toEqual(['failed']);
  });

  it.each([
    [{ nme: 'fragile' }, [{ path: 'nme', message: 'is not an option; did you mean name?' }]],
    [{ tenant: 'other' }, [{ path: 'tenant', message: 'is not an option' }]],
    [{ code: 'MODEL' }, ['code']],
    [{ canary: -1, limit: 0 }, ['limit', 'canary']],
    [{ canary: 101 }, ['canary']],
    [{ name: 'a\u0000b' }, ['name']],
    [{ code: 'a\u0000b' }, ['code']],
    [{ limit: 10_001, withinMs: '2h', canaryTimeoutMs: 1.5 }, ['withinMs', 'limit', 'canaryTimeoutMs']],
    [[], ['']],
    [null, ['']],
  ])('refuses %j by path, and redrives nothing', async (body, issues) => {
    const problem = expectProblem(await redrive(ofTenant('default'), body), 'INPUT_INVALID');
    expect(problem.issues).toMatchObject(issues.map((issue) => (typeof issue === 'string' ? { path: issue } : issue)));
    expect(problem.issues).toHaveLength(issues.length);
  });

  it('refuses no body at all, which is too easily sent by mistake', async () => {
    const app = ofTenant('default');
    expectProblem(await inject(app, { method: 'POST', url: '/v1/redrive' }), 'BODY_INVALID');
    const typed = await inject(app, {
      method: 'POST',
      url: '/v1/redrive',
      headers: { 'content-type': 'application/json' },
      payload: '{',
    });
    expectProblem(typed, 'BODY_INVALID');
  });
});

function connections(app: App): Promise<number> {
  return new Promise((resolve, reject) =>
    app.server.getConnections((error, count) => (error === null ? resolve(count) : reject(error))),
  );
}
