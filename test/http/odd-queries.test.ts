/** Numbers in URLs and headers: each is refused with its path or taken, and none is an error of ours. */
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { type Harness, startHarness } from './harness.ts';
import { inject } from './requests.ts';

let harness: Harness;
let id: string;
beforeAll(async () => {
  harness = await startHarness();
  id = (await enqueue('')).json().id;
  await vi.waitFor(async () => expect((await harness.fleet.get(id))?.status).toBe('completed'), 60_000);
});
afterAll(() => harness?.close());

const enqueue = (query: string) =>
  inject(harness.app, {
    method: 'POST',
    url: `/v1/jobs/echo${query}`,
    headers: { 'content-type': 'application/json' },
    payload: { text: 'x' },
  });

const ODD = [
  '',
  ' ',
  'NaN',
  'Infinity',
  '-1',
  '-0',
  '0',
  '+1',
  '01',
  '1.5',
  '1e3',
  '1E400',
  '0x10',
  '1_000',
  '2147483648',
  '9007199254740993',
  '9'.repeat(400),
  '１',
  '%00',
  '%ED%A0%80',
  'null',
  '1&x=2',
  '1,2',
  '1;2',
];

/** What takes a number, and its name in a refusal. */
const PLACES: [string, (value: string) => Promise<{ statusCode: number; body: string }>][] = [
  ['delayMs', (value) => enqueue(`?delayMs=${value}`)],
  ['priority', (value) => enqueue(`?priority=${value}`)],
  ['limit', (value) => inject(harness.app, `/v1/jobs?limit=${value}`)],
  ['limit', (value) => inject(harness.app, `/v1/jobs/${id}/events?limit=${value}`)],
  ['after', (value) => inject(harness.app, `/v1/jobs/${id}/events?after=${value}`)],
  ['wait', (value) => inject(harness.app, `/v1/jobs/${id}/events?wait=${value}`)],
  ['limit', (value) => inject(harness.app, `/v1/collections?limit=${value}`)],
  ['page', (value) => inject(harness.app, `/admin/queues/api/queues?activeQueue=echo&page=${value}`)],
  ['jobsPerPage', (value) => inject(harness.app, `/admin/queues/api/queues?activeQueue=echo&jobsPerPage=${value}`)],
  [
    'last-event-id',
    (value) =>
      inject(harness.app, {
        url: `/v1/jobs/${id}/events`,
        headers: { accept: 'text/event-stream', 'last-event-id': value.replace(/[^\x20-\x7e]/g, '?') },
      }),
  ],
  [
    'withinMs',
    (value) =>
      inject(harness.app, {
        method: 'POST',
        url: '/v1/jobs/redrive',
        headers: { 'content-type': 'application/json' },
        payload: `{"withinMs":${JSON.stringify(decodeURIComponent(value.replace('%ED%A0%80', '')))}}`,
      }),
  ],
];

it.each(PLACES)('%s', async (_name, ask) => {
  for (const value of ODD) {
    const { statusCode, body } = await ask(value);
    expect(statusCode, `${JSON.stringify(value)}: ${body.slice(0, 300)}`).toBeLessThan(500);
    if (statusCode >= 400) expect(body, JSON.stringify(value)).toMatch(/^\{/);
  }
  // Whatever was taken can be read.
  const { statusCode, body } = await inject(harness.app, '/v1/jobs?limit=100');
  expect(statusCode).toBe(200);
  for (const job of JSON.parse(body).jobs) expect(Number.isFinite(Date.parse(job.runAt))).toBe(true);
});

it.each(['delayMs', 'priority'])(
  '%s in another notation is refused with its path, and enqueues nothing',
  async (name) => {
    for (const value of ['1e3', '1.5', '-1', 'NaN', '0x10', '9007199254740993', '']) {
      const response = await enqueue(`?${name}=${value}`);
      expect(response.statusCode, value).toBe(400);
      expect(response.json().issues[0].path).toBe(name);
    }
  },
);
