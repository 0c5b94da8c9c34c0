/** What requests hold is counted in bytes: a tenant that fills its share is refused, and another is served. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { ByteBudget } from '../../src/http/byte-budget.ts';
import { HTTP_STATUS } from '../../src/http/problem.ts';
import { defineJob } from '../../src/jobs/define-job.ts';
import type { Turn } from '../../src/util/turns.ts';
import { type Harness, startHarness } from './harness.ts';
import { listenLocally } from './requests.ts';
import { RawRequest } from './sse-reader.ts';

const KIB = 1024;
const MIB = 1024 * KIB;

describe('a budget', () => {
  it('gives a tenant half of it, and all tenants all of it', () => {
    const budget = new ByteBudget(100);
    const holds = ['a', 'b', 'c'].map((tenant) => budget.open(tenant));
    holds[0]?.set(49);
    expect(budget.hasRoom('a')).toBe(true);
    holds[0]?.set(50);
    expect(budget.hasRoom('a')).toBe(false);
    expect(() => budget.requireRoom('a')).toThrow(expect.objectContaining({ code: 'BUSY' }));
    expect(() => holds[0]?.grow(60)).toThrow(expect.objectContaining({ code: 'BUSY' }));
    expect(budget.hasRoom('b')).toBe(true);
    holds[1]?.set(49);
    expect(budget.hasRoom('c')).toBe(true);
    holds[2]?.set(1);
    expect([budget.held, budget.hasRoom('b'), budget.hasRoom('c')]).toEqual([100, false, false]);
    for (const hold of holds) hold.set(0);
    expect(budget.held).toBe(0);
  });

  it('counts bytes that answers share once, until the last of them has been read', () => {
    const budget = new ByteBudget(MIB);
    const bytes = Buffer.alloc(100);
    const ends = [budget.share(bytes, 'a'), budget.share(bytes, 'b'), budget.share(Buffer.alloc(10), 'a')];
    expect(budget.held).toBe(110);
    ends[0]?.();
    expect(budget.held).toBe(110);
    ends[1]?.();
    expect(budget.held).toBe(10);
  });

  it('gives turns in the order in which they were asked for, each once there is room', async () => {
    const budget = new ByteBudget(MIB);
    const full = budget.open('a');
    full.set(MIB / 2);
    const taken: number[] = [];
    const stop = new AbortController();
    const turns = [0, 1, 2].map(async (n) => {
      const turn: Turn = await budget.turns('a').take(n === 1 ? stop.signal : undefined);
      taken.push(n);
      return turn;
    });
    const left = expect(turns[1]).rejects.toThrow('left');
    // Another tenant's is not one of them.
    (await budget.turns('b').take(undefined))();
    stop.abort(new Error('left'));
    await left;
    expect(taken).toEqual([]);
    full.set(0);
    const first = await turns[0];
    // It is counted as a whole share until it has brought less.
    expect(taken).toEqual([0]);
    first?.();
    (await turns[2])?.();
    expect(taken).toEqual([0, 2]);
    expect(budget.held).toBe(0);
  });

  it('reads few large things at once, and refuses where what waited finds no room', async () => {
    const budget = new ByteBudget(64 * MIB);
    const gate = Promise.withResolvers<void>();
    let running = 0;
    const hold = budget.open('a');
    const reads = Array.from({ length: 6 }, () =>
      budget.read('a', budget.open('a'), async () => {
        running++;
        await gate.promise;
      }),
    );
    const settled = Promise.allSettled(reads);
    await expect.poll(() => running).toBe(4);
    hold.set(32 * MIB);
    gate.resolve();
    expect((await settled).map(({ status }) => status)).toEqual([
      ...Array(4).fill('fulfilled'),
      'rejected',
      'rejected',
    ]);
  });
});

/** Says texts of these lengths, then returns one. */
const sized = defineJob({
  name: 'sized',
  input: z.object({
    events: z.array(z.number()).default([]),
    result: z.number().default(0),
    filler: z.string().optional(),
  }),
  async run({ events, result }, ctx) {
    for (const length of events) await ctx.emit({ type: 'text', text: 'x'.repeat(length) });
    return 'r'.repeat(result);
  },
});

const tokens = new Map([
  ['token-of-tenant-a', 'a'],
  ['token-of-tenant-b', 'b'],
]);

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness({}, [sized]);
});
afterAll(() => harness?.close());

async function done(tenant: string, input: z.input<typeof sized.input>): Promise<string> {
  const job = await harness.fleet.enqueue(sized, input, { tenant });
  await job.result({ timeoutMs: 60_000 });
  return job.id;
}

