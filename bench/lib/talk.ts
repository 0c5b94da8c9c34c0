import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { defineJob } from '../../src/index.ts';
import { eventOf } from './events.ts';

const input = z.object({ events: z.number(), perFlush: z.number().positive(), pauseMs: z.number() });

/** A job that streams: so many events, in bursts of `perFlush` that are durable before the next. */
export const talk = defineJob({
  name: 'talk',
  input,
  /** Chat clients say its input as JSON. */
  fromChat: ({ messages }) => input.parse(JSON.parse(messages.at(-1)?.content ?? '')),
  async run({ events, perFlush, pauseMs }, ctx) {
    for (let n = 1; n <= events; n++) {
      await ctx.emit(eventOf(n));
      if (n % perFlush === 0) await ctx.flush();
      if (pauseMs > 0) await sleep(pauseMs, undefined, { signal: ctx.signal });
    }
    return { events };
  },
});
