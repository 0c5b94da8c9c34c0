/** Another tenant's ordinary requests, at a steady rate, and how long each takes. */
import { Agent, request } from 'node:http';
import { serve } from '../lib/child.ts';
import { now } from '../lib/clock.ts';

/** Between two requests. */
const PACE_MS = 25;
/** One that takes longer has failed. */
const TIMEOUT_MS = 30_000;

export interface Served {
  /** Of the tenant's requests. */
  latencies: number[];
  /** Of /healthz. */
  healthMs: number[];
  /** Answers that are not what an undisturbed tenant has, by status; 0: none came. */
  refused: Record<number, number>;
}

interface Order {
  port: number;
  token: string;
}

const agent = new Agent({ keepAlive: true });
let served: Served = { latencies: [], healthMs: [], refused: {} };
let timer: NodeJS.Timeout | undefined;
let jobId = '';
let turn = 0;

async function ask({ port, token }: Order, method: string, path: string, body?: object) {
  const begun = now();
  const { promise, resolve } = Promise.withResolvers<{ status: number; text: string }>();
  const asked = request(
    {
      port,
      host: '127.0.0.1',
      method,
      path,
      agent,
      timeout: TIMEOUT_MS,
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    },
    (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('close', () =>
        resolve({ status: response.complete ? (response.statusCode ?? 0) : 0, text: Buffer.concat(chunks).toString() }),
      );
    },
  );
  asked.on('error', () => resolve({ status: 0, text: '' }));
  asked.on('timeout', () => asked.destroy());
  asked.end(body === undefined ? undefined : JSON.stringify(body));
  const answer = await promise;
  return { ...answer, ms: now() - begun };
}

async function next(order: Order): Promise<void> {
  const kinds = [
    () => ask(order, 'POST', '/v1/jobs/say', { events: 3, length: 100 }),
    () => ask(order, 'GET', `/v1/jobs/${jobId}`),
    () => ask(order, 'GET', `/v1/jobs/${jobId}/events`),
    () => ask(order, 'GET', '/v1/jobs?limit=10'),
    () => ask(order, 'GET', '/healthz'),
  ];
  const kind = turn++ % kinds.length;
  const into = served;
  const { status, text, ms } = await (kinds[kind] as (typeof kinds)[0])();
  if (status >= 200 && status < 300) (kind === kinds.length - 1 ? into.healthMs : into.latencies).push(ms);
  else into.refused[status] = (into.refused[status] ?? 0) + 1;
  if (kind === 0 && status === 202) jobId = (JSON.parse(text) as { id: string }).id;
}

export const commands = {
  async start(order: Order): Promise<void> {
    // What a process does for the first time takes longer.
    for (let n = 0; n < 50; n++) await next(order);
    served = { latencies: [], healthMs: [], refused: {} };
    timer = setInterval(() => void next(order), PACE_MS);
  },

  /** @returns what was served since the last call */
  take(_: null): Served {
    const taken = served;
    served = { latencies: [], healthMs: [], refused: {} };
    return taken;
  },

  stop(_: null): void {
    clearInterval(timer);
  },
};

serve(commands);
