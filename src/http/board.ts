/** Bull Board: every queue in a browser. */
import { createBullBoard } from '@bull-board/api';
import type { BullMQAdapter } from '@bull-board/api/bullMQAdapter';
import type { Queue } from 'bullmq';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { JobClient } from '../client/client.ts';
import type { Config } from '../config.ts';
import type { AnyJobDefinition } from '../jobs/define-job.ts';
import { within } from '../util/with-timeout.ts';
import { createBoardAuth } from './auth.ts';
import { GuardedServerAdapter, LinkedQueueAdapter } from './board-adapters.ts';
import type { ByteBudget } from './byte-budget.ts';
import { Sessions } from './console/session.ts';
import { createRoomCheck } from './counted-bytes.ts';
import { createOriginCheck } from './origins.ts';
import { loggableError, sendProblem, toProblem } from './problem.ts';

export const BOARD_PATH = '/admin/queues';

/** How long the list of queues waits for a look at Postgres; what is found later is on the next list. */
const OTHERS_WAIT_MS = 1_000;

/**
 * The board's page asks for a font of another host, which would tell that host who looks
 * when, and hold the page up where there is no way out. System fonts serve as well.
 */
const CONTENT_SECURITY_POLICY =
  "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'";

interface BoardRoutesOptions {
  client: JobClient;
  config: Pick<Config, 'tokens' | 'adminToken' | 'tenant'>;
  budget: ByteBudget;
}

/** Registered under BOARD_PATH. Serves nothing when there are tokens but none for the board. */
export async function boardRoutes(app: FastifyInstance, { client, config, budget }: BoardRoutesOptions): Promise<void> {
  if (config.tokens !== undefined && config.adminToken === undefined) return;
  // A browser adds the password to whatever a page asks of it.
  app.addHook('onRequest', createOriginCheck([]));
  if (config.adminToken !== undefined) {
    const sessions = new Sessions(config, client);
    app.addHook('onClose', async () => sessions.stop());
    const isOperator = async (request: FastifyRequest) => (await sessions.find(request))?.tenant === null;
    app.addHook('onRequest', createBoardAuth(config.adminToken, isOperator));
  }
  app.addHook('onRequest', createRoomCheck(budget, { tenants: false }));
  app.addHook('onRequest', (_request, reply, done) => {
    reply.header('content-security-policy', CONTENT_SECURITY_POLICY).header('x-content-type-options', 'nosniff');
    done();
  });
  // The board's own handler makes a 500 of every error.
  app.addHook('onRoute', (route) => {
    route.errorHandler = sendBoardProblem;
  });
  const shown = new Set<string>();
  /** Guarded queues that rows name, as they come. */
  const showOthers = async (): Promise<void> => {
    const found = client.operator.otherQueues().catch((error: unknown) => {
      app.log.warn({ err: loggableError(error) }, 'queues that rows name could not be looked up');
      return [];
    });
    for (const queue of await within(OTHERS_WAIT_MS, found, () => [])) {
      const prefix = queue.opts.prefix === client.operator.prefixOf(queue.name) ? '' : `${queue.opts.prefix}:`;
      if (shown.has(`${prefix}${queue.name}`)) continue;
      shown.add(`${prefix}${queue.name}`);
      board.addQueue(createAdapter(client, queue, prefix));
    }
  };
  const serverAdapter = new GuardedServerAdapter(client, showOthers);
  serverAdapter.setBasePath(BOARD_PATH);
  const board = createBullBoard({
    queues: client.queues.map((queue) => createAdapter(client, queue, '')),
    serverAdapter,
    options: {
      uiConfig: {
        boardTitle: 'Oncefleet',
        hideDocsLink: true,
        miscLinks: [
          { text: 'Console', url: '/' },
          { text: 'API', url: '/openapi.json' },
        ],
      },
    },
  });
  for (const queue of client.queues) shown.add(queue.name);
  await app.register(serverAdapter.registerPlugin());
}

/** The problem, with the two members that the board shows to a person. */
function sendBoardProblem(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
  const { title, detail } = toProblem(error, request.id);
  sendProblem(error, request, reply, { error: title, message: detail });
}

/** @param prefix before the name on the board, for a queue with other keys in Redis than the fleet's */
function createAdapter(client: JobClient, queue: Queue, prefix: string): BullMQAdapter {
  const jobs = prefix === '' ? [...client.jobs.values()].filter((job) => job.queue === queue.name) : [];
  const options = {
    // Retry in the board is a redrive, so the board must be able to write.
    readOnlyMode: false,
    // A completed job has its one outcome; running it again would only replay that.
    allowCompletedRetries: false,
    prefix,
    displayName: `${prefix}${queue.name}`,
    description:
      jobs.length === 0
        ? 'No definition that this process has loaded works on this queue; jobs of it have rows in Postgres.'
        : jobs.map((job) => describe(job, jobs.length)).join(' '),
  };
  // The row in Postgres: input, attempts, result.
  const adapter = new LinkedQueueAdapter(queue, options, client);
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

function describe({ name, description }: AnyJobDefinition, count: number): string {
  if (count === 1) return description;
  return description === '' ? `${name}.` : `${name}: ${description}`;
}
