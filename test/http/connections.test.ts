import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import type { FastifyInstance } from 'fastify';
import { afterEach, describe, expect, it } from 'vitest';
import type { JobRecord } from '../../src/client/types.ts';
import { type CreateAppOptions, createApp } from '../../src/http/app.ts';
import { silentLogger } from '../../src/log.ts';
import { createFakeClient, type FakeClient } from './fake-client.ts';
import { inject, listenLocally } from './requests.ts';
import { RawRequest } from './sse-reader.ts';

const config = { tokens: undefined, adminToken: undefined, tenant: 'default', bodyLimitBytes: 64 * 1024 };
const SSE = { accept: 'text/event-stream' };
const running: { close(): Promise<unknown> }[] = [];

afterEach(async () => {
  await Promise.all(running.splice(0).map((app) => app.close()));
});

async function listen(client: FakeClient, options: Partial<CreateAppOptions> = {}) {
  const app: FastifyInstance = createApp({ client, log: silentLogger(), config, board: false, ...options });
  running.push(app);
  return { app, port: await listenLocally(app) };
}

/** A client that writes what it is told and keeps what it is sent. */
class Client {
  readonly socket: Socket;
  text = '';

  constructor(port: number, bytes = '') {
    this.socket = connect(port, '127.0.0.1');
    this.socket.on('error', () => {});
    this.socket.on('data', (chunk) => {
      this.text += chunk.toString('latin1');
    });
    this.socket.write(bytes);
  }

  async closed(): Promise<this> {
    if (!this.socket.closed) await once(this.socket, 'close');
    return this;
  }

  get answers(): string[] {
    return this.text.split(/(?=HTTP\/1\.1 )/);
  }
}

const get = (path: string) => `GET ${path} HTTP/1.1\r\nhost: localhost\r\n\r\n`;
const post = (rest: string) =>
  `POST /v1/jobs/echo HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n${rest}`;

/** Each `get` of a job waits for the test. */
function holdJobs(client: FakeClient) {
  const held: { id: string; answer(): void }[] = [];
  client.get = (id) =>
    new Promise((resolve) => held.push({ id, answer: () => resolve({ id } as unknown as JobRecord) }));
  return held;
}

const jobId = (n: number) => `00000000-0000-7000-8000-${String(n).padStart(12, '0')}`;

describe('pipelined requests', () => {
  it('are in progress one at a time, and answered in order', async () => {
    const client = createFakeClient();
    const held = holdJobs(client);
    const { port } = await listen(client);
    const ids = Array.from({ length: 30 }, (_, n) => jobId(n));
    const reader = new Client(port, ids.map((id) => get(`/v1/jobs/${id}`)).join(''));
    for (const [n, id] of ids.entries()) {
      await expect.poll(() => held.length).toBe(n + 1);
      expect(held[n]?.id).toBe(id);
      held[n]?.answer();
    }
    await expect.poll(() => reader.answers.length).toBe(30);
    expect(reader.answers.map((answer) => /"id":"([^"]+)/.exec(answer)?.[1])).toEqual(ids);
    reader.socket.destroy();
  });

  it('with bodies are each read when it is their turn', async () => {
    const client = createFakeClient();
    const inputs: unknown[] = [];
    client.enqueue = async (_job: unknown, input: unknown) => {
      inputs.push(input);
      return { id: jobId(inputs.length), outcome: 'created', status: 'pending' } as never;
    };
    Object.assign(client, { jobs: new Map([['echo', { name: 'echo' }]]) });
    const { port } = await listen(client);
    const bodies = Array.from({ length: 20 }, (_, n) => JSON.stringify({ n, text: 'x'.repeat(n * 2_000) }));
    const requests = bodies.map((body) => post(`content-length: ${body.length}\r\n\r\n${body}`));
    const reader = new Client(port, requests.join(''));
    await expect.poll(() => reader.answers.length).toBe(20);
    expect(inputs).toEqual(bodies.map((body) => JSON.parse(body)));
    reader.socket.destroy();
  });

  it('that nobody reads the answers of are not begun', async () => {
    const client = createFakeClient();
    let asked = 0;
    client.get = async (id) => {
      asked++;
      return { id, input: 'x'.repeat(1024 * 1024) } as unknown as JobRecord;
    };
    const { port } = await listen(client);
    const reader = new Client(port, get(`/v1/jobs/${jobId(1)}`).repeat(200));
    reader.socket.pause();
    await expect.poll(() => asked).toBeGreaterThan(0);
    const others = new Client(port, get('/healthz').repeat(300));
    await expect.poll(() => others.answers.length).toBe(300);
    // What the kernel's buffers of both ends took.
    expect(asked).toBeLessThan(30);
    others.socket.destroy();
    reader.socket.destroy();
  });

  it('beyond what may wait are not answered, and their connection is closed after those that are', async () => {
    const client = createFakeClient();
    const held = holdJobs(client);
    const { port } = await listen(client, { limits: { maxWaiting: 10 } });
    const reader = new Client(port, get(`/v1/jobs/${jobId(0)}`) + get('/healthz').repeat(100));
    await expect.poll(() => held.length).toBe(1);
    held[0]?.answer();
    await reader.closed();
    expect(reader.answers).toHaveLength(11);
    expect(reader.answers.map((answer) => /connection: close/i.test(answer))).toEqual([
      ...Array.from({ length: 10 }, () => false),
      true,
    ]);
    // What waited is counted off, so that others may wait.
    const other = new Client(port, get('/healthz').repeat(10));
    await expect.poll(() => other.answers.length).toBe(10);
    other.socket.destroy();
  });

  it('that go away while they wait leave room for others', async () => {
    const client = createFakeClient();
    const held = holdJobs(client);
    const { app, port } = await listen(client, { limits: { maxWaiting: 10 } });
    const left = new Client(port, get(`/v1/jobs/${jobId(0)}`) + get('/healthz').repeat(10));
    await expect.poll(() => held.length).toBe(1);
    left.socket.destroy();
    held[0]?.answer();
    const count = () => new Promise<number>((resolve) => app.server.getConnections((_, open) => resolve(open)));
    await expect.poll(count).toBe(0);
    const reader = new Client(port, get(`/v1/jobs/${jobId(1)}`) + get('/healthz').repeat(10));
    await expect.poll(() => held.length).toBe(2);
    held[1]?.answer();
    await expect.poll(() => reader.answers.length).toBe(11);
    reader.socket.destroy();
  });
});

