/** What requests hold is counted in bytes: a tenant that fills its share is refused, and another is served. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { Readable } from 'node:stream';
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { createBodyParser } from '../../src/http/body.ts';
import { ByteBudget } from '../../src/http/byte-budget.ts';
import { HTTP_STATUS } from '../../src/http/problem.ts';
import { Uncollected } from '../../src/http/uncollected.ts';
import { defineJob } from '../../src/jobs/define-job.ts';
import type { Turn } from '../../src/util/turns.ts';
import { createFakeClient, type FakeClient } from './fake-client.ts';
import { type Harness, startHarness } from './harness.ts';
import { listenLocally } from './requests.ts';
import { RawRequest } from './sse-reader.ts';

const KIB = 1024;
const MIB = 1024 * KIB;

describe('a budget', () => {
  it('gives an account as much as is free: half of it alone, and a newcomer always finds room', () => {
    const budget = new ByteBudget(120);
    const holds = ['a', 'b', 'c'].map((account) => budget.open(account));
    holds[0]?.set(59);
    expect(budget.hasRoom('a')).toBe(true);
    holds[0]?.set(60);
    expect(budget.hasRoom('a')).toBe(false);
    expect(() => holds[0]?.requireRoom()).toThrow(expect.objectContaining({ code: 'BUSY' }));
    expect(() => holds[0]?.grow(61)).toThrow(expect.objectContaining({ code: 'BUSY' }));
    expect(budget.held).toBe(60);
    expect(budget.hasRoom('b')).toBe(true);
    holds[1]?.set(30);
    expect([budget.hasRoom('a'), budget.hasRoom('b'), budget.hasRoom('c')]).toEqual([false, false, true]);
    holds[0]?.grow(40);
    expect([budget.hasRoom('a'), budget.hasRoom('b')]).toEqual([true, true]);
    for (const hold of holds) hold.close();
    holds[0]?.set(10);
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

  it('gives streams turns in the order in which they were asked for, each once there is room beside the requests', async () => {
    const budget = new ByteBudget(12 * MIB);
    const full = budget.open('a');
    full.set(4 * MIB);
    const taken: number[] = [];
    const stop = new AbortController();
    const turns = [0, 1, 2].map(async (n) => {
      const turn: Turn = await budget.streamBounds('a').turns.take(n === 1 ? stop.signal : undefined);
      taken.push(n);
      return turn;
    });
    const left = expect(turns[1]).rejects.toThrow('left');
    // Another account's is not one of them.
    (await budget.streamBounds('b').turns.take(undefined))();
    stop.abort(new Error('left'));
    await left;
    expect(taken).toEqual([]);
    expect(budget.hasRoom('a')).toBe(true);
    full.set(0);
    const first = await turns[0];
    // It is counted as a large read until it has brought less.
    expect(taken).toEqual([0]);
    first?.brought?.(10);
    const last = await turns[2];
    expect(taken).toEqual([0, 2]);
    first?.();
    last?.();
    expect(budget.held).toBe(0);
  });

  it('lets two streams of an account read at once, and a third when one has come back', async () => {
    const budget = new ByteBudget(1024 * MIB);
    let reading = 0;
    const turns = [0, 1, 2, 3].map(async () => {
      const turn: Turn = await budget.streamBounds('a').turns.take(undefined);
      reading++;
      return turn;
    });
    const [first, second] = [await turns[0], await turns[1]];
    const other = await budget.streamBounds('b').turns.take(undefined);
    expect(reading).toBe(2);
    first?.brought?.(10);
    first?.brought?.(20);
    const third = await turns[2];
    expect(reading).toBe(3);
    second?.();
    const fourth = await turns[3];
    for (const end of [first, third, fourth, other]) end?.();
    expect([reading, budget.held]).toEqual([4, 0]);
  });

  it('lets streams keep live messages while there is room', () => {
    const budget = new ByteBudget(300);
    const [one, other] = [budget.streamBounds('a'), budget.streamBounds('a')];
    expect([one.keep(100), other.keep(64)]).toEqual([true, false]);
    expect(budget.held).toBe(100);
    expect([one.keep(50), other.keep(64)]).toEqual([true, true]);
    // Fewer of them is no question.
    expect([one.keep(40), one.keep(0), other.keep(0)]).toEqual([true, true, true]);
    expect(budget.held).toBe(0);
  });

  it('reads few large things at once, and refuses where what waited finds no room', async () => {
    const budget = new ByteBudget(64 * MIB);
    const gate = Promise.withResolvers<void>();
    let running = 0;
    const hold = budget.open('a');
    const reads = Array.from({ length: 6 }, () =>
      budget.read(budget.open('a'), async () => {
        running++;
        await gate.promise;
      }),
    );
    const settled = Promise.allSettled(reads);
    await expect.poll(() => running).toBe(2);
    hold.set(32 * MIB);
    gate.resolve();
    expect((await settled).map(({ status }) => status)).toEqual([
      ...Array(2).fill('fulfilled'),
      ...Array(4).fill('rejected'),
    ]);
  });

  describe('where what was read before still waits for the collector', () => {
    const LIMIT = 100;
    let outside: number;
    let asked: number;
    let budget: ByteBudget;

    beforeEach(() => {
      outside = LIMIT + 1;
      asked = 0;
      const bytesOutside = () => {
        asked++;
        return outside;
      };
      budget = new ByteBudget(64 * MIB, new Uncollected(LIMIT, bytesOutside));
    });

    const ways: [string, (length: number) => Promise<unknown>][] = [
      [
        'a stream',
        async (length) => {
          const end = await budget.streamBounds('a').turns.take(undefined);
          end.brought?.(length);
          end();
        },
      ],
      [
        'an answer',
        async (length) => {
          const hold = budget.open('a');
          await budget.read(hold, async () => budget.made('a', length));
          hold.close();
        },
      ],
    ];

    it.each(ways)('%s that follows a large one waits until it is collected', async (_name, read) => {
      await read(MIB);
      expect(asked).toBe(0);
      let over = false;
      const next = read(10).then(() => {
        over = true;
      });
      await expect.poll(() => asked).toBeGreaterThan(2);
      expect(over).toBe(false);
      outside = LIMIT;
      await next;
      // Only after a large one.
      const before = asked;
      outside = LIMIT + 1;
      await read(10);
      expect(asked).toBe(before);
    });

    it.each(ways)('%s of an account that reads little does not wait', async (_name, read) => {
      await read(255 * KIB);
      budget.made('b', MIB);
      await read(10);
      expect(asked).toBe(0);
    });

    it.each(ways)('%s goes on after half a second of waiting', async (_name, read) => {
      await read(MIB);
      await read(10);
      expect(asked).toBe(50);
    });
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
async function listen(client?: FakeClient): Promise<{ port: number; held: () => number }> {
  const limits = { unreadMs: 600_000, bodyStallMs: 600_000 };
  let held: () => number = () => Number.NaN;
  const metrics = {
    contentType: 'text/plain',
    render: async () => '',
    countStreams: () => undefined,
    countHeldBytes: (bytes: () => number) => {
      held = bytes;
    },
  };
  const config = { tokens, metricsToken: 'token-of-metrics', bodyLimitBytes: 32 * MIB, inFlightBytes: 64 * MIB };
  const app = harness.another(config, { board: false, limits, metrics, ...(client === undefined ? {} : { client }) });
  return { port: await listenLocally(app), held: () => held() };
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

const post = (tenant: string) =>
  `POST /v1/jobs/sized HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer token-of-tenant-${tenant}\r\ncontent-type: application/json\r\n`;

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
      const { port, held } = await listen();
      const id = await done('a', { events: Array(4).fill(MIB), result: 3 * MIB });
      const other = await done('b', { result: 10 });
      const sockets = [];
      // What the kernel takes for a connection is not the process's: each asks for more than that.
      for (let n = 0; n < 12; n++) sockets.push(await unread(port, request(id).repeat(8)));
      await expectRefused(port, `/v1/jobs/${id}`);
      await expectRefused(port, '/v1/jobs/sized', { result: 1 });
      // Also where nothing is read for it.
      await expectRefused(port, '/v1/job-definitions');
      expect(await ask(port, 'b', `/v1/jobs/${other}`)).toMatchObject({ status: 200 });
      expect(await ask(port, 'b', '/v1/jobs/sized', { result: 1 })).toMatchObject({ status: 202 });
      for (const socket of sockets) socket.destroy();
      await expect.poll(async () => (await ask(port, 'a', `/v1/jobs/${id}`)).status).toBe(200);
      await expect.poll(held).toBe(0);
    },
  );

  it('is told BUSY while bodies that stall fill its share; another is served', async () => {
    const { port, held } = await listen();
    const head = `${post('a')}content-length: ${31 * MIB}\r\n\r\n`;
    const sockets = [];
    // Each has a buffer of 4 MiB: eight are the share. One after the other: those that grow together are refused together.
    for (let n = 1; n <= 8; n++) {
      sockets.push(await unread(port, `${head}{"filler":"${'x'.repeat(3 * MIB)}`));
      await expect.poll(held).toBe(n * 4 * MIB);
    }
    await expectRefused(port, '/v1/jobs?limit=1');
    await expectRefused(port, '/v1/jobs/sized', { filler: 'x' });
    await expectRefused(port, '/v1/collections/c/documents?path=a.txt', 'text');
    expect(await ask(port, 'b', '/v1/jobs/sized', { filler: 'x'.repeat(MIB) })).toMatchObject({ status: 202 });
    for (const socket of sockets) socket.destroy();
    await expect.poll(held).toBe(0);
    expect(await ask(port, 'a', '/v1/jobs?limit=1')).toMatchObject({ status: 200 });
  });

  it('is told BUSY while it has many bodies of which little came', async () => {
    const { port, held } = await listen();
    const sockets = [];
    for (let n = 0; n < 40; n++)
      sockets.push(await unread(port, `${post('a')}content-length: ${31 * MIB}\r\n\r\n{"filler":"${'x'.repeat(MIB)}`));
    // Whichever came first have theirs, the others are refused and closed: never more than the share, and what one grows by.
    await expect.poll(held).toBeGreaterThan(20 * MIB);
    expect(held()).toBeLessThanOrEqual(34 * MIB);
    expect(await ask(port, 'b', '/v1/jobs?limit=1')).toMatchObject({ status: 200 });
    for (const socket of sockets) socket.destroy();
    await expect.poll(held).toBe(0);
  });

  it('has streams that wait for their turn, and have all their events', async () => {
    const { port, held } = await listen();
    const lengths = Array(12).fill(MIB);
    const id = await done('a', { events: lengths });
    const sockets = [];
    for (let n = 0; n < 12; n++) sockets.push(await unread(port, get(`/v1/jobs/${id}/events`, 'text/event-stream')));
    // They take no more than their part, and the requests of their tenant are served.
    await expect.poll(held).toBeGreaterThan(16 * MIB);
    expect(held()).toBeLessThan(32 * MIB);
    expect(await ask(port, 'a', `/v1/jobs/${id}`)).toMatchObject({ status: 200 });
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
    await expect.poll(held).toBe(0);
  });
});

describe('what is counted', () => {
  it('is of an upload what is gathered of it, however long it is', async () => {
    const { port, held } = await listen();
    const head = post('a')
      .replace('/v1/jobs/sized', '/v1/collections/c/documents?path=a.txt')
      .replace('json', 'octet-stream');
    const socket = await unread(port, `${head}content-length: ${100 * MIB}\r\n\r\n${'x'.repeat(5 * MIB)}`);
    await expect.poll(held).toBe(1.25 * MIB);
    await new Promise((resolve) => socket.write('x'.repeat(5 * MIB), resolve));
    expect(held()).toBe(1.25 * MIB);
    socket.destroy();
    await expect.poll(held).toBe(0);
  });

  it('is of a body what its JSON takes in memory, until it is answered', async () => {
    const client = createFakeClient();
    const answer = Promise.withResolvers<never>();
    client.enqueue = () => answer.promise;
    Object.assign(client, { jobs: new Map([['sized', { name: 'sized' }]]) });
    const { port, held } = await listen(client);
    const body = `[${'[],'.repeat(99_999)}[]]`;
    const asked = ask(port, 'a', '/v1/jobs/sized', JSON.parse(body));
    await expect.poll(held).toBeGreaterThan(20 * body.length);
    answer.resolve({ id: '00000000-0000-7000-8000-000000000001', outcome: 'created', status: 'pending' } as never);
    expect((await asked).status).toBe(202);
    await expect.poll(held).toBe(0);
  });
});

it('large bodies are parsed one in a turn of the event loop', async () => {
  const parser = createBodyParser(10_000);
  let turn = 0;
  let counting: NodeJS.Immediate;
  const count = () => {
    turn++;
    counting = setImmediate(count);
  };
  counting = setImmediate(count);
  onTestFinished(() => clearImmediate(counting));
  const turns: number[] = [];
  const parse = async (n: number) => {
    const body = Readable.from([Buffer.from(JSON.stringify({ n, filler: 'x'.repeat(100 * KIB) }))]);
    const hold = new ByteBudget(64 * MIB).open('a');
    const request = { headers: {}, routeOptions: { bodyLimit: MIB }, hold };
    expect(await parser(request as never, body)).toMatchObject({ n });
    turns.push(turn);
  };
  await Promise.all([1, 2, 3, 4, 5].map(parse));
  expect(new Set(turns).size).toBe(5);
});

describe('a request that is refused before its tenant is known', () => {
  it.each([
    ['no token', 401, get('/v1/jobs').replace(/authorization.*\r\n/, '')],
    ['a wrong token', 401, get('/v1/jobs').replace('token-of-tenant-a', 'nobody-has-this-one')],
    ['a body and no token', 401, `${post('a').replace(/authorization.*\r\n/, '')}content-length: 2\r\n\r\n{}`],
    ['no such route', 404, get('/v2/nothing')],
    ['no such route of the API', 404, get('/v1/nothing')],
    ['a malformed path', 404, get('/v1/%zz')],
    ['a parameter that is too long', 404, get(`/v1/jobs/${'x'.repeat(4_000)}`)],
    ['another method', 405, get('/v1/jobs').replace('GET', 'DELETE')],
    ['no HTTP', 400, 'nonsense\r\n\r\n'],
  ])('is answered as what it is: %s', async (_what, status, bytes) => {
    const { port, held } = await listen();
    const socket = connect(port, '127.0.0.1');
    onTestFinished(() => void socket.destroy());
    socket.write(bytes);
    const [answer] = (await once(socket, 'data')) as [Buffer];
    expect(answer.toString()).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
    expect(answer.toString()).toMatch(/\r\nx-request-id: [0-9a-f-]{36}\r\n/i);
    await expect.poll(held).toBe(0);
  });
});
