/**
 * Tortures both handlers of charge-job.ts and prints what comes of it; ends with 1 if the repaired one breaks.
 *
 *   node --conditions=oncefleet-source examples/torture-charge.ts
 */
import { TortureError, torture } from 'oncefleet/testing';
import { CHARGES_TABLE, naiveCharge, repairedCharge } from './charge-job.ts';

for (const [name, job] of Object.entries({ naiveCharge, repairedCharge })) {
  try {
    const report = await torture(job, {
      input: { order: 'A-1', cents: 4_200 },
      setup: async ({ pool }) => {
        await pool.query(CHARGES_TABLE);
      },
      // Torture compares rows by itself; an invariant of your own says more.
      check: async ({ pool }) => {
        const { rows } = await pool.query('select sum(cents)::int as cents from charges');
        if (rows[0].cents !== 4_200) throw new Error(`the card was charged ${rows[0].cents} cents`);
      },
    });
    console.log(`${name}: ${report.schedules.length} schedules, ${report.runs} runs, ${report.durationMs} ms: holds`);
  } catch (error) {
    if (!(error instanceof TortureError)) throw error;
    console.log(`${name}: ${error.message}`);
    if (job === repairedCharge) process.exitCode = 1;
  }
}