describe('a request that stalls', () => {
  it.each([
    ['half a body', 'content-length: 100\r\n\r\n{"half":', { bodyStallMs: 100 }],
    ['a body that never begins', 'content-length: 100\r\n\r\n', { bodyStallMs: 100 }],
    ['a chunked body without an end', 'transfer-encoding: chunked\r\n\r\n5\r\n{"a":\r\n', { bodyStallMs: 100 }],
    ['half a chunk', 'transfer-encoding: chunked\r\n\r\n50\r\n{"a":', { bodyStallMs: 100 }],
    ['headers without an end', 'x-more: 1\r\n', { headersMs: 100 }],
    ['a body slower than any link', 'content-length: 100\r\n\r\n{"half":', { requestMs: 100 }],
  ])('is given up with 408: %s', async (_what, rest, limits) => {
    const { port } = await listen(createFakeClient(), { limits });
    const reader = await new Client(port, post(rest)).closed();
    expect(reader.text).toMatch(/^HTTP\/1\.1 408 Request Timeout\r\n/);
    expect(reader.text).toMatch(/connection: close/i);
    const [, body = ''] = reader.text.split('\r\n\r\n');
    expect(JSON.parse(body)).toMatchObject({ status: 408, code: 'REQUEST_STALLED' });
  });

  it('is given up behind an answer too', async () => {
    const { port } = await listen(createFakeClient(), { limits: { bodyStallMs: 100 } });
    const half = get('/healthz') + post('content-length: 100\r\n\r\n{"half":');
    const reader = await new Client(port, half).closed();
    expect(reader.answers.map((answer) => answer.slice(9, 12))).toEqual(['200', '408']);
  });

  it('is cut off where an answer has begun that the 408 would be a part of', async () => {
    const client = createFakeClient();
    const id = await client.newJob();
    client.push(id, { type: 'delta' });
    const { port } = await listen(client, { limits: { headersMs: 100, requestMs: 100 } });
    const path = `/v1/jobs/${id}/events`;
    const stream = `GET ${path} HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n`;
    const reader = await new Client(port, `${stream}GET /he`).closed();
    expect(reader.answers).toHaveLength(1);
    expect(reader.text).toContain('id: 0');
  });

  it('is not one that comes slowly, nor one in tiny chunks', async () => {
    const client = createFakeClient();
    const inputs: unknown[] = [];
    client.enqueue = async (_job: unknown, input: unknown) => {
      inputs.push(input);
      return { id: jobId(1), outcome: 'created', status: 'pending' } as never;
    };
    Object.assign(client, { jobs: new Map([['echo', { name: 'echo' }]]) });
    const { port } = await listen(client);
    const body = JSON.stringify({ text: 'é'.repeat(20_000) });
    const bytes = Buffer.from(body);
    const reader = new Client(port, post('transfer-encoding: chunked\r\n\r\n'));
    for (let at = 0; at < bytes.length; at++)
      reader.socket.write(Buffer.concat([Buffer.from('1\r\n'), bytes.subarray(at, at + 1), Buffer.from('\r\n')]));
    reader.socket.write('0\r\n\r\n');
    await expect.poll(() => reader.text).toMatch(/^HTTP\/1\.1 202/);
    expect(inputs).toEqual([JSON.parse(body)]);
    reader.socket.destroy();
  });
});

