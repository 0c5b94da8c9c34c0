/** Bull Board's adapters: its buttons act on rows in Postgres, and its reads do without Redis or a row. */
import { AsyncLocalStorage } from 'node:async_hooks';
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter';
import type {
  AppControllerRoute,
  BullBoardRequest,
  ControllerHandlerReturnType,
  ExternalJobUrl,
  JobCleanStatus,
  QueueJobJson,
} from '@bull-board/api/typings/app';
import { FastifyAdapter } from '@bull-board/fastify';
import type { Job, Queue } from 'bullmq';
import type { JobClient } from '../client/client.ts';
import type { QueueSet } from '../client/operator/sets.ts';
import { readJobData, shownData } from '../enqueue/job-data.ts';
import { InputInvalidError, OncefleetError } from '../errors.ts';
import { within } from '../util/with-timeout.ts';

/** BullMQ waits for a Redis that is unreachable for ever. An answer that takes longer than this makes us look. */
const PATIENCE_MS = 2_000;
/** The board is about Redis: a slow Postgres costs it the links, not the page. */
const LOOKUP_LIMIT_MS = 1_000;
/** Ids are remembered because rows stay; the board asks for the same page every few seconds. */
const MAX_KNOWN_IDS = 10_000;

/** Jobs on one page of the board; its settings offer 50. */
const MAX_JOBS_PER_PAGE = 1_000;

/**
 * Every route of Bull Board's API, and whether Redis must be there: what only reads may wait in vain,
 * what writes would be done when nobody expects it any more. A route that is not listed is not
 * served: an update of the board may bring one that knows nothing of rows.
 */
export const BOARD_ROUTES = {
  'get /api/redis/stats': 'reads',
  'get /api/queues': 'reads',
  'get /api/job-schedulers': 'reads',
  'get /api/queues/:queueName/metrics': 'reads',
  'get /api/queues/:queueName/default-job-options': 'reads',
  'get /api/queues/:queueName/workers': 'reads',
  'get /api/queues/:queueName/rate-limit': 'reads',
  'get /api/queues/:queueName/job-data-schema': 'reads',
  'get /api/queues/:queueName/:jobId/logs': 'reads',
  'get /api/queues/:queueName/:jobId/flow': 'reads',
  'get /api/queues/:queueName/:jobId': 'reads',
  'put /api/queues/pause': 'writes',
  'put /api/queues/resume': 'writes',
  'post /api/queues/:queueName/add': 'writes',
  'put /api/queues/:queueName/retry/:queueStatus': 'writes',
  'put /api/queues/:queueName/promote': 'writes',
  'put /api/queues/:queueName/clean/:queueStatus': 'writes',
  'put /api/queues/:queueName/pause': 'writes',
  'put /api/queues/:queueName/resume': 'writes',
  'put /api/queues/:queueName/concurrency': 'writes',
  'put /api/queues/:queueName/rate-limit': 'writes',
  'put /api/queues/:queueName/rate-limit/release': 'writes',
  'put /api/queues/:queueName/empty': 'writes',
  'put /api/queues/:queueName/obliterate': 'writes',
  'put /api/queues/:queueName/job-schedulers/:schedulerId/remove': 'writes',
  'patch /api/queues/:queueName/job-schedulers/:schedulerId': 'writes',
  'put /api/queues/:queueName/job-schedulers/:schedulerId/run': 'writes',
  'put /api/queues/:queueName/:jobId/retry': 'writes',
  'put /api/queues/:queueName/:jobId/clean': 'writes',
  'put /api/queues/:queueName/:jobId/promote': 'writes',
  'patch /api/queues/:queueName/:jobId/update-data': 'writes',
  'patch /api/queues/:queueName/:jobId/delay': 'writes',
  'patch /api/queues/:queueName/:jobId/priority': 'writes',
  'put /api/queues/:queueName/:jobId/remove-unprocessed-children': 'writes',
} as const satisfies Readonly<Record<string, 'reads' | 'writes'>>;

