/** A fleet on real Postgres and Redis, one worker in this process, and the app in front of it. */
import type { FastifyInstance } from 'fastify';
import { z } from 'zod';
import { NonRetryableError } from '../../src/errors.ts';
import { type CreateAppOptions, createApp } from '../../src/http/app.ts';
import { type AnyJobDefinition, defineJob } from '../../src/jobs/define-job.ts';
import { silentLogger } from '../../src/log.ts';
import { createFleet, type Fleet } from '../../src/workers/fleet.ts';
import { createTestDatabase, testRedisUrl, uniquePrefix } from '../helpers/services.ts';
import { listenLocally } from './requests.ts';

type AppConfig = CreateAppOptions['config'];

export const BODY_LIMIT_BYTES = 64 * 1024;

/** A turnstile per name: a test opens it once for every step a job may take. */
class Gate {
  readonly #names = new Map<string, { permits: number; waiting: (() => void)[] }>();

  open(name: string, times = 1): void {
    const at = this.#at(name);
    for (let n = 0; n < times; n++) {
      const next = at.waiting.shift();
      if (next === undefined) at.permits++;
      else next();
    }
  }

  async wait(name: string): Promise<void> {
    const at = this.#at(name);
    if (at.permits > 0) at.permits--;
    else await new Promise<void>((resolve) => at.waiting.push(resolve));
  }

  #at(name: string): { permits: number; waiting: (() => void)[] } {
    let at = this.#names.get(name);
    if (at === undefined) {
      at = { permits: 0, waiting: [] };
      this.#names.set(name, at);
    }
    return at;
  }
}

export const gate = new Gate();

export const echo = defineJob({
  name: 'echo',
  description: 'Says each word of a text, then the text.',
  input: z.object({
    text: z.string().min(1),
    items: z.array(z.object({ n: z.number().int() })).optional(),
  }),
  output: z.object({ said: z.string() }),
  async run({ text }, ctx) {
    for (const word of text.split(' ')) await ctx.emit({ type: 'delta', text: word });
    return { said: text };
  },
});

/** Emits any JSON it is given, one event an item. */
export const parrot = defineJob({
  name: 'parrot',
  input: z.array(z.unknown()),
  async run(items, ctx) {
    for (const value of items) await ctx.emit({ type: 'value', value });
    return null;
  },
});

/** Emits one event a step of its gate, `steps` times. */
export const stepper = defineJob({
  name: 'stepper',
  input: z.object({ gate: z.string(), steps: z.number().int() }),
  async run({ gate: name, steps }, ctx) {
    for (let n = 0; n < steps; n++) {
      await Promise.race([
        gate.wait(name),
        new Promise((_, reject) => {
          ctx.signal.addEventListener('abort', () => reject(ctx.signal.reason), { once: true });
        }),
      ]);
      await ctx.emit({ type: 'delta', n });
    }
    return steps;
  },
});

export const failing = defineJob({
  name: 'failing',
  input: z.object({ text: z.string() }),
  async run() {
    throw new NonRetryableError('It cannot be done');
  },
});

export interface Harness {
  fleet: Fleet;
  app: FastifyInstance;
  port: number;
  url(path: string): string;
  /** Another app on the same fleet, not listening. */
  another(
    config: Partial<AppConfig>,
    options?: Partial<Pick<CreateAppOptions, 'board' | 'limits' | 'metrics' | 'client'>>,
  ): FastifyInstance;
  close(): Promise<void>;
}

/**
 * @param servers of the caller's own, to be stopped in the test; else the run's
 * @param jobs beside the harness's own
 */
export async function startHarness(
  servers: { databaseUrl?: string; redisUrl?: string } = {},
  jobs: readonly AnyJobDefinition[] = [],
): Promise<Harness> {
  const database = servers.databaseUrl === undefined ? await createTestDatabase() : undefined;
  const log = silentLogger();
  const fleet = createFleet({
    databaseUrl: servers.databaseUrl ?? (database?.url as string),
    redisUrl: servers.redisUrl ?? testRedisUrl(),
    prefix: uniquePrefix(),
    jobs: [echo, parrot, stepper, failing, ...jobs],
    log,
  });
  const worker = await fleet.work();
  const apps: FastifyInstance[] = [];
  const another: Harness['another'] = (overrides, options = {}) => {
    const config = {
      tokens: undefined,
      adminToken: undefined,
      tenant: 'default',
      bodyLimitBytes: BODY_LIMIT_BYTES,
      ...overrides,
    };
    const app = createApp({ client: fleet, log, config, ...options });
    apps.push(app);
    return app;
  };
  const app = another({});
  const port = await listenLocally(app);
  return {
    fleet,
    app,
    port,
    url: (path) => `http://127.0.0.1:${port}${path}`,
    another,
    async close() {
      await Promise.all(apps.map((one) => one.close()));
      await worker.close();
      await fleet.close();
      await database?.drop();
    },
  };
}
