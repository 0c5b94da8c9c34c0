/** A web process for tests that count what it holds. IPC: `measure` is answered with a `Measure` after a collection. */
import { setTimeout as delay } from 'node:timers/promises';
import { createApp } from '../../src/http/app.ts';
import { silentLogger } from '../../src/log.ts';
import { createFleet } from '../../src/workers/fleet.ts';
import { listenLocally } from './requests.ts';

export interface Measure {
  /** Live objects and buffers after a collection, bytes. */
  heap: number;
  rss: number;
  /** Connections of the server. */
  sockets: number;
  /** Timers that run. */
  timers: number;
}

async function main(): Promise<void> {
  const { databaseUrl, redisUrl, prefix } = JSON.parse(process.argv[2] ?? '{}');
  const log = silentLogger();
  const fleet = createFleet({ databaseUrl, redisUrl, prefix, jobs: [], log });
  const config = { tokens: undefined, adminToken: undefined, tenant: 'default', bodyLimitBytes: 1024 };
  const app = createApp({ client: fleet, log, config, board: false });
  const port = await listenLocally(app);
  // The test is gone, however it went.
  process.on('disconnect', () => process.exit(0));
  process.on('message', (message) => void answer(message));
  const answer = async (message: unknown): Promise<void> => {
    if (message === 'measure') {
      // What a collection frees may free more in the next.
      for (let n = 0; n < 3; n++) {
        globalThis.gc?.();
        await delay(20);
      }
      const { heapUsed, external, rss } = process.memoryUsage();
      const resources = process.getActiveResourcesInfo();
      const count = (name: string) => resources.filter((resource) => resource === name).length;
      process.send?.({
        heap: heapUsed + external,
        rss,
        sockets: count('TCPSocketWrap'),
        timers: count('Timeout'),
      } satisfies Measure);
    } else if (message === 'close') {
      await app.close();
      await fleet.close();
      process.disconnect();
    }
  };
  process.send?.({ port });
}

if (import.meta.main) await main();
