/** Bull Board's adapters, where Redis is away or a job has no row in Postgres. */
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter';
import type { AppControllerRoute, ExternalJobUrl, QueueJobJson } from '@bull-board/api/typings/app';
import { FastifyAdapter } from '@bull-board/fastify';
import type { Job, Queue } from 'bullmq';
import { OncefleetError } from '../errors.ts';
import type { JobClient } from '../idempotency/client.ts';
import { readJobData, shownData } from '../idempotency/job-data.ts';
import { within } from '../within.ts';

/** BullMQ waits for a Redis that is away for ever. An answer that takes longer than this makes us look, ms. */
const PATIENCE_MS = 2_000;
/** The board is about Redis: a slow Postgres costs it the links, not the page, ms. */
const LOOKUP_LIMIT_MS = 1_000;
/** Ids are remembered because rows stay; the board asks for the same page every few seconds. */
const MAX_KNOWN_IDS = 10_000;

/** Answers every API route, also while Redis is away: it then throws SERVICE_MISSING. */
export class GuardedServerAdapter extends FastifyAdapter {
  readonly #client: Pick<JobClient, 'health'>;

  constructor(client: Pick<JobClient, 'health'>) {
    super();
    this.#client = client;
  }

  override setApiRoutes(routes: AppControllerRoute[]): FastifyAdapter {
    return super.setApiRoutes(
      routes.map((route) => ({
        ...route,
        handler: async (request) => {
          // What only reads may wait in vain; what writes would be done when nobody expects it any more.
          if (route.method !== 'get') await this.#requireRedis();
          return this.#watch(Promise.resolve(route.handler(request)));
        },
      })),
    );
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

/** Shows jobs with the data that they leave out. */
export class QueueAdapter extends BullMQAdapter {
  override async getJob(id: string): Promise<Job | undefined> {
    const job = await super.getJob(id);
    if (job !== undefined) job.data = shownData(job);
    return job;
  }

  override async getJobs(...args: Parameters<BullMQAdapter['getJobs']>): Promise<Job[]> {
    const jobs = await super.getJobs(...args);
    // BullMQ gives undefined for a job that was removed meanwhile.
    for (const job of jobs) if (job !== undefined) job.data = shownData(job);
    return jobs;
  }
}

/** Links a job to its record in the API, if it has one: BullMQ also keeps what others add, and what a lost database knew. */
export class LinkedQueueAdapter extends QueueAdapter {
  readonly #client: Pick<JobClient, 'get'>;
  readonly #tenant: string;
  readonly #known = new Set<string>();

  constructor(
    queue: Queue,
    options: ConstructorParameters<typeof BullMQAdapter>[1],
    { client, tenant }: { client: Pick<JobClient, 'get'>; tenant: string },
  ) {
    super(queue, { ...options, externalJobUrl: (job) => this.#linkOf(job) as ExternalJobUrl });
    this.#client = client;
    this.#tenant = tenant;
  }

  override async getJob(id: string): Promise<Job | undefined> {
    const job = await super.getJob(id);
    if (job !== undefined) await this.#lookUp([job]);
    return job;
  }

  override async getJobs(...args: Parameters<BullMQAdapter['getJobs']>): Promise<Job[]> {
    const jobs = await super.getJobs(...args);
    // BullMQ gives undefined for a job that was removed meanwhile.
    await this.#lookUp(jobs.filter((job) => job !== undefined));
    return jobs;
  }

  /** `undefined` is no link, which the board's types do not say. */
  #linkOf(job: QueueJobJson): ExternalJobUrl | undefined {
    const id = this.#recordIdOf(job);
    return id !== undefined && this.#known.has(id) ? { displayText: 'Job record', href: `/v1/jobs/${id}` } : undefined;
  }

  #recordIdOf(job: { id?: string | number | null | undefined; data?: unknown }): string | undefined {
    const row = readJobData(job);
    return row?.tenant === this.#tenant ? row.jobId : undefined;
  }

  async #lookUp(jobs: readonly Job[]): Promise<void> {
    if (this.#known.size > MAX_KNOWN_IDS) this.#known.clear();
    const ids = jobs.map((job) => this.#recordIdOf(job)).filter((id) => id !== undefined && !this.#known.has(id));
    if (ids.length === 0) return;
    const looked = Promise.allSettled(
      ids.map(async (id) => {
        if ((await this.#client.get(id as string, { tenant: this.#tenant })) !== undefined)
          this.#known.add(id as string);
      }),
    );
    await within(LOOKUP_LIMIT_MS, looked, () => undefined);
  }
}