/** A port of its own with a small budget. */
function listen(): Promise<number> {
  const limits = { unreadMs: 600_000, bodyStallMs: 600_000 };
  const app = harness.another({ tokens, bodyLimitBytes: 32 * MIB, inFlightBytes: 64 * MIB }, { board: false, limits });
  return listenLocally(app);
}

async function ask(port: number, tenant: string, path: string, body?: unknown) {
  const response = await fetch(`http://127.0.0.1:${port}${path}`, {
    method: body === undefined ? 'GET' : 'POST',
    headers: { authorization: `Bearer token-of-tenant-${tenant}`, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const text = await response.text();
  return { status: response.status, retryAfter: response.headers.get('retry-after'), body: JSON.parse(text) };
}

/** Sends bytes and reads nothing. */
async function unread(port: number, bytes: string): Promise<Socket> {
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => {});
  socket.pause();
  onTestFinished(() => void socket.destroy());
  await once(socket, 'connect');
  socket.write(bytes);
  return socket;
}

const get = (path: string, accept = 'application/json') =>
  `GET ${path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer token-of-tenant-a\r\naccept: ${accept}\r\n\r\n`;

/** Sooner or later: what is held goes up and down until the kernel takes no more. */
async function expectRefused(port: number, path: string, body?: unknown): Promise<void> {
  let refused = await ask(port, 'a', path, body);
  await expect
    .poll(async () => {
      refused = await ask(port, 'a', path, body);
      return refused.status;
    })
    .toBe(HTTP_STATUS.BUSY);
  expect(refused.body).toMatchObject({ code: 'BUSY', status: 503 });
  expect(Number(refused.retryAfter)).toBeGreaterThan(0);
}

describe('a tenant whose clients read nothing', () => {
  it.each([
    ['answers of jobs', (id: string) => get(`/v1/jobs/${id}`)],
    ['pages of events', (id: string) => get(`/v1/jobs/${id}/events?limit=1000`)],
  ])(
    'is told BUSY once its share is full of %s; another is served, and so is it once they are gone',
    async (_what, request) => {
      const port = await listen();
      const id = await done('a', { events: Array(4).fill(MIB), result: 3 * MIB });
      const other = await done('b', { result: 10 });
      const sockets = [];
      // What the kernel takes for a connection is not the process's: each asks for more than that.
      for (let n = 0; n < 12; n++) sockets.push(await unread(port, request(id).repeat(8)));
      await expectRefused(port, `/v1/jobs/${id}`);
      await expectRefused(port, '/v1/jobs/sized', { result: 1 });
      expect(await ask(port, 'b', `/v1/jobs/${other}`)).toMatchObject({ status: 200 });
      expect(await ask(port, 'b', '/v1/jobs/sized', { result: 1 })).toMatchObject({ status: 202 });
      for (const socket of sockets) socket.destroy();
      await expect.poll(async () => (await ask(port, 'a', `/v1/jobs/${id}`)).status).toBe(200);
    },
  );

  it('is told BUSY while bodies that stall fill its share', async () => {
    const port = await listen();
    const head =
      'POST /v1/jobs/sized HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer token-of-tenant-a\r\ncontent-type: application/json\r\n';
    const half = `${head}content-length: ${31 * MIB}\r\n\r\n{"filler":"${'x'.repeat(20 * MIB)}`;
    // The buffer of each doubles: two take more than the share.
    for (let n = 0; n < 2; n++) await unread(port, half);
    await expectRefused(port, '/v1/jobs?limit=1');
    expect(await ask(port, 'b', '/v1/jobs/sized', { filler: 'x'.repeat(MIB) })).toMatchObject({ status: 202 });
  });

  it('has streams that wait for their turn, and have all their events', async () => {
    const port = await listen();
    const lengths = Array(12).fill(MIB);
    const id = await done('a', { events: lengths });
    const sockets = [];
    for (let n = 0; n < 12; n++) sockets.push(await unread(port, get(`/v1/jobs/${id}/events`, 'text/event-stream')));
    await expectRefused(port, `/v1/jobs/${id}`);
    const reader = new RawRequest(port, `/v1/jobs/${id}/events?token=token-of-tenant-a`, {
      accept: 'text/event-stream',
    });
    // It waits for those of its own tenant; another tenant's does not.
    const other = await done('b', { events: lengths });
    const others = new RawRequest(port, `/v1/jobs/${other}/events?token=token-of-tenant-b`, {
      accept: 'text/event-stream',
    });
    expect((await others.closed()).events).toHaveLength(13);
    for (const socket of sockets) socket.destroy();
    const { events } = await reader.closed();
    expect(events.map(({ data }) => JSON.parse(data).text?.length)).toEqual([...lengths, undefined]);
  });
});
