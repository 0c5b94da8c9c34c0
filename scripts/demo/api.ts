/** The HTTP API as the demo uses it. */
import type { AttemptRecord, EnqueueOutcome, JobStatus } from '../../src/client/types.ts';

export interface Accepted {
  id: string;
  status: JobStatus;
  outcome: EnqueueOutcome;
  /** HTTP status: 202 created or attached, 200 replayed. */
  code: number;
  /** The Idempotency-Replayed header. */
  replayed: boolean;
}

export interface ShownJob {
  id: string;
  status: JobStatus;
  result: unknown;
  error: { code: string; message: string } | null;
  leaseOwner: string | null;
  attempts: AttemptRecord[];
}

export interface Api {
  readonly origin: string;
  enqueue(job: string, input: unknown, key: string, signal: AbortSignal): Promise<Accepted>;
  get(id: string, signal: AbortSignal): Promise<ShownJob>;
  eventsUrl(id: string): string;
  /** Answers 200 once Postgres and Redis answer. */
  isReady(signal: AbortSignal): Promise<boolean>;
}

export function createApi(origin: string): Api {
  return {
    origin,
    eventsUrl: (id) => `${origin}/v1/jobs/${id}/events`,
    async enqueue(job, input, key, signal) {
      const response = await fetch(`${origin}/v1/jobs/${job}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'idempotency-key': key },
        body: JSON.stringify(input),
        signal,
      });
      const body = (await readJson(response)) as Pick<Accepted, 'id' | 'status' | 'outcome'>;
      return { ...body, code: response.status, replayed: response.headers.get('idempotency-replayed') === 'true' };
    },
    async get(id, signal) {
      return (await readJson(await fetch(`${origin}/v1/jobs/${id}`, { signal }))) as ShownJob;
    },
    async isReady(signal) {
      const response = await fetch(`${origin}/readyz`, { signal });
      await response.arrayBuffer();
      return response.status === 200;
    },
  };
}

/** @throws Error what the problem+json says */
async function readJson(response: Response): Promise<unknown> {
  const text = await response.text();
  if (!response.ok)
    throw new Error(`${new URL(response.url).pathname} answered ${response.status}: ${text.slice(0, 500)}`);
  return JSON.parse(text);
}
