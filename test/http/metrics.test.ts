/** Who may read /metrics of a web process and of a worker's listener, and what else is there. */
import { request } from 'node:http';
import type { FastifyInstance } from 'fastify';
import { expect, it, onTestFinished } from 'vitest';
import { createApp } from '../../src/http/app.ts';
import { silentLogger } from '../../src/log.ts';
import { shareOf } from '../../src/runtime/shared-runtime.ts';
import { listenForMetrics } from '../../src/telemetry/listener.ts';
import { Metrics } from '../../src/telemetry/metrics.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { sumOf } from '../telemetry/metrics-text.ts';

const file = useDatabase();

const TENANT = 'a-token-of-acme-1234';
const ADMIN = 'the-password-of-the-board';
const TOKEN = 'the-token-of-prometheus';

function stage(config: { tokens?: boolean; metricsToken?: string }): { app: FastifyInstance; metrics: Metrics } {
  const fleet = createTestFleet(file.url, []);
  const metrics = new Metrics({ runtime: shareOf('fleet', fleet).runtime, rows: true });
  onTestFinished(() => metrics.close());
  const app = createApp({
    client: fleet,
    log: silentLogger(),
    metrics,
    config: {
      tokens: config.tokens === true ? new Map([[TENANT, 'acme']]) : undefined,
      adminToken: ADMIN,
      metricsToken: config.metricsToken,
      tenant: 'default',
      bodyLimitBytes: 1_024,
    },
  });
  onTestFinished(() => app.close());
  return { app, metrics };
}

async function ask(app: FastifyInstance, url: string, headers: Record<string, string | undefined> = {}) {
  return app.inject({ url, headers: headers as Record<string, string> });
}

const bearer = (token: string) => ({ authorization: `Bearer ${token}` });
const basic = { authorization: `Basic ${Buffer.from(`any:${ADMIN}`).toString('base64')}` };

it.each([
  ['without tokens anybody', {}, {}, 200],
  ['without tokens, under a name of a stranger nobody', {}, { host: 'evil.example' }, 421],
  ['with tokens and none for it nobody', { tokens: true }, bearer(TENANT), 404],
  ['with its token Prometheus', { tokens: true, metricsToken: TOKEN }, bearer(TOKEN), 200],
  ['with its token no tenant', { tokens: true, metricsToken: TOKEN }, bearer(TENANT), 401],
  ['with its token no password of the board', { tokens: true, metricsToken: TOKEN }, basic, 401],
  ['with its token nobody else', { tokens: true, metricsToken: TOKEN }, {}, 401],
  ['with its token alone nobody else', { metricsToken: TOKEN }, {}, 401],
])('of a web process may be read: %s', async (_who, config, headers, status) => {
  const { app } = stage(config);
  const answer = await ask(app, '/metrics', headers);
  expect(answer.statusCode).toBe(status);
  if (status !== 200) expect(answer.body).not.toContain('oncefleet_due_jobs');
  else {
    expect(answer.headers['content-type']).toMatch(/^text\/plain; version=0\.0\.4/);
    expect(sumOf(answer.body, 'oncefleet_rows_up')).toBe(1);
    expect(answer.body).toContain('oncefleet_open_streams 0');
  }
});

it('is not part of the API that tenants are told of, and no page of another origin may read it', async () => {
  const { app } = stage({ tokens: true, metricsToken: TOKEN });
  expect((await ask(app, '/openapi.json')).body).not.toContain('/metrics');
  const headers = { ...bearer(TOKEN), origin: 'https://evil.example' };
  const answer = await ask(app, '/metrics', headers);
  expect(answer.headers['access-control-allow-origin']).toBeUndefined();
});

/** `fetch` sets a Host of its own. */
function get(url: string, headers: Record<string, string>, method = 'GET'): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    request(url, { headers, method }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (text: string) => {
        body += text;
      });
      response.on('end', () => resolve({ status: response.statusCode as number, body }));
    })
      .on('error', reject)
      .end();
  });
}

it.each([
  ['without a token anybody on this machine', undefined, {}, 200],
  ['without a token, under a name of a stranger nobody', undefined, { host: 'evil.example' }, 421],
  ['with its token Prometheus', TOKEN, bearer(TOKEN), 200],
  ['with its token nobody else', TOKEN, {}, 401],
  ['with its token no other', TOKEN, bearer(`${TOKEN}x`), 401],
])('of a worker may be read: %s', async (_who, token, headers, status) => {
  const { metrics } = stage({});
  const listener = await listenForMetrics({ metrics, host: '127.0.0.1', port: 0, token });
  onTestFinished(() => listener.close());
  const answer = await get(listener.url, headers as Record<string, string>);
  expect(answer.status).toBe(status);
  expect(answer.body.includes('oncefleet_leases_held 0')).toBe(status === 200);
  expect((await get(listener.url.replace('/metrics', '/v1/jobs'), headers as Record<string, string>)).status).toBe(404);
  expect((await get(listener.url, headers as Record<string, string>, 'POST')).status).toBe(405);
});

it('of a worker: a port that is taken is a wrong setting, and says so', async () => {
  const { metrics } = stage({});
  const listener = await listenForMetrics({ metrics, host: '127.0.0.1', port: 0, token: undefined });
  onTestFinished(() => listener.close());
  const port = Number(new URL(listener.url).port);
  await expect(listenForMetrics({ metrics, host: '127.0.0.1', port, token: undefined })).rejects.toMatchObject({
    code: 'CONFIG_INVALID',
    message: expect.stringContaining('ONCEFLEET_METRICS_HOST'),
  });
});
