/** Where a chunk stands in its document, and on which page a source of an answer does. */
import { sql } from 'kysely';
import { expect, it } from 'vitest';
import { createBuiltinJobs } from '../../src/jobs/builtin-jobs.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { makePdf } from '../jobs/ingest/parse/documents.ts';

const file = useDatabase();

async function stage(documents: Record<string, string | Uint8Array>) {
  const fleet = createTestFleet(file.url, createBuiltinJobs({ model: undefined, answerPaceMs: 0 }));
  await fleet.work();
  const given = Object.entries(documents).map(([path, content]) => ({ path, body: [Buffer.from(content)] }));
  await (await fleet.collections.add('places', given)).result();
  const chunksOf = async (path: string) => (await fleet.collections.chunks('places', path, { limit: 100 })).chunks;
  return { fleet, chunksOf };
}

const words = (count: number, from: number) => Array.from({ length: count }, (_, n) => `word${from + n}`).join(' ');

it.each([
  ['notes.md', ['# Notes', words(80, 0), words(90, 100), '## Two', `${words(200, 200)}.`, words(60, 900)].join('\n\n')],
  ['notes.txt', [words(80, 0), words(150, 100), words(160, 300), words(40, 800)].join('\n\n')],
  ['notes.log', Array.from({ length: 120 }, (_, n) => `2026-01-01 10:00:${n % 60} INFO ${words(3, n)}`).join('\n')],
])('is the part of the text that has it: %s', async (path, text) => {
  // A byte order mark and the line ends of Windows are not counted.
  const { chunksOf } = await stage({ [path]: `\uFEFF${text.replaceAll('\n', '\r\n')}` });
  const chunks = await chunksOf(path);
  expect(chunks.length).toBeGreaterThan(2);
  for (const { content, start, end, page } of chunks) {
    expect(text.slice(start as number, end as number)).toBe(content);
    expect(page).toBeNull();
  }
});

it('has the page on which it begins, in chunks and in the sources of answers', async () => {
  const pages = ['apples', 'pears', 'plums'].map((fruit) => ({
    heading: `About ${fruit}`,
    paragraphs: [`The ${fruit} are kept in a cellar of their own.\n${words(10, 0)}`, words(20, 50)],
  }));
  const { fleet, chunksOf } = await stage({ 'fruit.pdf': await makePdf(pages) });
  const chunks = await chunksOf('fruit.pdf');
  const pageOf = (text: string) => chunks.find(({ content }) => content.includes(text))?.page;
  expect(['apples', 'pears', 'plums'].map((fruit) => pageOf(`The ${fruit}`))).toEqual([1, 2, 3]);
  const handle = await fleet.enqueue('answer', { question: 'Where are pears kept?', collection: 'places' });
  const { sources } = (await handle.result()) as { sources: { documentId: string; ordinal: number; page?: number }[] };
  const [source] = sources;
  expect(source).toMatchObject({ path: 'fruit.pdf', page: 2 });
  const chunk = await fleet.collections.chunk('places', source?.documentId as string, source?.ordinal as number);
  expect(chunk).toMatchObject({ page: 2, start: expect.any(Number), content: expect.stringContaining('pears') });
});

it('is null in what an earlier build has written, until the document is ingested again', async () => {
  const { fleet, chunksOf } = await stage({ 'old.md': '# Old\n\nText.\n' });
  await sql`update oncefleet.chunks set start_offset = null, end_offset = null`.execute(file.db);
  await sql`update oncefleet.documents set chunker_version = 2 where path = 'old.md'`.execute(file.db);
  expect(await chunksOf('old.md')).toMatchObject([{ start: null, end: null, page: null }]);
  await (await fleet.collections.add('places', [{ path: 'old.md', body: [Buffer.from('# Old\n\nText.\n')] }])).result();
  expect(await chunksOf('old.md')).toMatchObject([{ start: 7, end: 12, page: null }]);
});
