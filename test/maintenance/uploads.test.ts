/** When the sweep removes uploads. */
import { sql } from 'kysely';
import { describe, expect, it } from 'vitest';
import { findUpload, insertUpload } from '../../src/db/uploads.ts';
import { silentLogger } from '../../src/log.ts';
import { sweepOnce } from '../../src/maintenance/sweeper.ts';
import { uuidV7 } from '../../src/util/uuid.ts';
import { useDatabase } from '../helpers/fixtures.ts';

const file = useDatabase();

const sweep = () =>
  sweepOnce(file.db, {
    retention: { streamMs: Number.POSITIVE_INFINITY, jobMs: Number.POSITIVE_INFINITY },
    expired: () => undefined,
    log: silentLogger(),
  });

/** An upload of a job in that status, or of none, that came and ended so many hours ago. */
async function upload(status: string | null, hoursAgo: number): Promise<string> {
  const [id, jobId] = [uuidV7(), uuidV7()];
  await insertUpload(file.db, { id, tenant: 'default', path: 'a.md', contentType: undefined });
  await sql`
    update oncefleet.uploads set touched_at = clock_timestamp() - ${hoursAgo} * interval '1 hour', sha256 = 'x',
      job_id = ${status === null ? null : jobId}::uuid where id = ${id}`.execute(file.db);
  await sql`insert into oncefleet.upload_parts (upload_id, ordinal, bytes) values (${id}, 0, 'abc')`.execute(file.db);
  if (status === null || status === 'gone') return id;
  await sql`
    insert into oncefleet.jobs (id, tenant, name, queue, fingerprint, input, options, status, run_at, created_at, lease_owner, lease_expires_at, finished_at)
    values (${jobId}, 'default', 'ingest', 'ingest', 'f', '{}', '{}', ${status}, now(), now(),
      case when ${status} = 'running' then 'w' end, case when ${status} = 'running' then now() end,
      case when ${status} in ('completed', 'failed', 'cancelled') then now() - ${hoursAgo} * interval '1 hour' end)`.execute(
    file.db,
  );
  return id;
}

async function isThere(id: string): Promise<boolean> {
  const { rows } = await sql<{ uploads: number; parts: number }>`
    select (select count(*) from oncefleet.uploads where id = ${id}) as uploads,
      (select count(*) from oncefleet.upload_parts where upload_id = ${id}) as parts`.execute(file.db);
  expect(rows[0]?.uploads).toBe(rows[0]?.parts);
  return rows[0]?.uploads === 1;
}

describe('the sweep', () => {
  it.each([
    ['its job has completed', 'completed', 0],
    ['its job was cancelled', 'cancelled', 0],
    ['its job failed more than a day ago', 'failed', 25],
    ['its job is no longer kept', 'gone', 0],
    ['its request died an hour ago', null, 1.1],
  ])('removes an upload: %s', async (_what, status, hoursAgo) => {
    const id = await upload(status, hoursAgo);
    const round = await sweep();
    expect(round?.report.removedUploads).toBe(1);
    expect(await isThere(id)).toBe(false);
  });

  it.each([
    ['its job waits', 'pending', 100],
    ['its job runs', 'running', 100],
    ['its job failed today, and may be redriven', 'failed', 23],
    ['its request may still be going', null, 0.9],
  ])('keeps an upload: %s', async (_what, status, hoursAgo) => {
    const id = await upload(status, hoursAgo);
    await sweep();
    expect(await isThere(id)).toBe(true);
  });

  it('removes more than it removes at a time', async () => {
    const ids = await Promise.all(Array.from({ length: 45 }, () => upload('completed', 0)));
    expect((await sweep())?.report.removedUploads).toBe(45);
    for (const id of ids) expect(await isThere(id)).toBe(false);
    expect(
      await findUpload(file.db, { jobId: uuidV7(), tenant: 'default', path: 'a.md', sha256: 'x' }),
    ).toBeUndefined();
  });
});
