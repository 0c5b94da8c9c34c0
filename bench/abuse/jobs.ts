/** Jobs whose inputs and events are as large, and as wrong, as a bench asks for. */
import { randomBytes } from 'node:crypto';
import { z } from 'zod';
import { defineJob } from '../../src/index.ts';

/** Not compressible, for what a database makes small is no load. */
const LETTERS = randomBytes(96 * 1024).toString('base64');

export function textOf(length: number): string {
  return LETTERS.repeat(Math.ceil(length / LETTERS.length)).slice(0, length);
}

/** Emits so many events of so many characters. */
export const say = defineJob({
  name: 'say',
  input: z.strictObject({ events: z.number(), length: z.number(), text: z.string().optional() }),
  async run({ events, length }, ctx) {
    for (let n = 0; n < events; n++) await ctx.emit({ type: 'text', n, text: textOf(length) });
    return { events };
  },
});

/** For inputs that do not fit. */
export const count = defineJob({
  name: 'count',
  input: z.strictObject({ items: z.array(z.number()) }),
  run: async ({ items }) => items.length,
});
