/** Types flow from a definition to whoever uses it; `npm run types` is what checks them. */
import { expect, expectTypeOf, it } from 'vitest';
import { z } from 'zod';
import { defineJob, type Fleet, type JobHandle, type WithIdempotencyOptions, withIdempotency } from '../src/index.ts';

const job = defineJob({
  name: 'typed',
  input: z.object({ order: z.string(), cents: z.number().default(5) }),
  output: z.object({ charged: z.number() }),
  events: z.discriminatedUnion('type', [
    z.object({ type: z.literal('charging'), cents: z.number() }),
    z.object({ type: z.literal('charged') }),
  ]),
  async run(input, ctx) {
    expectTypeOf(input).toEqualTypeOf<{ order: string; cents: number }>();
    await ctx.emit({ type: 'charging', cents: input.cents });
    // @ts-expect-error no such event
    await ctx.emit({ type: 'refunded' });
    return { charged: input.cents };
  },
});

const parsed = defineJob({
  name: 'parsed',
  input: z.object({ at: z.string().transform((text) => new Date(text)) }),
  run: ({ at }) => at.getTime(),
});

it('input, output, events and results have the types of their schemas', () => {
  type Charging = { type: 'charging'; cents: number } | { type: 'charged' };
  const enqueue = (fleet: Fleet) => fleet.enqueue(job, { order: 'A', cents: 1 });
  type Handle = Awaited<ReturnType<typeof enqueue>>;
  expectTypeOf<Handle>().toEqualTypeOf<JobHandle<{ charged: number }, Charging>>();
  expectTypeOf<Awaited<ReturnType<Handle['result']>>>().toEqualTypeOf<{ charged: number }>();
  const refused = (fleet: Fleet) => {
    // @ts-expect-error the order is missing
    void fleet.enqueue(job, { cents: 1 });
    // What has a default may be left out; what is transformed is given as it is before.
    void fleet.enqueue(job, { order: 'A' });
    void fleet.enqueue(parsed, { at: '2026-01-01' });
    // @ts-expect-error what comes out of the schema does not go in
    void fleet.enqueue(parsed, { at: new Date() });
    // @ts-expect-error no such option
    void fleet.enqueue(job, { order: 'A', cents: 1 }, { keys: 'k' });
  };
  const guard = (options: WithIdempotencyOptions) => withIdempotency(async () => ({ sent: true }), options);
  expectTypeOf<Awaited<ReturnType<ReturnType<typeof guard>>>>().toEqualTypeOf<{ sent: boolean }>();
  expect([enqueue, refused, guard].map((each) => typeof each)).toEqual(['function', 'function', 'function']);
});
