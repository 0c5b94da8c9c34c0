/** A web process with tokens, whose memory is watched. */
import type { AddressInfo } from 'node:net';
import { loadConfig } from '../../src/config.ts';
import { createApp } from '../../src/http/app.ts';
import { silentLogger } from '../../src/log.ts';
import { createFleet } from '../../src/workers/fleet.ts';
import { serve } from '../lib/child.ts';
import type { Place } from '../lib/databases.ts';
import { Meter, type Usage } from '../lib/meter.ts';
import { count, say } from './jobs.ts';

const meter = new Meter();

export const commands = {
  /** @param order.tokens as ONCEFLEET_TOKENS has them @returns its port on 127.0.0.1 */
  async open({ place, tokens }: { place: Place; tokens: string }): Promise<number> {
    const { databaseUrl, redisUrl, prefix } = place;
    const fleet = createFleet({ databaseUrl, redisUrl, prefix, jobs: [say, count] });
    const config = loadConfig({ DATABASE_URL: databaseUrl, REDIS_URL: redisUrl, ONCEFLEET_TOKENS: tokens });
    const app = createApp({ client: fleet, log: silentLogger(), config });
    // Fastify's overloads confuse the linter's types of promises.
    const listening: Promise<string> = app.listen({ host: '127.0.0.1', port: 0 });
    await listening;
    return (app.server.address() as AddressInfo).port;
  },

  meter: (order: { profile?: string | undefined }): Promise<void> => meter.start(order.profile),

  used: (_: null): Promise<Usage> => meter.stop(),

  /** What the system counts now, and the most it has counted. No collection is forced. */
  rss: (_: null): { bytes: number; mostBytes: number } => ({
    bytes: process.memoryUsage.rss(),
    mostBytes: process.resourceUsage().maxRSS * 1024,
  }),
};

serve(commands);
