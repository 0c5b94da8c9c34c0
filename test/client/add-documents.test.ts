/** Documents whose hashes are known before they are sent. */
import { createHash } from 'node:crypto';
import { sql } from 'kysely';
import { expect, it } from 'vitest';
import type { NewDocument } from '../../src/client/add-documents.ts';
import { createIngestJob } from '../../src/jobs/ingest/ingest-job.ts';
import { rowOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';

const file = useDatabase();

const hashOf = (text: string) => createHash('sha256').update(text).digest('hex');

function stage() {
  const read: string[] = [];
  const document = (path: string, text: string, sha256 = hashOf(text)): NewDocument => ({
    path,
    sha256,
    body: (async function* () {
      read.push(path);
      yield Buffer.from(text);
    })(),
  });
  return { fleet: createTestFleet(file.url, [createIngestJob()]), read, document };
}

async function countUploads(): Promise<number> {
  const { rows } = await sql<{ count: number }>`select count(*) as count from oncefleet.uploads`.execute(file.db);
  return Number(rows[0]?.count);
}

it('are not read again under a key that exists, running or done', async () => {
  const { fleet, read, document } = stage();
  const add = () =>
    fleet.collections.add('known', [document('a.md', '# A\n\nText.'), document('b.md', '# B\n\nText.')], { key: 'k' });
  const first = await add();
  expect([first.outcome, read]).toEqual(['created', ['a.md', 'b.md']]);
  const attached = await add();
  expect(attached).toMatchObject({ id: first.id, outcome: 'attached' });
  await fleet.work();
  await first.result();
  const replayed = await add();
  expect(replayed).toMatchObject({ id: first.id, outcome: 'replayed' });
  expect(read).toEqual(['a.md', 'b.md']);
});

it('leave no job behind where none exists and the documents do not come', async () => {
  const { fleet, document } = stage();
  const before = await countUploads();
  const broken: NewDocument = {
    ...document('a.md', 'never'),
    body: (async function* () {
      yield Buffer.from('nev');
      throw new Error('the disk is gone');
    })(),
  };
  await expect(fleet.collections.add('broken', [broken], { key: 'b' })).rejects.toThrow('the disk is gone');
  const jobs = sql`select id from oncefleet.jobs where idempotency_key = 'b'`;
  expect((await jobs.execute(file.db)).rows).toEqual([]);
  expect(await countUploads()).toBe(before);
  const { id, outcome } = await fleet.collections.add('broken', [document('a.md', 'never')], { key: 'b' });
  expect([outcome, (await rowOf(file.db, id)).status]).toEqual(['created', 'pending']);
});

it('are refused, with their path, where other bytes come', async () => {
  const { fleet, document } = stage();
  const before = await countUploads();
  const changed = [document('a.md', 'as it was'), document('b.md', 'as it is', hashOf('as it was'))];
  await expect(fleet.collections.add('changed', changed)).rejects.toMatchObject({
    code: 'INPUT_INVALID',
    details: { issues: [{ path: 'documents[1].sha256', message: expect.stringContaining('has changed meanwhile') }] },
  });
  expect(await countUploads()).toBe(before);
});

it('are refused under a key of other documents before a byte is read', async () => {
  const { fleet, read, document } = stage();
  await fleet.collections.add('mismatch', [document('a.md', 'one')], { key: 'm' });
  await expect(fleet.collections.add('mismatch', [document('a.md', 'other')], { key: 'm' })).rejects.toMatchObject({
    code: 'KEY_MISMATCH',
  });
  expect(read).toEqual(['a.md']);
});
