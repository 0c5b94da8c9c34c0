/** The web process as `oncefleet web` puts it together, without its logs. */
import type { AddressInfo } from 'node:net';
import { loadConfig } from '../../src/config.ts';
import { createApp } from '../../src/http/app.ts';
import { silentLogger } from '../../src/log.ts';
import { createFleet, type Fleet } from '../../src/workers/fleet.ts';
import { serve } from './child.ts';
import { now } from './clock.ts';
import type { Place } from './databases.ts';
import { type Memory, memoryAfterGc } from './memory.ts';
import { Meter, type Usage } from './meter.ts';
import { talk } from './talk.ts';

let fleet: Fleet | undefined;
const meter = new Meter();

export const commands = {
  /** @returns its port on 127.0.0.1 */
  async open({ databaseUrl, redisUrl, prefix }: Place): Promise<number> {
    fleet = createFleet({ databaseUrl, redisUrl, prefix, jobs: [talk] });
    const config = loadConfig({ DATABASE_URL: databaseUrl, REDIS_URL: redisUrl });
    const app = createApp({ client: fleet, log: silentLogger(), config });
    // Fastify's overloads confuse the linter's types of promises.
    const listening: Promise<string> = app.listen({ host: '127.0.0.1', port: 0 });
    await listening;
    return (app.server.address() as AddressInfo).port;
  },

  memory: (_: null): Promise<Memory> => memoryAfterGc(),

  meter: (order: { profile?: string | undefined }): Promise<void> => meter.start(order.profile),

  used: (_: null): Promise<Usage> => meter.stop(),

  /** Reads a finished stream from its start, as every reader of this process does. @returns how long it took */
  async read(id: string): Promise<{ events: number; ms: number }> {
    if (fleet === undefined) throw new Error('not open');
    const begun = now();
    let events = 0;
    for await (const _event of fleet.follow(id)) events++;
    return { events, ms: now() - begun };
  },
};

serve(commands);