const KINDS: ReadonlyMap<string, 'reads' | 'writes'> = new Map(Object.entries(BOARD_ROUTES));

/** Sets that Clean takes, by the names that the board and BullMQ have for them. */
const CLEANED: ReadonlyMap<string, readonly QueueSet[]> = new Map([
  ['completed', ['completed']],
  ['failed', ['failed']],
  ['delayed', ['delayed']],
  ['prioritized', ['prioritized']],
  ['wait', ['wait', 'paused']],
  ['waiting', ['wait', 'paused']],
  ['paused', ['paused']],
] as const);

/** The person that pressed the button. The board's adapters are not told of the request. */
const person = new AsyncLocalStorage<string>();

/** Answers every API route, also while Redis is unreachable: it then throws SERVICE_MISSING. */
export class GuardedServerAdapter extends FastifyAdapter {
  readonly #client: Pick<JobClient, 'health'>;
  readonly #beforeList: () => Promise<void>;

  /** @param beforeList is waited for before the queues are listed */
  constructor(client: Pick<JobClient, 'health'>, beforeList: () => Promise<void>) {
    super();
    this.#client = client;
    this.#beforeList = beforeList;
  }

  override setApiRoutes(routes: AppControllerRoute[]): FastifyAdapter {
    const served = routes.flatMap((route) => {
      const name = `${String(route.method)} ${String(route.route)}`;
      const kind = KINDS.get(name);
      return kind === undefined ? [] : [{ ...route, handler: this.#handlerOf(route, name, kind) }];
    });
    return super.setApiRoutes(served);
  }

  #handlerOf(route: AppControllerRoute, name: string, kind: 'reads' | 'writes'): AppControllerRoute['handler'] {
    const replaced: Partial<Record<string, AppControllerRoute['handler']>> = {
      'put /api/queues/:queueName/retry/:queueStatus': retryAll(route.handler),
      'put /api/queues/pause': onAll((adapter) => adapter.pause()),
      'put /api/queues/resume': onAll((adapter) => adapter.resume()),
    };
    const answer = replaced[name] ?? route.handler;
    return async (request) => {
      if (request === undefined) return answer(request);
      checkQuery(request.query);
      if (kind === 'writes') await this.#requireRedis();
      const act = async () => {
        if (name === 'get /api/queues') await this.#beforeList();
        return answer(request);
      };
      return this.#watch(Promise.resolve(person.run(personOf(request), act)));
    };
  }

  /** A long answer is none of our business (a large queue is cleaned, say) as long as Redis is there. */
  async #watch<T>(answer: Promise<T>): Promise<T> {
    const away = Promise.withResolvers<never>();
    let answered = false;
    let timer: NodeJS.Timeout | undefined;
    const lookLater = () => {
      if (answered) return;
      timer = setTimeout(() => void this.#requireRedis().then(lookLater, away.reject), PATIENCE_MS);
    };
    lookLater();
    try {
      return await Promise.race([answer, away.promise]);
    } finally {
      answered = true;
      clearTimeout(timer);
    }
  }

  async #requireRedis(): Promise<void> {
    const { redis } = await this.#client.health();
    if (redis === undefined) return;
    throw new OncefleetError('SERVICE_MISSING', 'Redis cannot be reached; try again in a moment', {
      cause: new Error(redis),
    });
  }
}

/** The board's own asks Redis first whether there is anything to do, and a pause may be in Postgres alone. */
function onAll(act: (adapter: QueueAdapter) => Promise<void>): AppControllerRoute['handler'] {
  return async (request) => {
    for (const adapter of request?.queues.values() ?? []) if (adapter instanceof QueueAdapter) await act(adapter);
    return { status: 200, body: {} };
  };
}

