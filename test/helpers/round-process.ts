/** A process that is in the middle of a reconciler's round for as long as it lives. */

import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { createServer } from 'node:net';
import { Reconciler } from '../../src/maintenance/reconciler.ts';
import { Runtime } from '../../src/runtime/runtime.ts';

const runtime = new Runtime({ databaseUrl: process.argv[2] as string, redisUrl: await silentRedis() });
const reconciler = new Reconciler({ runtime, jobs: new Map(), intervalMs: 1_000 });
// Its round asks for the streams with this, and then waits.
runtime.outbox.drain = () => {
  process.send?.('in a round');
  return new Promise(() => undefined);
};
void reconciler.reconcile();
process.on('disconnect', () => process.exit(1));

/** Takes connections and never answers. */
async function silentRedis(): Promise<string> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  return `redis://127.0.0.1:${(server.address() as AddressInfo).port}`;
}
