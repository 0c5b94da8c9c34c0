/** Bull Board: every queue in a browser. */
import { createBullBoard } from '@bull-board/api';
import type { BullMQAdapter } from '@bull-board/api/bullMQAdapter';
import type { FastifyInstance } from 'fastify';
import type { Config } from '../config.ts';
import { OncefleetError } from '../errors.ts';
import type { JobClient } from '../idempotency/client.ts';
import { createBoardAuth } from './auth.ts';
import { GuardedServerAdapter, LinkedQueueAdapter, QueueAdapter } from './board-adapters.ts';
import { sendProblem } from './problem.ts';

export const BOARD_PATH = '/admin/queues';

/**
 * The board's page asks for a font of another host, which would tell that host who looks
 * when, and hold the page up where there is no way out. System fonts serve as well.
 */
const CONTENT_SECURITY_POLICY =
  "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'";

export interface BoardRoutesOptions {
  client: JobClient;
  config: Pick<Config, 'tokens' | 'adminToken' | 'tenant'>;
}

/** Registered under BOARD_PATH. Serves nothing when there are tokens but none for the board. */
export async function boardRoutes(app: FastifyInstance, { client, config }: BoardRoutesOptions): Promise<void> {
  if (config.tokens !== undefined && config.adminToken === undefined) return;
  if (config.adminToken !== undefined) app.addHook('onRequest', createBoardAuth(config.adminToken));
  app.addHook('onRequest', (_request, reply, done) => {
    reply.header('content-security-policy', CONTENT_SECURITY_POLICY).header('x-content-type-options', 'nosniff');
    done();
  });
  // The board's own handler makes a 500 of every error.
  app.addHook('onRoute', (route) => {
    route.errorHandler = function answer(error, request, reply) {
      if (error instanceof OncefleetError) sendProblem(error, request, reply);
      else this.errorHandler(error, request, reply);
    };
  });
  const serverAdapter = new GuardedServerAdapter(client);
  serverAdapter.setBasePath(BOARD_PATH);
  createBullBoard({
    queues: client.queues.map((queue) => createAdapter(client, queue, config)),
    serverAdapter,
    options: {
      uiConfig: {
        boardTitle: 'Oncefleet',
        hideDocsLink: true,
        miscLinks: [{ text: 'API', url: '/openapi.json' }],
      },
    },
  });
  await app.register(serverAdapter.registerPlugin());
}

function createAdapter(
  client: JobClient,
  queue: JobClient['queues'][number],
  { tokens, tenant }: BoardRoutesOptions['config'],
): BullMQAdapter {
  const jobs = [...client.jobs.values()].filter((job) => job.queue === queue.name);
  const options = {
    // Retry in the board is a redrive, so the board must be able to write.
    readOnlyMode: false,
    // A completed job has its one outcome; running it again would only replay that.
    allowCompletedRetries: false,
    displayName: queue.name,
    description: jobs.map((job) => (jobs.length > 1 ? `${job.name}: ${job.description}` : job.description)).join(' '),
  };
  // The row in Postgres: input, attempts, result. With tokens a plain link could not open it.
  const adapter =
    tokens === undefined
      ? new LinkedQueueAdapter(queue, options, { client, tenant })
      : new QueueAdapter(queue, options);
  adapter.setFormatter('name', (job: { name: string; data: unknown }) => titleOf(job));
  adapter.setFormatter('progress', withPercentage);
  return adapter;
}

/** The key is what people know a job by. */
function titleOf({ name, data }: { name: string; data: unknown }): string {
  const key = (data as { key?: unknown } | null)?.key;
  return typeof key === 'string' ? `${name} · ${key}` : name;
}

/** The board draws its ring from a member `progress`, in percent. */
function withPercentage(progress: unknown): unknown {
  if (typeof progress !== 'object' || progress === null) return progress;
  const { done, total } = progress as { done?: unknown; total?: unknown };
  if (typeof done !== 'number' || typeof total !== 'number' || total <= 0) return progress;
  return { progress: Math.min(100, Math.round((100 * done) / total)), ...progress };
}
