import { z } from 'zod';

/** A chunk that an answer rests on; `[n]` in the text points to it. */
export const sourceSchema = z.object({
  n: z.number().int(),
  path: z.string(),
  heading: z.string(),
  documentId: z.string(),
  ordinal: z.number().int(),
  /** On which it begins, from 1; absent where there are no pages. */
  page: z.number().int().optional(),
});

/** Of a chunk that was found. */
export function toSource(
  n: number,
  { path, heading, documentId, ordinal, page }: Omit<Source, 'n' | 'page'> & { page: number | null },
): Source {
  return { n, path, heading, documentId, ordinal, ...(page === null ? {} : { page }) };
}

export type Source = z.output<typeof sourceSchema>;
