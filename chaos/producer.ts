/**
 * A process that enqueues jobs over HTTP, with duplicates, retries and cancels, and records
 * what it was answered. SIGTERM: no new jobs, waits for those it has, asks for each once more.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { type Kind, type ProducerEntry, record } from './history.ts';
import { Random } from './random.ts';

export interface ProducerOptions {
  origin: string;
  file: string;
  seed: number;
  name: string;
  lanes: number;
}

const MIX: readonly { kind: Kind; weight: number }[] = [
  { kind: 'effect', weight: 6 },
  { kind: 'ledger', weight: 4 },
  { kind: 'stream', weight: 3 },
  { kind: 'throw', weight: 3 },
  { kind: 'block', weight: 0.6 },
  { kind: 'refuse', weight: 1 },
  { kind: 'hang', weight: 1 },
  { kind: 'poison', weight: 0.25 },
];

const REQUEST_LIMIT_MS = 8_000;
const POLL_MS = 300;
const AT_ONCE = 8;

/** How long the API may leave a request without an answer once all faults are over. */
const ANSWER_LIMIT_MS = 25_000;

interface Asked {
  key: string;
  kind: Kind;
  input: Record<string, unknown>;
  query: string;
}

interface Shown {
  status: string;
  result: unknown;
  error: { code: string } | null;
}

async function main({ origin, file, seed, name, lanes }: ProducerOptions): Promise<void> {
  const stop = new AbortController();
  process.on('SIGTERM', () => stop.abort());
  process.on('SIGINT', () => {});
  const asked: { job: Asked; id: string }[] = [];
  let count = 0;
  const note = (entry: ProducerEntry) => record(file, entry);

  /** Asks until the API has answered: a request without an answer may or may not have been accepted. */
  async function request(path: string, init: RequestInit): Promise<{ status: number; body: unknown }> {
    let healthySince = Number.POSITIVE_INFINITY;
    for (let last = ''; ; ) {
      try {
        const response = await fetch(`${origin}${path}`, { ...init, signal: AbortSignal.timeout(REQUEST_LIMIT_MS) });
        const text = await response.text();
        if (response.status < 500 && response.status !== 429)
          return { status: response.status, body: JSON.parse(text) };
        last = `${response.status} ${text.slice(0, 300)}`;
      } catch (error) {
        last = String((error as Error).cause ?? error);
      }
      if (stop.signal.aborted) healthySince = Math.min(healthySince, performance.now());
      if (performance.now() - healthySince > ANSWER_LIMIT_MS) {
        note({
          type: 'odd',
          key: path,
          what: `${init.method ?? 'GET'} ${path} is not answered; the last try: ${last}`,
        });
        healthySince = Number.POSITIVE_INFINITY;
      }
      await delay(100 + Math.random() * 200);
    }
  }

  async function enqueue(job: Asked): Promise<string | undefined> {
    const { status, body } = await request(`/v1/jobs/chaos-${job.kind}${job.query}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'idempotency-key': job.key },
      body: JSON.stringify(job.input),
    });
    const { id, outcome } = body as { id: string; outcome: string };
    if (status !== 200 && status !== 202) {
      note({ type: 'odd', key: job.key, what: `enqueue answered ${status}: ${JSON.stringify(body).slice(0, 300)}` });
      return undefined;
    }
    note({ type: 'accepted', key: job.key, kind: job.kind, id, outcome, input: job.input });
    return id;
  }

  async function show(job: Asked, id: string): Promise<Shown | undefined> {
    const { status, body } = await request(`/v1/jobs/${id}`, {});
    if (status === 200) return body as Shown;
    note({ type: 'odd', key: job.key, what: `job ${id} is not there: ${status}` });
    return undefined;
  }

  function noteOutcome(job: Asked, id: string, shown: Shown): void {
    note({
      type: 'outcome',
      key: job.key,
      id,
      status: shown.status,
      result: JSON.stringify(shown.result),
      error: shown.error?.code ?? null,
    });
  }

  async function live(random: Random): Promise<void> {
    const { kind } = random.weighted(MIX);
    const key = `${kind}-${name}-${count++}`;
    const query = random.chance(0.1)
      ? `?delayMs=${random.int(1, 1_500)}`
      : random.chance(0.1)
        ? `?priority=${random.int(1, 9)}`
        : '';
    const job: Asked = { key, kind, query, input: inputOf(kind, key, random) };
    const copies = random.chance(0.4) ? random.int(2, 4) : 1;
    const ids = await Promise.all(Array.from({ length: copies }, () => enqueue(job)));
    const id = ids.find((candidate) => candidate !== undefined);
    if (id === undefined) return;
    asked.push({ job, id });
    if (random.chance(0.1)) await expectMismatch(job);
    const again = random.chance(0.3) ? delay(random.int(0, 4_000)).then(() => enqueue(job)) : undefined;
    if (kind === 'hang') {
      await delay(random.int(300, 2_500));
      await request(`/v1/jobs/${id}/cancel`, { method: 'POST' });
    }
    for (;;) {
      const shown = await show(job, id);
      if (shown === undefined) break;
      if (['completed', 'failed', 'cancelled'].includes(shown.status)) {
        noteOutcome(job, id, shown);
        break;
      }
      await delay(POLL_MS);
    }
    await again;
  }

  async function expectMismatch(job: Asked): Promise<void> {
    const { status } = await request(`/v1/jobs/chaos-${job.kind}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'idempotency-key': job.key },
      body: JSON.stringify({ ...job.input, key: `${job.key}-other` }),
    });
    if (status !== 422)
      note({ type: 'odd', key: job.key, what: `another input under its key was answered ${status}, not 422` });
  }

  await Promise.all(
    Array.from({ length: lanes }, async (_, lane) => {
      const random = new Random(`${name} ${lane} ${seed}`);
      while (!stop.signal.aborted) await live(random);
    }),
  );
  // Each once more: the outcome is replayed.
  const waiting = [...asked];
  await Promise.all(
    Array.from({ length: AT_ONCE }, async () => {
      for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
        const id = await enqueue(next.job);
        const shown = id === undefined ? undefined : await show(next.job, id);
        if (id !== undefined && shown !== undefined) noteOutcome(next.job, id, shown);
      }
    }),
  );
}

function inputOf(kind: Kind, key: string, random: Random): Record<string, unknown> {
  switch (kind) {
    case 'effect':
      return { key, pauseMs: random.int(0, 800) };
    case 'ledger':
      // Most are still at it when a run that lost its lease wakes up.
      return { key, steps: random.int(5, 60), pauseMs: random.int(0, 150) };
    case 'stream':
      return { key, events: random.int(500, 4_000), pauseMs: random.int(0, 200) };
    case 'block':
      return { key, ms: random.chance(0.2) ? random.int(5_000, 8_000) : random.int(100, 3_500) };
    default:
      return { key };
  }
}

await main(JSON.parse(process.argv[2] as string) as ProducerOptions);
process.exit(0);
