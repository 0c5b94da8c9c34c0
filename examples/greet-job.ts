/**
 * A job of your own, for the service: name this file in ONCEFLEET_JOBS or `--jobs`, both for
 * `web` and for `work`.
 *
 *   oncefleet dev --jobs examples/greet-job.ts
 *   oncefleet enqueue greet '{"name":"Ada"}' --jobs examples/greet-job.ts --key greet-ada --wait
 */
import { setTimeout } from 'node:timers/promises';
import { defineJob } from 'oncefleet';
import { z } from 'zod';

export const greet = defineJob({
  name: 'greet',
  description: 'Greets somebody, word by word.',
  input: z.object({ name: z.string().min(1).max(100), pauseMs: z.number().int().min(0).max(60_000).default(200) }),
  output: z.object({ text: z.string() }),
  async run({ name, pauseMs }, ctx) {
    const words = ['Hello', 'from', 'attempt', `${ctx.attempt},`, `${name}!`];
    for (const [i, word] of words.entries()) {
      await ctx.emit({ type: 'delta', text: i === 0 ? word : ` ${word}` });
      await ctx.progress({ done: i + 1, total: words.length });
      await setTimeout(pauseMs, undefined, { signal: ctx.signal });
    }
    return { text: words.join(' ') };
  },
});
