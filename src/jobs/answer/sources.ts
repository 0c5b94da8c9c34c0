import { z } from 'zod';

/** A chunk that an answer rests on; `[n]` in the text points to it. */
export const sourceSchema = z.object({
  n: z.number().int(),
  path: z.string(),
  heading: z.string(),
  documentId: z.string(),
  ordinal: z.number().int(),
});

export type Source = z.output<typeof sourceSchema>;
