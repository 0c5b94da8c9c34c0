import { connect } from 'node:net';
import type { FastifyInstance } from 'fastify';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ERROR_CODES } from '../../src/errors.ts';
import { createApp } from '../../src/http/app.ts';
import { HTTP_STATUS } from '../../src/http/problem.ts';
import { silentLogger } from '../../src/log.ts';
import { createFakeClient } from './fake-client.ts';
import { inject, listenLocally } from './requests.ts';

const config = { tokens: undefined, adminToken: undefined, tenant: 'default', bodyLimitBytes: 1024 };
let app: FastifyInstance;
let port: number;

beforeAll(async () => {
  app = createApp({ client: createFakeClient(), log: silentLogger(), config });
  port = await listenLocally(app);
});
afterAll(() => app.close());

describe('a request', () => {
  it('keeps the id its caller gave it', async () => {
    const response = await inject(app, { url: '/nowhere', headers: { 'x-request-id': 'abc-123' } });
    expect(response.headers['x-request-id']).toBe('abc-123');
    expect(response.json().requestId).toBe('abc-123');
  });

  it.each(['', 'x'.repeat(129), 'a b', '"}{', '<script>'])('gets an id of ours instead of %j', async (given) => {
    const response = await inject(app, { url: '/healthz', headers: { 'x-request-id': given } });
    expect(response.headers['x-request-id']).toMatch(/^[0-9a-f-]{36}$/);
  });

  it.each([
    ['GET', '/v1'],
    ['GET', '/v1/nothing'],
    ['POST', '/v1/jobs/a/b/c'],
    ['GET', '/v1/jobs/%zz'],
    ['GET', '/admin'],
  ] as const)('to an unknown route is 404: %s %s', async (method, url) => {
    const response = await inject(app, { method, url });
    expect(response.statusCode).toBe(404);
    expect(response.headers['content-type']).toBe('application/problem+json');
    expect(response.json()).toMatchObject({ code: 'ROUTE_NOT_FOUND', status: 404 });
  });

  it.each(['/', '/healthz', '/openapi.json', '/v1/jobs', '/nowhere', '/console/style.css', '/admin/queues/'])(
    'is answered as what its content type says: %s',
    async (url) => {
      expect((await inject(app, url)).headers['x-content-type-options']).toBe('nosniff');
    },
  );

  it('does not repeat its query in an error', async () => {
    expect((await inject(app, '/nowhere?token=secret')).body).not.toContain('secret');
  });

  it.each([
    ['PUT', '/v1/jobs/echo', 'GET, HEAD, POST'],
    ['DELETE', '/v1/jobs', 'GET, HEAD'],
    ['GET', '/v1/jobs/0190aaaa-0000-7000-8000-000000000000/cancel', 'POST'],
    ['POST', '/healthz', 'GET, HEAD'],
  ] as const)('with a method its route does not have is told which it has: %s %s', async (method, url, allow) => {
    const response = await inject(app, { method, url });
    expect(response.statusCode).toBe(405);
    expect(response.headers['allow']).toBe(allow);
    expect(response.json()).toMatchObject({ code: 'METHOD_NOT_ALLOWED' });
  });

  it('that is not HTTP is answered with a problem and the connection closed', async () => {
    const text = await new Promise<string>((resolve) => {
      let received = '';
      const socket = connect(port, '127.0.0.1', () => socket.write('nonsense\r\n\r\n'));
      socket.on('data', (bytes) => {
        received += bytes;
      });
      socket.on('close', () => resolve(received));
    });
    expect(text).toMatch(/^HTTP\/1\.1 400 Bad Request\r\n/);
    expect(JSON.parse(text.split('\r\n\r\n')[1] as string)).toMatchObject({ status: 400, code: 'BODY_INVALID' });
  });
});

describe('cross-origin access', () => {
  const tokens = new Map([['token-of-tenant-a', 'a']]);
  const withTokens = () =>
    createApp({ client: createFakeClient(), log: silentLogger(), config: { ...config, tokens } });

  it('is allowed to the API, with the headers clients send', async () => {
    const response = await inject(withTokens(), {
      method: 'OPTIONS',
      url: '/v1/jobs/echo',
      headers: {
        origin: 'https://app.example',
        'access-control-request-method': 'POST',
        'access-control-request-headers': 'idempotency-key',
      },
    });
    expect(response.statusCode).toBe(204);
    expect(response.body).toBe('');
    expect(response.headers['access-control-allow-origin']).toBe('*');
    expect(response.headers['access-control-allow-methods']).toContain('POST');
    for (const name of ['authorization', 'last-event-id', 'idempotency-key', 'content-type']) {
      expect(response.headers['access-control-allow-headers']).toContain(name);
    }
  });

  it('shows callers what they need to read, on errors too', async () => {
    for (const url of ['/v1/jobs', '/v1/nothing']) {
      const response = await inject(withTokens(), url);
      expect(response.headers['access-control-allow-origin']).toBe('*');
      for (const name of ['x-request-id', 'x-workflow-run-id', 'etag'])
        expect(response.headers['access-control-expose-headers']).toContain(name);
    }
  });

  it('is not allowed to the board', async () => {
    for (const method of ['GET', 'OPTIONS'] as const) {
      const response = await inject(app, {
        method,
        url: '/admin/queues/api/queues',
        headers: { origin: 'https://app.example' },
      });
      expect(response.headers).not.toHaveProperty('access-control-allow-origin');
    }
  });
});

