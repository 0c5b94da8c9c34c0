/** Documents that are made to harm, and documents that time or a bad disk has harmed. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DocumentError } from '../../../../src/errors.ts';
import { readDocument } from '../../../../src/jobs/ingest/parse/read-document.ts';
import { makeDocx, makeDocxBomb, makePdf, makePdfBomb } from './documents.ts';

const MIB = 1_048_576;

/** The most memory that this process has while something runs, above what it had before, in MiB. */
async function peakOf(run: () => Promise<unknown>): Promise<number> {
  const before = process.memoryUsage.rss();
  let peak = before;
  const timer = setInterval(() => {
    peak = Math.max(peak, process.memoryUsage.rss());
  }, 20);
  try {
    await run();
  } finally {
    clearInterval(timer);
  }
  return (peak - before) / MIB;
}

describe('a document that expands', () => {
  it('to ten gigabytes, as a DOCX of 10 MB, is refused long before', async () => {
    const bytes = await makeDocxBomb(10_000);
    expect(bytes.length).toBeLessThan(12 * MIB);
    const peak = await peakOf(() =>
      expect(readDocument({ path: 'bomb.docx', bytes })).rejects.toMatchObject({
        code: 'DOCUMENT_TOO_LARGE',
        message: 'expands to more than 134217728 bytes',
      }),
    );
    expect(peak).toBeLessThan(512);
  });

  it('to eight gigabytes, as a PDF of 8 MB, ends its thread and not the process', async () => {
    const bytes = makePdfBomb(8_000);
    const peak = await peakOf(() =>
      expect(readDocument({ path: 'bomb.pdf', bytes })).rejects.toMatchObject({ code: 'DOCUMENT_TOO_COSTLY' }),
    );
    expect(peak).toBeLessThan(1_200);
    expect((await readDocument({ path: 'a.md', content: '# Still here' })).title).toBe('Still here');
  });
});

describe('a document that is cut off or has wrong bits', () => {
  const pages = [{ heading: 'One', paragraphs: ['Some text\nof the first page.'] }, { paragraphs: ['More text.'] }];
  const html = `<!doctype html><html><body>${'<table><tr><td>a<ul><li>b</ul></table><pre>c</pre>'.repeat(20)}</body></html>`;

  it.each<[string, () => Promise<Uint8Array>]>([
    ['a.pdf', () => makePdf(pages, { title: 'T' })],
    ['a.docx', () => makeDocx('T')],
    ['a.html', async () => new TextEncoder().encode(html)],
    ['a.txt', async () => new Uint8Array(Buffer.from(`\ufeff${'日本語 text. '.repeat(50)}`, 'utf16le'))],
    ['a.csv', async () => new TextEncoder().encode('a,b\n"1,2",3\n'.repeat(50))],
  ])('%s always ends in text or in an error with a code', async (path, make) => {
    const whole = await make();
    const damage = fc.record({
      length: fc.integer({ min: 0, max: whole.length }),
      flips: fc.array(fc.tuple(fc.nat(whole.length - 1), fc.nat(7)), { maxLength: 20 }),
    });
    await fc.assert(
      fc.asyncProperty(damage, async ({ length, flips }) => {
        const bytes = whole.slice();
        for (const [at, bit] of flips) bytes[at] = (bytes[at] as number) ^ (1 << bit);
        const read = await readDocument({ path, bytes: bytes.subarray(0, length) }, { timeoutMs: 20_000 }).catch(
          (error: unknown) => error,
        );
        if (read instanceof Error) {
          expect(read).toBeInstanceOf(DocumentError);
          expect(read.message).not.toBe('');
        } else expect((read as { text: string }).text.isWellFormed()).toBe(true);
      }),
      { numRuns: 60, seed: 14 },
    );
  });
});
