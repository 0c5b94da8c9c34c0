/** A job that answers chat clients with what the last message tells it to. */
import { z } from 'zod';
import { NonRetryableError } from '../../../src/errors.ts';
import { defineJob, type JobContext } from '../../../src/jobs/define-job.ts';
import { gate } from '../harness.ts';

/** How often each script was begun, by its text. */
export const runs = new Map<string, number>();

const input = z.object({ script: z.string().min(1).max(2_000), earlier: z.array(z.string()) });

/**
 * Words are said one by one. `gate:x` waits for that gate, `sources` has one, `think:x` is reasoning, `usage` counts,
 * `fail` fails for good, `error` fails the first attempt, `history` says the messages before.
 */
async function follow(script: string, earlier: readonly string[], ctx: JobContext): Promise<{ text: string }> {
  runs.set(script, (runs.get(script) ?? 0) + 1);
  let text = '';
  const say = async (word: string) => {
    text += word;
    await ctx.emit({ type: 'delta', text: word });
  };
  for (const step of script.split(' ')) {
    const [verb, value = ''] = step.split(':');
    if (verb === 'gate') {
      await Promise.race([
        gate.wait(value),
        new Promise((_, reject) => {
          ctx.signal.addEventListener('abort', () => reject(ctx.signal.reason), { once: true });
        }),
      ]);
    } else if (verb === 'sources') {
      const sources = [{ n: 1, path: 'guide.md', heading: 'Start', documentId: 'doc-1', ordinal: 0 }];
      await ctx.emit({ type: 'sources', sources });
    } else if (verb === 'think') await ctx.emit({ type: 'reasoning', text: value });
    else if (verb === 'data') await ctx.emit({ type: 'data-weather', data: { city: value } });
    else if (verb === 'usage')
      await ctx.emit({ type: 'usage', model: 'm', estimated: false, inputTokens: 7, outputTokens: 3, totalTokens: 10 });
    else if (verb === 'fail') throw new NonRetryableError('the script says so');
    else if (verb === 'error') {
      if (ctx.attempt === 1) throw new Error('once');
    } else if (verb === 'history') await say(`[${earlier.join('|')}]`);
    else await say(`${step} `);
  }
  return { text };
}

const shared = {
  input,
  attempts: 3,
  backoff: { type: 'fixed' as const, delayMs: 1, jitter: 0 },
  fromChat: ({ messages }: { messages: readonly { role: string; content: string }[] }) => ({
    script: messages.at(-1)?.content ?? '',
    earlier: messages.slice(0, -1).map(({ role, content }) => `${role}=${content}`),
  }),
};

export const scripted = defineJob({
  ...shared,
  name: 'scripted',
  run: ({ script, earlier }, ctx) => follow(script, earlier, ctx as JobContext),
});