describe('/openapi.json', () => {
  it('lists every route of the API with its answers and error codes', async () => {
    const response = await inject(app, '/openapi.json');
    expect(response.statusCode).toBe(200);
    const document = response.json();
    expect(document.openapi).toBe('3.1.0');
    const routes = Object.entries<Record<string, unknown>>(document.paths).flatMap(([path, methods]) =>
      Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
    );
    expect(routes.toSorted()).toEqual([
      'DELETE /v1/collections/{collection}',
      'DELETE /v1/collections/{collection}/documents/{document}',
      'DELETE /v1/responses/{id}',
      'GET /api/chat/{id}/stream',
      'GET /healthz',
      'GET /readyz',
      'GET /v1/collections',
      'GET /v1/collections/{collection}',
      'GET /v1/collections/{collection}/documents',
      'GET /v1/collections/{collection}/documents/{document}',
      'GET /v1/collections/{collection}/documents/{document}/chunks',
      'GET /v1/collections/{collection}/documents/{document}/chunks/{ordinal}',
      'GET /v1/events',
      'GET /v1/job-definitions',
      'GET /v1/jobs',
      'GET /v1/jobs/{id}',
      'GET /v1/jobs/{id}/events',
      'GET /v1/models',
      'GET /v1/models/{model}',
      'GET /v1/responses/{id}',
      'GET /v1/responses/{id}/input_items',
      'POST /api/chat',
      'POST /api/chat/{id}/stop',
      'POST /v1/cancel',
      'POST /v1/chat/completions',
      'POST /v1/collections/{collection}/documents',
      'POST /v1/jobs/{id}/cancel',
      'POST /v1/jobs/{id}/redrive',
      'POST /v1/jobs/{id}/ticket',
      'POST /v1/jobs/{name}',
      'POST /v1/jobs/{name}/bulk',
      'POST /v1/redrive',
      'POST /v1/responses',
      'POST /v1/responses/{id}/cancel',
      'PUT /v1/collections/{collection}',
    ]);
    const enqueue = document.paths['/v1/jobs/{name}'].post;
    expect(Object.keys(enqueue.responses)).toEqual([
      '200',
      '202',
      '400',
      '401',
      '403',
      '404',
      '408',
      '413',
      '415',
      '422',
      '429',
      '500',
      '503',
    ]);
    expect(enqueue.responses['202'].content['application/json'].schema).toEqual({
      $ref: '#/components/schemas/Enqueued',
    });
    expect(enqueue.responses['422'].content['application/problem+json'].schema).toEqual({
      $ref: '#/components/schemas/Problem',
    });
    expect(enqueue.responses['422'].description).toContain('KEY_MISMATCH');
    expect(
      enqueue.parameters.map((parameter: { name: string; in: string }) => `${parameter.in} ${parameter.name}`),
    ).toEqual(expect.arrayContaining(['path name', 'header idempotency-key', 'query delayMs', 'query priority']));
    const events = document.paths['/v1/jobs/{id}/events'].get;
    expect(Object.keys(events.responses['200'].content)).toEqual(['text/event-stream', 'application/json']);
    expect(Object.keys(events.responses)).toContain('204');
  });

  it('refers to nothing that is not in it', async () => {
    const response = await inject(app, '/openapi.json');
    const document = response.json();
    const references = [...response.body.matchAll(/"\$ref":"#\/([^"]+)"/g)].map((match) => match[1] as string);
    expect(references.length).toBeGreaterThan(0);
    for (const reference of references) {
      const target = reference.split('/').reduce((at, key) => at?.[key], document);
      expect(target, reference).toBeDefined();
    }
  });
});

describe('status codes', () => {
  it('are given to codes that exist', () => {
    for (const code of Object.keys(HTTP_STATUS)) expect(ERROR_CODES).toHaveProperty(code);
  });

  it('never include 409 for a key mismatch, which the OpenAI SDK would retry', () => {
    expect(HTTP_STATUS.KEY_MISMATCH).toBe(422);
  });
});

describe('closing', () => {
  it('does not wait for a connection that was opened ahead of need and has sent nothing', async () => {
    const closing = createApp({ client: createFakeClient(), log: silentLogger(), config });
    const socket = connect(await listenLocally(closing), '127.0.0.1');
    await new Promise((resolve) => socket.once('connect', resolve));
    const closed = new Promise((resolve) => socket.once('close', resolve));
    socket.on('error', () => undefined);
    // The server sees it in a tick of its own.
    await expect
      .poll(() => new Promise((resolve) => closing.server.getConnections((_error, count) => resolve(count))), {
        timeout: 15_000,
      })
      .toBe(1);
    await closing.close();
    await closed;
  });
});