/** The board's own gives up at the first job that it may not retry, and says nothing of it. */
function retryAll(original: AppControllerRoute['handler']): AppControllerRoute['handler'] {
  return async (request): Promise<ControllerHandlerReturnType> => {
    const { queueName, queueStatus } = request?.params ?? {};
    const adapter = request?.queues.get(queueName);
    if (queueStatus === 'completed')
      throw new OncefleetError(
        'ACTION_REFUSED',
        'Completed jobs have their outcome and are not run again; add new jobs for that',
      );
    if (queueStatus !== 'failed' || !(adapter instanceof QueueAdapter)) return original(request);
    const { retried, refused, why } = await adapter.retryAllFailed();
    if (refused === 0) return { status: 200, body: { retried, skipped: 0 } };
    throw new OncefleetError(
      'ACTION_REFUSED',
      `${retried} of ${retried + refused} jobs are retried. The others stay: ${why.join('. ')}${refused > why.length ? ', and so on' : ''}`,
    );
  };
}

/** What the board would make a 500 of, or read too much for. @throws InputInvalidError */
function checkQuery(query: BullBoardRequest['query'] | undefined): void {
  const { activeQueue, queueName, jobsPerPage } = (query ?? {}) as Record<string, unknown>;
  for (const [path, value] of Object.entries({ activeQueue, queueName })) {
    if (value === undefined) continue;
    try {
      decodeURIComponent(value as string);
    } catch {
      throw new InputInvalidError('Query', [{ path, message: 'expected the URI-encoded name of a queue' }]);
    }
  }
  if (Number(jobsPerPage) > MAX_JOBS_PER_PAGE)
    throw new InputInvalidError('Query', [{ path: 'jobsPerPage', message: `expected at most ${MAX_JOBS_PER_PAGE}` }]);
}

/** The user name that came with the password. */
function personOf({ headers }: BullBoardRequest): string {
  const encoded = /^Basic +([A-Za-z0-9+/=]+)$/i.exec(headers?.['authorization'] ?? '')?.[1];
  const user =
    encoded === undefined ? '' : (Buffer.from(encoded, 'base64').toString('utf8').split(':', 1)[0] as string);
  const readable = user.replace(/[^\p{L}\p{N}@._ -]/gu, '').slice(0, 60);
  return readable === '' ? 'bull-board' : `bull-board (${readable})`;
}

/** Shows jobs with the data that they leave out, and has every button act on their rows. */
class QueueAdapter extends BullMQAdapter {
  readonly #queue: Queue;
  readonly #client: Pick<JobClient, 'operator'>;

  constructor(
    queue: Queue,
    options: ConstructorParameters<typeof BullMQAdapter>[1],
    client: Pick<JobClient, 'operator'>,
  ) {
    super(queue, options);
    this.#queue = queue;
    this.#client = client;
  }

  override async getJob(id: string): Promise<Job | undefined> {
    const job = await this.#client.operator.findJob(this.#queue, id);
    return job === undefined ? undefined : this.#guarded(job);
  }

