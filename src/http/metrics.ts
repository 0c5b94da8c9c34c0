/** The metrics of this process, for Prometheus. Beside the API: they tell of all tenants. */
import type { FastifyInstance } from 'fastify';
import type { Config } from '../config.ts';
import { OncefleetError } from '../errors.ts';
import { isPresented } from '../telemetry/listener.ts';
import type { Metrics } from '../telemetry/metrics.ts';
import type { ByteBudget } from './byte-budget.ts';
import type { OpenStreams } from './open-streams.ts';

export interface MetricsRouteOptions {
  metrics: Pick<Metrics, 'render' | 'contentType' | 'countStreams' | 'countHeldBytes'>;
  config: Pick<Config, 'tokens'> & Partial<Pick<Config, 'metricsToken'>>;
  streams: OpenStreams;
  budget: ByteBudget;
}

/** Serves nothing where the API has tokens and the metrics have none. */
export async function metricsRoute(app: FastifyInstance, options: MetricsRouteOptions): Promise<void> {
  const { metrics, config, streams, budget } = options;
  const { metricsToken: token } = config;
  if (config.tokens !== undefined && token === undefined) return;
  metrics.countStreams(() => streams.size);
  metrics.countHeldBytes(() => budget.held);
  // Hidden: what is documented in the API's document is for tenants.
  app.get(
    '/metrics',
    { config: { duringDrain: true, quiet: true }, schema: { hide: true } },
    async (request, reply) => {
      if (token !== undefined && !isPresented(request, token)) {
        reply.header('www-authenticate', 'Bearer realm="oncefleet"');
        throw new OncefleetError('UNAUTHORIZED', 'Send ONCEFLEET_METRICS_TOKEN as `Authorization: Bearer <token>`');
      }
      const text = Buffer.from(await metrics.render());
      return reply.type(metrics.contentType).send(text as never);
    },
  );
}
