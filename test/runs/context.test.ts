import { expect, it } from 'vitest';
import { z } from 'zod';
import { defineJob, type JobContext } from '../../src/index.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';

const file = useDatabase();

it('a copy of a context has all of it, and its functions work without it', async () => {
  const seen: JobContext[] = [];
  const job = defineJob({
    name: 'copies',
    input: z.object({}),
    async run(_input, ctx) {
      seen.push(ctx);
      const copy = { ...ctx };
      const { emit, flush, checkpoint, transaction, keyFor } = copy;
      await emit({ type: 'said' });
      await flush();
      await checkpoint(1);
      await transaction(async () => undefined);
      copy.log.info('also to be seen');
      return [copy.signal === ctx.signal, copy.signal.aborted, copy.log === ctx.log, keyFor('a') === ctx.keyFor('a')];
    },
  });
  const fleet = createTestFleet(file.url, [job]);
  await fleet.work();
  const handles = await Promise.all([fleet.enqueue(job, {}), fleet.enqueue(job, {})]);
  for (const handle of handles) expect(await handle.result({ timeoutMs: 10_000 })).toEqual([true, false, true, true]);
  // Accessors of its own would give every context a hidden class of its own, and keep its run in memory.
  const [first, second] = seen.map((ctx) => Object.getOwnPropertyDescriptors(ctx));
  for (const name of ['signal', 'log'] as const) expect(first?.[name].get).toBe(second?.[name].get);
});
