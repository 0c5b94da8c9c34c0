/** Requests to Bull Board that make no sense: every route with wrong names, ids, bodies, queries and methods. */
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BOARD_ROUTES } from '../../src/http/board-adapters.ts';
import { type Harness, startHarness } from './harness.ts';
import { inject } from './requests.ts';

let harness: Harness;
let finished: string;
let waiting: string;
beforeAll(async () => {
  harness = await startHarness();
  const job = await harness.fleet.enqueue('echo', { text: 'x' });
  await job.result();
  finished = job.id;
  waiting = (await harness.fleet.enqueue('echo', { text: 'x' }, { delayMs: 3_600_000 })).id;
});
afterAll(() => harness?.close());

const BASE = '/admin/queues';

/** Values for each parameter of a route, encoded. */
const VALUES: Record<string, () => string[]> = {
  queueName: () => [
    'echo',
    'nothing',
    '..%2F..',
    '%00',
    'a%0Ab',
    '%E2%98%83',
    'constructor',
    '__proto__',
    'x'.repeat(400),
    '%zz',
    ' ',
  ],
  jobId: () => [
    waiting,
    finished,
    '0',
    'nothing',
    '-1',
    '01890000-0000-7000-8000-000000000000',
    '%00',
    '__proto__',
    '%F0%9F%92%A9',
    'a:b',
    '%zz',
  ],
  queueStatus: () => ['failed', 'completed', 'waiting', 'nothing', 'active', '__proto__', 'toString', '%00'],
  schedulerId: () => ['nothing', '%00', '__proto__', 'a:b'],
};

const BODIES = [
  undefined,
  '',
  '{',
  'null',
  '[]',
  '7',
  '"text"',
  '{}',
  '{"jobData":7}',
  '{"jobData":null,"jobOptions":null}',
  '{"jobName":7,"jobData":{},"jobOptions":{}}',
  '{"jobName":"nothing","jobData":{"a":1},"jobOptions":{"delay":-1}}',
  '{"jobName":"echo","jobData":{},"jobOptions":[]}',
  '{"delay":-1}',
  '{"delay":"soon"}',
  '{"delay":1e400}',
  '{"priority":-1}',
  '{"priority":1e99}',
  '{"concurrency":-1}',
  '{"concurrency":"many"}',
  '{"max":-1,"duration":"x"}',
  '{"max":1e99,"duration":-5}',
  '{"every":-1,"pattern":"nonsense"}',
  '{"pattern":7,"template":7}',
  '{"__proto__":{"a":1}}',
  '{"constructor":{"prototype":1}}',
  `{"jobName":"echo","jobData":${'['.repeat(500)}${']'.repeat(500)}}`,
];

const QUERIES = [
  '',
  '?activeQueue=%25',
  '?activeQueue=nothing&status=nothing&page=-1&jobsPerPage=0',
  '?page=x&jobsPerPage=1e9',
  '?status=__proto__&activeQueue=echo',
  '?metricType=nothing',
  '?type=x&start=-9&end=zz',
  '?activeQueue=a&activeQueue=b',
];

const TYPES = [
  'application/json',
  'text/plain',
  undefined,
  'application/json; charset=nonsense',
  'multipart/form-data',
];

type Request = { method: string; url: string; headers: Record<string, string>; payload?: string };

async function ask(request: Request) {
  const response = await inject(harness.app, request as never);
  return { status: response.statusCode, body: response.body, type: String(response.headers['content-type'] ?? '') };
}

/** A sentence for the person, or what was asked for. */
function expectOwnAnswer(request: Request, { status, body }: { status: number; body: string }): void {
  expect({ request, status: status < 500 ? 'fine' : status, body: status < 500 ? '' : body }).toEqual({
    request,
    status: 'fine',
    body: '',
  });
  // A problem of ours, or what the board's own page shows.
  if (status < 400) return;
  const said = JSON.parse(body) as object;
  expect('code' in said || 'error' in said, JSON.stringify(request)).toBe(true);
}

/** All values of its parameters, one wrong at a time and all wrong together. */
function pathsOf(route: string): string[] {
  const names = [...route.matchAll(/:(\w+)/g)].map(([, name]) => name as string);
  const fill = (values: Record<string, string>) =>
    `${BASE}${route.replace(/:(\w+)/g, (_, name: string) => values[name] as string)}`;
  const first = Object.fromEntries(names.map((name) => [name, VALUES[name]?.()[0] as string]));
  return [
    ...new Set(
      names.length === 0
        ? [fill({})]
        : names.flatMap((name) => (VALUES[name]?.() ?? []).map((value) => fill({ ...first, [name]: value }))),
    ),
  ];
}

describe('a request to the board that makes no sense has an answer of its own, and is no 500:', () => {
  const routes = Object.keys(BOARD_ROUTES).map((route) => route.split(' ') as [string, string]);

  it.each(routes)(
    '%s %s',
    async (method, route) => {
      for (const url of pathsOf(route)) {
        const bodies = method === 'get' ? [undefined] : url === pathsOf(route)[0] ? BODIES : [undefined, '{}', '[]'];
        for (const payload of bodies) {
          const headers: Record<string, string> = payload === undefined ? {} : { 'content-type': 'application/json' };
          const request = { method: method.toUpperCase(), url, headers, ...(payload === undefined ? {} : { payload }) };
          expectOwnAnswer(request, await ask(request));
        }
        for (const query of method === 'get' ? QUERIES : []) {
          const request = { method: 'GET', url: `${url}${query}`, headers: {} };
          expectOwnAnswer(request, await ask(request));
        }
      }
    },
    60_000,
  );

  it('any mixture of them', async () => {
    const arbitrary = fc.record({
      route: fc.constantFrom(
        ...routes.map(([, route]) => route),
        '/api/nothing',
        '/nothing',
        '/api/queues/echo/x/y/z/w',
      ),
      method: fc.constantFrom('GET', 'PUT', 'POST', 'PATCH', 'DELETE', 'HEAD', 'OPTIONS'),
      pick: fc.nat(1_000),
      payload: fc.oneof(fc.constantFrom(...BODIES), fc.json()),
      query: fc.constantFrom(...QUERIES),
      type: fc.constantFrom(...TYPES),
    });
    await fc.assert(
      fc.asyncProperty(arbitrary, async ({ route, method, pick, payload, query, type }) => {
        const paths = pathsOf(route);
        const headers: Record<string, string> = type === undefined ? {} : { 'content-type': type };
        const bare = method === 'GET' || method === 'HEAD' || payload === undefined;
        const request = {
          method,
          url: `${paths[pick % paths.length]}${query}`,
          headers: bare ? {} : headers,
          ...(bare ? {} : { payload }),
        };
        const { status, body } = await ask(request);
        if (method === 'HEAD') expect(status).toBeLessThan(500);
        else expectOwnAnswer(request, { status, body });
      }),
      { numRuns: 300 },
    );
  }, 60_000);
});
