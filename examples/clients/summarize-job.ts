/**
 * The job that the clients beside this file ask for:
 *
 *   oncefleet dev --jobs examples/clients/summarize-job.ts
 */
import { defineJob } from 'oncefleet';
import { z } from 'zod';

export const summarize = defineJob({
  name: 'summarize',
  input: z.object({ text: z.string() }),
  output: z.object({ text: z.string() }),
  fromChat: ({ messages }) => ({ text: messages.at(-1)?.content ?? '' }),
  async run({ text }, ctx) {
    const words = text.split(' ').slice(0, 5);
    for (const word of words) await ctx.emit({ type: 'delta', text: `${word} ` });
    return { text: words.join(' ') };
  },
});
