/** A JobClient in memory, for faults that real servers cannot be made to show on cue. */
import { randomUUID } from 'node:crypto';
import type { JobClient } from '../../src/client/client.ts';
import type { EventPage, FollowOptions, JobHandle, JobRecord } from '../../src/client/types.ts';
import { OncefleetError } from '../../src/errors.ts';
import type { AnyJobDefinition } from '../../src/jobs/define-job.ts';
import { isTerminalType, type JobEvent, type StreamEvent } from '../../src/journal/event.ts';
import type { HealthReport } from '../../src/runtime/health.ts';

export interface FakeClient extends JobClient {
  /** Appends events to a job's stream and wakes its followers. */
  push(id: string, ...events: JobEvent[]): void;
  newJob(name?: string): Promise<string>;
  /** Replaces a method by one that fails. */
  breakMethod(method: 'get' | 'readEvents' | 'follow' | 'enqueue' | 'find' | 'cancel', error: unknown): void;
  healthReport: HealthReport;
  /** Followers that have not ended. */
  readonly following: number;
  /** Events that followers were asked for so far. */
  readonly pulled: number;
}

export function createFakeClient(definitions: readonly AnyJobDefinition[] = []): FakeClient {
  const jobs = new Map<string, { record: JobRecord; events: StreamEvent[]; wake: Set<() => void> }>();
  const state = { following: 0, pulled: 0 };

  const find = (id: string, tenant = 'default') => {
    const job = jobs.get(id);
    if (job === undefined || job.record.tenant !== tenant) throw new OncefleetError('JOB_NOT_FOUND', `No job ${id}`);
    return job;
  };
  const isClosed = (events: StreamEvent[]) => isTerminalType(events.at(-1)?.event.type ?? '');

  const client = {
    jobs: new Map(definitions.map((definition) => [definition.name, definition])),
    queues: [],
    healthReport: { postgres: undefined, redis: undefined },
    get following() {
      return state.following;
    },
    get pulled() {
      return state.pulled;
    },
    async enqueue(_job: unknown, input: unknown): Promise<JobHandle> {
      const id = await client.newJob();
      find(id).record.input = input;
      return { id, outcome: 'created', status: 'pending' } as JobHandle;
    },
    async newJob(name = 'echo') {
      const id = randomUUID();
      const record = { id, tenant: 'default', name, status: 'pending', input: null } as unknown as JobRecord;
      jobs.set(id, { record, events: [], wake: new Set() });
      return id;
    },
    push(id: string, ...events: JobEvent[]) {
      const job = jobs.get(id);
      if (job === undefined) throw new Error(`no fake job ${id}`);
      for (const event of events)
        job.events.push({
          seq: job.events.length,
          fence: 1,
          cursor: job.events.length,
          event,
          json: JSON.stringify(event),
        });
      const waiting = [...job.wake];
      job.wake.clear();
      for (const wake of waiting) wake();
    },
    async get(id: string, { tenant = 'default' } = {}) {
      const job = jobs.get(id);
      return job?.record.tenant === tenant ? job.record : undefined;
    },
    async find() {
      return { jobs: [], nextCursor: null };
    },
    async cancel(id: string, { tenant = 'default' } = {}) {
      find(id, tenant);
      return { status: 'cancelled', outcome: 'cancelled' } as const;
    },
    async redrive() {},
    async readEvents(
      id: string,
      { tenant, after = -1, limit = 100 }: { tenant?: string; after?: number; limit?: number } = {},
    ): Promise<EventPage> {
      const { events } = find(id, tenant);
      if (after >= events.length && !isClosed(events))
        throw new OncefleetError('CURSOR_INVALID', `${after} lies beyond the end`);
      const page = events.slice(after + 1, after + 1 + limit);
      const next = page.at(-1)?.seq ?? after;
      return { events: page, next, finished: isClosed(events) && next >= events.length - 1 };
    },
    async *follow(id: string, { tenant, after = -1, signal }: FollowOptions = {}) {
      const job = find(id, tenant);
      state.following++;
      try {
        for (let next = Number(after) + 1; ; ) {
          signal?.throwIfAborted();
          const event = job.events[next];
          if (event === undefined) {
            const { promise, resolve } = Promise.withResolvers<void>();
            const wake = () => resolve();
            job.wake.add(wake);
            signal?.addEventListener('abort', wake);
            await promise;
            signal?.removeEventListener('abort', wake);
            job.wake.delete(wake);
            continue;
          }
          next++;
          state.pulled++;
          yield event;
          if (isTerminalType(event.event.type)) return;
        }
      } finally {
        state.following--;
      }
    },
    async *followBatches(id: string, options: FollowOptions = {}) {
      // Each event alone; as a method, so that a `follow` a test has replaced counts.
      for await (const event of client.follow(id, options)) {
        yield {
          source: undefined,
          skip: () => undefined,
          *[Symbol.iterator]() {
            yield event;
          },
        };
      }
    },
    async result() {
      throw new Error('not needed here');
    },
    async health() {
      return client.healthReport;
    },
    async close() {},
    breakMethod(method: string, error: unknown) {
      const reject = async () => {
        throw error;
      };
      // A follower fails on its first `next()`, not when it is made.
      const broken = method === 'follow' ? () => ({ [Symbol.asyncIterator]: () => ({ next: reject }) }) : reject;
      Object.assign(client, { [method]: broken });
    },
  };
  return client as unknown as FakeClient;
}