  override async getJobs(...args: Parameters<BullMQAdapter['getJobs']>): Promise<Job[]> {
    const jobs = await super.getJobs(...args);
    // BullMQ gives undefined for a job that was removed meanwhile.
    return jobs.filter((job) => job !== undefined).map((job) => this.#guarded(job));
  }

  // The board leaves out what is younger than 5 s; all means all.
  override async clean(status: JobCleanStatus, _graceMs: number): Promise<void> {
    const sets = CLEANED.get(status);
    if (sets === undefined)
      throw new InputInvalidError('Clean', [
        {
          path: 'queueStatus',
          message: `expected one of ${[...CLEANED.keys()].join(', ')}; active jobs are cancelled one by one`,
        },
      ]);
    await this.#client.operator.removeAll(this.#queue, sets);
  }

  override async empty(): Promise<void> {
    await this.#client.operator.removeAll(this.#queue, ['wait', 'paused', 'prioritized']);
  }

  override async obliterate({ force = false }: { force?: boolean } = {}): Promise<void> {
    await this.#client.operator.obliterate(this.#queue, { force });
  }

  override async promoteAll(): Promise<void> {
    await this.#client.operator.promoteAll(this.#queue);
  }

  override async pause(): Promise<void> {
    await this.#client.operator.pause(this.#queue, person.getStore() ?? 'bull-board');
  }

  override async resume(): Promise<void> {
    await this.#client.operator.resume(this.#queue);
  }

  override async addJob(name: string, data: unknown, options: Record<string, unknown>): Promise<Job> {
    const { id, job } = await this.#client.operator.add(this.#queue, { name, data, options });
    return job ?? notYetInBull(id, name);
  }

  override async runJobSchedulerNow(id: string): ReturnType<BullMQAdapter['runJobSchedulerNow']> {
    const scheduler = await this.#queue.getJobScheduler(id);
    if (scheduler !== undefined) this.#client.operator.requireName(this.#queue, scheduler.name);
    return super.runJobSchedulerNow(id);
  }

  retryAllFailed(): ReturnType<JobClient['operator']['retryAll']> {
    return this.#client.operator.retryAll(this.#queue);
  }

  /** BullMQ's job, whose methods the board calls, as people are shown it. */
  #guarded(job: Job): Job {
    job.data = shownData(job);
    const { operator } = this.#client;
    const queue = this.#queue;
    const id = job.id as string;
    const methods: { [M in keyof Job]?: unknown } = {
      remove: () => operator.remove(queue, id),
      retry: (state: 'completed' | 'failed' = 'failed') => operator.retry(queue, id, state),
      promote: () => operator.promote(queue, id),
      changeDelay: (delayMs: number) => operator.reschedule(queue, id, delayMs),
      changePriority: ({ priority = 0 }: { priority?: number }) => operator.reprioritise(queue, id, priority),
      updateData: (data: unknown) => operator.updateData(queue, id, data),
      removeUnprocessedChildren: () => operator.removeUnprocessedChildren(queue, id),
    };
    for (const [name, value] of Object.entries(methods)) Object.defineProperty(job, name, { value });
    return job;
  }
}

/** What the board shows of a job that Redis will be given later. */
function notYetInBull(id: string, name: string): Job {
  const json = { id, name, data: {}, opts: {}, attemptsMade: 0, progress: 0, timestamp: Date.now() };
  return { toJSON: () => json, getState: async () => 'unknown' } as unknown as Job;
}

/** Links a job to its page in the console, if it has a row: BullMQ also keeps what others add, and what a lost database knew. */
export class LinkedQueueAdapter extends QueueAdapter {
  readonly #client: Pick<JobClient, 'inspector'>;
  readonly #known = new Set<string>();

  constructor(
    queue: Queue,
    options: ConstructorParameters<typeof BullMQAdapter>[1],
    client: Pick<JobClient, 'inspector' | 'operator'>,
  ) {
    super(queue, { ...options, externalJobUrl: (job) => this.#linkOf(job) as ExternalJobUrl }, client);
    this.#client = client;
  }

  override async getJob(id: string): Promise<Job | undefined> {
    const job = await super.getJob(id);
    if (job !== undefined) await this.#lookUp([job]);
    return job;
  }

  override async getJobs(...args: Parameters<BullMQAdapter['getJobs']>): Promise<Job[]> {
    const jobs = await super.getJobs(...args);
    await this.#lookUp(jobs);
    return jobs;
  }

  /** `undefined` is no link, which the board's types do not say. */
  #linkOf(job: QueueJobJson): ExternalJobUrl | undefined {
    const id = readJobData(job)?.jobId;
    return id !== undefined && this.#known.has(id) ? { displayText: 'Job record', href: `/jobs/${id}` } : undefined;
  }

  async #lookUp(jobs: readonly Job[]): Promise<void> {
    if (this.#known.size > MAX_KNOWN_IDS) this.#known.clear();
    const rows = jobs.map(readJobData).filter((row) => row !== undefined && !this.#known.has(row.jobId));
    if (rows.length === 0) return;
    const looked = Promise.allSettled(
      rows.map(async (row) => {
        if (row === undefined) return;
        const tenant = await this.#client.inspector.tenantOf(row.jobId, row.tenant);
        if (tenant !== undefined) this.#known.add(row.jobId);
      }),
    );
    await within(LOOKUP_LIMIT_MS, looked, () => undefined);
  }
}
