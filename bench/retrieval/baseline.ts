/** Figures of a run, and what an earlier run found. */
import { z } from 'zod';

export const figuresSchema = z.object({
  case: z.string(),
  part: z.enum(['held-out', 'tuning']),
  group: z.string(),
  ranker: z.string(),
  questions: z.number(),
  /** Percent. */
  hit1: z.number(),
  hit3: z.number(),
  hit5: z.number(),
  mrr: z.number(),
});
type Figures = z.infer<typeof figuresSchema>;

/** How far a figure may fall: by one question of the smallest group. */
const TOLERANCE = { hit5: 3, mrr: 0.03 };

/** @returns a line for each figure of `now` that is lower than it was, or is not in `before` */
export function fallen(now: readonly Figures[], before: readonly Figures[]): string[] {
  return now.flatMap((row) => {
    const earlier = before.find((one) => one.case === row.case);
    if (earlier === undefined) return [`${row.case}: not in the baseline`];
    return (['hit5', 'mrr'] as const)
      .filter((figure) => row[figure] < earlier[figure] - TOLERANCE[figure])
      .map((figure) => `${row.case}: ${figure} ${row[figure]}, was ${earlier[figure]}`);
  });
}
