import { expect, test } from 'vitest';
import { runQuickly } from './run-bench.ts';

test('a quick run of the ingest bench measures every way in, and a COPY of the rows that it left', {
  timeout: 300_000,
}, async () => {
  const { rows, out } = await runQuickly('ingest');
  expect(rows.map((row) => row.case)).toEqual([
    'uploads, one job',
    'uploads, four jobs at once',
    "texts in a job's input",
    'COPY, with keys and indexes',
    'COPY of texts alone',
  ]);
  const [one] = rows;
  for (const row of rows) {
    // All of them write the same documents: no case is fast because it left something out.
    expect(row).toMatchObject({ documents: one?.documents, chunks: one?.chunks, textBytes: one?.textBytes });
    for (const figure of ['documentsPerS', 'chunksPerS', 'walToText']) expect(row[figure], figure).toBeGreaterThan(0);
  }
  for (const row of rows.slice(0, 3))
    for (const figure of ['documentsPerWorkerCpuS', 'peakRssMb']) expect(row[figure], figure).toBeGreaterThan(0);
  // No row can be written without its text. What an ingest may have is not a question for a busy machine.
  for (const row of rows.slice(3)) expect(row.walToText, String(row.case)).toBeGreaterThan(0.9);
  expect(out).toContain('COPY, with keys and indexes');
});
