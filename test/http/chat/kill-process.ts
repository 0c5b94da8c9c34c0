/** A worker whose answers stop in the middle of their first attempt, for tests that kill it. */
import { z } from 'zod';
import { defineJob } from '../../../src/jobs/define-job.ts';
import { createFleet, type FleetOptions } from '../../../src/workers/fleet.ts';

const shared = {
  input: z.object({ question: z.string() }),
  fromChat: ({ messages }: { messages: readonly { content: string }[] }) => ({
    question: messages.at(-1)?.content ?? '',
  }),
};
const forever = () => new Promise<never>(() => undefined);

/** Its second attempt begins anew. */
export const startsOver = defineJob({
  ...shared,
  name: 'starts-over',
  async run(_input, ctx) {
    for (const word of ['one', 'two', 'three']) {
      if (word === 'three' && ctx.attempt === 1) await forever();
      await ctx.emit({ type: 'delta', text: `${word} ` });
    }
    return null;
  },
});

/** Its second attempt continues where a checkpoint was; what came after that is said again. */
export const continues = defineJob({
  ...shared,
  name: 'continues',
  async run(_input, ctx) {
    const words = ['one', 'two', 'three'].slice((ctx.resumedFrom as number | undefined) ?? 0);
    for (const word of words) {
      if (word === 'three' && ctx.attempt === 1) await forever();
      await ctx.emit({ type: 'delta', text: `${word} ` });
      if (word === 'one') await ctx.checkpoint(1);
    }
    return null;
  },
});

/** Its second attempt has nothing to take back. */
export const keepsAll = defineJob({
  ...shared,
  name: 'keeps-all',
  async run(_input, ctx) {
    const words = ['one', 'two', 'three'].slice((ctx.resumedFrom as number | undefined) ?? 0);
    for (const word of words) {
      if (word === 'three' && ctx.attempt === 1) await forever();
      await ctx.emit({ type: 'delta', text: `${word} ` });
      if (word === 'two') await ctx.checkpoint(2);
    }
    return null;
  },
});

export const killJobs = [startsOver, continues, keepsAll];

if (import.meta.main) {
  const options = JSON.parse(process.argv[2] as string) as FleetOptions;
  const fleet = createFleet({ ...options, jobs: killJobs, reconcileMs: 300 });
  await fleet.work({ concurrency: 10 });
  // The test is gone, however it went.
  process.on('disconnect', () => process.exit(1));
}
