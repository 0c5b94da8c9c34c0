import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Harness, startHarness } from './harness.ts';
import { inject } from './requests.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness();
});
afterAll(() => harness?.close());

const ADMIN = 'admin-token-of-16-or-more';
const tokens = new Map([['token-of-tenant-a', 'a']]);
const basic = (user: string, password: string) => ({
  authorization: `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`,
});

async function jobsOf(queue: string): Promise<Record<string, unknown>[]> {
  const response = await inject(
    harness.app,
    `/admin/queues/api/queues?activeQueue=${queue}&status=latest&page=1&jobsPerPage=20`,
  );
  return response.json().queues.find((one: { name: string }) => one.name === queue).jobs;
}

describe('Bull Board', () => {
  it('serves its page and its parts, and loads nothing from elsewhere', async () => {
    const page = await inject(harness.app, '/admin/queues/');
    expect(page.statusCode).toBe(200);
    expect(page.headers['content-type']).toContain('text/html');
    expect(page.headers['content-security-policy']).toContain("default-src 'self'");
    const script = /src="(static\/js\/main[^"]+)"/.exec(page.body)?.[1];
    const part = await inject(harness.app, `/admin/queues/${script}`);
    expect(part.statusCode).toBe(200);
    expect(part.headers['content-type']).toContain('javascript');
  });

  it('shows every queue with its description', async () => {
    const { queues } = (await inject(harness.app, '/admin/queues/api/queues')).json();
    expect(queues.map((queue: { name: string }) => queue.name).toSorted()).toEqual([
      'echo',
      'failing',
      'parrot',
      'stepper',
    ]);
    expect(queues.find((queue: { name: string }) => queue.name === 'echo').description).toBe(
      'Says each word of a text, then the text.',
    );
  });

  it('shows a job under its key, with tenant and name, and a link to its record', async () => {
    const { id } = await harness.fleet.enqueue('echo', { text: 'x' }, { key: 'order-17', delayMs: 3_600_000 });
    await expect
      .poll(async () => (await jobsOf('echo')).map((job) => job['name']), { timeout: 15_000 })
      .toContain('echo · order-17');
    const job = (await jobsOf('echo')).find((one) => one['id'] === id);
    expect(job).toMatchObject({
      data: { oncefleet: 1, jobId: id, tenant: 'default', key: 'order-17' },
      externalUrl: { href: `/jobs/${id}` },
    });
  });

  it('links to no record that is not there', async () => {
    const queue = harness.fleet.queues.find(({ name }) => name === 'echo') as (typeof harness.fleet.queues)[number];
    const delay = 3_600_000;
    const theirs = await harness.fleet.enqueue('echo', { text: 'x' }, { tenant: 'other', delayMs: delay });
    const foreign = await queue.add('echo', { some: 'data' }, { delay });
    const lost = randomUUID();
    await queue.add('echo', { oncefleet: 1, key: null }, { jobId: lost, delay });
    for (const id of [foreign.id, lost]) {
      await expect.poll(async () => (await jobsOf('echo')).map((job) => job['id']), { timeout: 15_000 }).toContain(id);
      const shown = await inject(harness.app, `/admin/queues/api/queues/echo/${id}`);
      expect(shown.statusCode).toBe(200);
      expect([id, shown.json().job.externalUrl]).toEqual([id, undefined]);
    }
    // A job of another tenant has a page too: whoever sees the board sees all tenants.
    const links = (await jobsOf('echo')).map((job) => (job['externalUrl'] as { href?: string } | undefined)?.href);
    expect(links).toContain(`/jobs/${theirs.id}`);
    for (const job of await jobsOf('echo')) {
      const { href } = (job['externalUrl'] ?? {}) as { href?: string };
      if (href !== undefined) expect((await inject(harness.app, href)).statusCode).toBe(200);
    }
    await Promise.all([foreign.remove(), queue.remove(lost)]);
  });

  it('redrives a failed job by its Retry button', async () => {
    const { id } = await harness.fleet.enqueue('failing', { text: 'x' });
    await expect
      .poll(async () => (await jobsOf('failing')).find((job) => job['id'] === id)?.['isFailed'], { timeout: 15_000 })
      .toBe(true);
    const before = (await harness.fleet.get(id))?.fence as number;
    const retried = await inject(harness.app, { method: 'PUT', url: `/admin/queues/api/queues/failing/${id}/retry` });
    expect(retried.statusCode).toBe(204);
    await expect.poll(async () => (await harness.fleet.get(id))?.fence, { timeout: 15_000 }).toBeGreaterThan(before);
    await expect.poll(async () => (await harness.fleet.get(id))?.status, { timeout: 15_000 }).toBe('failed');
  });

  it('is not there when the app is built without it', async () => {
    expect((await inject(harness.another({}, { board: false }), '/admin/queues/')).statusCode).toBe(404);
  });

  it('is not there when there are tokens but no admin token', async () => {
    const app = harness.another({ tokens });
    for (const url of ['/admin/queues/', '/admin/queues/api/queues', '/admin/queues/static/favicon-32x32.png']) {
      expect((await inject(app, { url, headers: { authorization: 'Bearer token-of-tenant-a' } })).statusCode).toBe(404);
    }
  });

  it.each([
    ['no password', {}],
    ['a wrong one', basic('admin', 'wrong')],
    ['an empty one', basic('admin', '')],
    ['the token of a tenant', basic('admin', 'token-of-tenant-a')],
    ['the admin token as a bearer', { authorization: `Bearer ${ADMIN}` }],
    ['the admin token as user', basic(ADMIN, '')],
    ['nonsense', { authorization: 'Basic ????' }],
  ])('is closed to %s once there is an admin token', async (_what, headers) => {
    const app = harness.another({ tokens, adminToken: ADMIN });
    for (const [method, url] of [
      ['GET', '/admin/queues/'],
      ['GET', '/admin/queues/api/queues'],
      ['PUT', '/admin/queues/api/queues/pause'],
      ['GET', '/admin/queues/static/favicon-32x32.png'],
    ] as const) {
      const response = await inject(app, { method, url, headers });
      expect(response.statusCode).toBe(401);
      expect(response.headers['www-authenticate']).toMatch(/^Basic realm=/);
    }
  });

  it('opens to the admin token under any user name, and links to pages of the console', async () => {
    const app = harness.another({ tokens, adminToken: ADMIN });
    const headers = basic('anybody', ADMIN);
    expect((await inject(app, { url: '/admin/queues/', headers })).statusCode).toBe(200);
    const response = await inject(app, {
      url: '/admin/queues/api/queues?activeQueue=echo&status=latest&page=1&jobsPerPage=20',
      headers,
    });
    expect(response.statusCode).toBe(200);
    expect(response.body).toContain('"href":"/jobs/');
  });
});
