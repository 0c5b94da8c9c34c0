/** A worker process with an SDK of its own: tells its parent of each span, and lets go after its first attempt. */
import { NodeTracerProvider } from '@opentelemetry/sdk-trace-node';
import { z } from 'zod';
import { defineJob } from '../../src/index.ts';
import { createFleet } from '../../src/workers/fleet.ts';
import { toTold } from './spans.ts';

export const flaky = defineJob({
  name: 'flaky',
  attempts: 2,
  backoff: { type: 'fixed', delayMs: 1_000, jitter: 0 },
  input: z.object({}),
  async run(_input, ctx) {
    if (ctx.attempt === 1) throw new Error('again');
    return process.pid;
  },
});

if (import.meta.main) {
  const { databaseUrl, redisUrl, prefix } = JSON.parse(process.argv[2] as string);
  const provider = new NodeTracerProvider({
    spanProcessors: [
      {
        onStart: () => undefined,
        onEnd(span) {
          // Nothing of this process runs the job again.
          process.send?.({ type: 'span', span: toTold(span) }, () => process.exit(0));
        },
        forceFlush: async () => undefined,
        shutdown: async () => undefined,
      },
    ],
  });
  provider.register();
  const fleet = createFleet({ databaseUrl, redisUrl, prefix, jobs: [flaky], leaseTtlMs: 5_000 });
  await fleet.work();
}
