/**
 * One job written twice: charging an order. The naive one passes every ordinary test, and
 * charges twice when its worker dies at the wrong moment. Torture finds that moment:
 *
 *   node --conditions=oncefleet-source examples/torture-charge.ts
 */
import { sql } from 'kysely';
import { defineJob, type JobContext } from 'oncefleet';
import { z } from 'zod';

const input = z.object({ order: z.string(), cents: z.number().int().positive() });
const output = z.object({ charged: z.number() });

export const CHARGES_TABLE =
  'create table charges (id serial primary key, order_id text not null, cents integer not null)';

/** Writes the charge with a plain query: it is committed, whatever becomes of the run. */
export const naiveCharge = defineJob({
  name: 'charge',
  input,
  output,
  async run({ order, cents }, ctx: JobContext) {
    await ctx.emit({ type: 'charging', order });
    await sql`insert into charges (order_id, cents) values (${order}, ${cents})`.execute(ctx.db);
    await ctx.emit({ type: 'charged', order });
    return { charged: cents };
  },
});

/** Writes the charge and the job's outcome in one transaction: both, or none of them, and once. */
export const repairedCharge = defineJob({
  name: 'charge',
  input,
  output,
  async run({ order, cents }, ctx: JobContext) {
    await ctx.emit({ type: 'charging', order });
    return ctx.transaction(async (trx) => {
      await sql`insert into charges (order_id, cents) values (${order}, ${cents})`.execute(trx);
      await ctx.emit({ type: 'charged', order });
      await ctx.complete(trx, { charged: cents });
      return { charged: cents };
    });
  },
});
