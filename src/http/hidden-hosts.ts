/** What tenants are not shown: where their jobs ran. Workers have names by which they can be told apart. */
import type { preSerializationHookHandler } from 'fastify';

interface Shown {
  leaseOwner?: string | null;
  attempts?: { worker: string; host: string }[];
  jobs?: Shown[];
}

/** Leaves the host out of the names of workers in a job, or in a page of them. */
export const hideHosts: preSerializationHookHandler = (_request, _reply, payload, done) => {
  done(null, typeof payload === 'object' && payload !== null ? withoutHosts(payload) : payload);
};

export function withoutHosts<T extends Shown>(shown: T): T {
  const { leaseOwner, attempts, jobs } = shown;
  return {
    ...shown,
    ...(typeof leaseOwner === 'string' ? { leaseOwner: bareName(leaseOwner) } : {}),
    ...(Array.isArray(attempts)
      ? { attempts: attempts.map((attempt) => ({ ...attempt, worker: bareName(attempt.worker), host: '' })) }
      : {}),
    ...(Array.isArray(jobs) ? { jobs: jobs.map(withoutHosts) } : {}),
  };
}

/** Of `<host>:<pid>:<random>`, and of the owner of a lease, `…/<number>`: what comes after the last colon. */
export function bareName(worker: string): string {
  return worker.slice(worker.lastIndexOf(':') + 1);
}