describe('an answer', () => {
  it('that nobody reads is given up', async () => {
    const client = createFakeClient();
    client.get = async (id) => ({ id, input: 'x'.repeat(32 * 1024 * 1024) }) as unknown as JobRecord;
    const { app, port } = await listen(client, { limits: { unreadMs: 200 } });
    const reader = new Client(port, get(`/v1/jobs/${jobId(1)}`));
    reader.socket.pause();
    const count = () => new Promise<number>((resolve) => app.server.getConnections((_, open) => resolve(open)));
    await expect.poll(count).toBe(1);
    await expect.poll(count, { timeout: 15_000 }).toBe(0);
    reader.socket.destroy();
  });

  it('that is a stream nobody reads is given up, and a quiet one is not', async () => {
    const client = createFakeClient();
    const { port } = await listen(client, { limits: { unreadMs: 200 } });
    const quietId = await client.newJob();
    client.push(quietId, { type: 'delta', text: 'a' });
    const quiet = new RawRequest(port, `/v1/jobs/${quietId}/events`, SSE);
    await expect.poll(() => quiet.events.length).toBe(1);
    const id = await client.newJob();
    for (let i = 0; i < 400; i++) client.push(id, { type: 'delta', text: 'x'.repeat(64 * 1024) });
    const unread = new RawRequest(port, `/v1/jobs/${id}/events`, SSE);
    unread.socket.pause();
    await expect.poll(() => client.following).toBe(2);
    await expect.poll(() => client.following, { timeout: 15_000 }).toBe(1);
    client.push(quietId, { type: 'end' });
    await quiet.closed();
    expect(quiet.body.complete).toBe(true);
    unread.socket.destroy();
  });

  it('that takes its handler long is waited for', async () => {
    const client = createFakeClient();
    const held = holdJobs(client);
    const { port } = await listen(client, { limits: { unreadMs: 50, requestMs: 50, headersMs: 50, bodyStallMs: 50 } });
    const reader = new Client(port, get(`/v1/jobs/${jobId(1)}`));
    await expect.poll(() => held.length).toBe(1);
    // Connections without a request are closed after as long.
    for (let n = 0; n < 3; n++) await new Client(port).closed();
    held[0]?.answer();
    await expect.poll(() => reader.text).toMatch(/^HTTP\/1\.1 200/);
    reader.socket.destroy();
  });
});

describe('closing', () => {
  const half = post('content-length: 100\r\n\r\n{"half":');
  it.each([
    ['nothing sent', ''],
    ['half a request line', 'GET /v1/jo'],
    ['headers without an end', 'GET /healthz HTTP/1.1\r\nhost: localhost\r\n'],
    ['half a body', half],
    ['a chunked body without an end', post('transfer-encoding: chunked\r\n\r\n5\r\n{"a":\r\n')],
    ['an answer', get('/healthz')],
    ['half a body behind an answer', get('/healthz') + half],
    ['half a body to a route that is none', half.replace('/v1/jobs/echo', '/nowhere')],
    ['answers that are not read', get(`/v1/jobs/${jobId(1)}`).repeat(50)],
  ])('does not wait for a client with %s', async (_what, bytes) => {
    const client = createFakeClient();
    client.get = async (id) => ({ id, input: 'x'.repeat(1024 * 1024) }) as unknown as JobRecord;
    const patient = { headersMs: 600_000, requestMs: 600_000, bodyStallMs: 600_000, unreadMs: 600_000 };
    const { app, port } = await listen(client, { limits: { ...patient, drainMs: 100 } });
    const reader = new Client(port, bytes);
    reader.socket.pause();
    // An answer on a connection that began later: what was sent before it has been read.
    await once(reader.socket, 'connect');
    await fetch(`http://127.0.0.1:${port}/healthz`);
    await app.close();
    reader.socket.destroy();
  });

  it('answers the request in progress, and none that waits behind it', async () => {
    const client = createFakeClient();
    const held = holdJobs(client);
    const { app, port } = await listen(client, { limits: { drainMs: 50 } });
    const reader = new Client(port, get(`/v1/jobs/${jobId(0)}`) + get(`/v1/jobs/${jobId(1)}`).repeat(3));
    await expect.poll(() => held.length).toBe(1);
    const closed = app.close();
    await expect.poll(() => app.server.listening).toBe(false);
    held[0]?.answer();
    await reader.closed();
    await closed;
    expect(reader.answers).toHaveLength(1);
    expect(reader.text).toContain(jobId(0));
    expect(held).toHaveLength(1);
  });
});

describe('/openapi.json', () => {
  it('is made once', async () => {
    const { app } = await listen(createFakeClient());
    const first = await inject(app, '/openapi.json');
    const { swagger } = app;
    let made = 0;
    const remake = () => {
      made++;
      return swagger();
    };
    Object.assign(app, { swagger: remake });
    for (let n = 0; n < 3; n++) expect((await inject(app, '/openapi.json')).body).toBe(first.body);
    expect(made).toBe(0);
    expect(first.headers['content-type']).toBe('application/json; charset=utf-8');
  });
});
