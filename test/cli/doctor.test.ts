/** `oncefleet doctor` by the real command; test/maintenance/doctor/doctor.test.ts has what it finds and repairs. */
import { sql } from 'kysely';
import { beforeEach, expect, test } from 'vitest';
import { insertJob, useDatabase } from '../helpers/fixtures.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';
import { runCli } from './run-cli.ts';

const file = useDatabase();
let env: Record<string, string>;

beforeEach(async () => {
  env = { DATABASE_URL: file.url, REDIS_URL: testRedisUrl(), ONCEFLEET_PREFIX: uniquePrefix() };
  await sql`truncate oncefleet.jobs, oncefleet.unfinished_jobs, oncefleet.stream_heads, oncefleet.journal_segments`.execute(
    file.db,
  );
});

/** A job that has ended, whose readers wait for the end of its stream. */
async function endWithOpenStream(): Promise<string> {
  const id = await insertJob(file.db);
  await sql`insert into oncefleet.stream_heads (stream_id, fence, next_seq) values (${id}, 1, 0)`.execute(file.db);
  await sql`update oncefleet.jobs set status = 'completed', result = '1', finished_at = clock_timestamp() where id = ${id}`.execute(
    file.db,
  );
  await file.db.deleteFrom('unfinished_jobs').where('job_id', '=', id).execute();
  return id;
}

test('a fleet that is well: one line, and 0', async () => {
  expect(await runCli(['doctor'], { env })).toMatchObject({
    code: 0,
    stdout: 'All is well: 0 unfinished rows, 0 BullMQ jobs and 0 streams looked at.\n',
  });
});

test('a disagreement: what, which job, what to do, and 8; with --fix it is repaired, and 0', async () => {
  const id = await endWithOpenStream();
  const found = await runCli(['doctor'], { env });
  expect(found.code).toBe(8);
  expect(found.stdout).toContain('wrong    open-stream\n  1 job: have ended, and their stream is open');
  expect(found.stdout).toContain(`    ${id}  job  Postgres: completed\n`);
  expect(found.stdout).toContain('--fix: closed, with the terminal event.');
  const repaired = await runCli(['doctor', '--fix'], { env });
  expect(repaired.code).toBe(0);
  expect(repaired.stdout).toContain('repaired open-stream');
  expect(repaired.stdout).toContain('1 closed, with the terminal event.');
  expect((await runCli(['doctor'], { env })).code).toBe(0);
});

test('--json writes one document, with the same exit codes', async () => {
  const id = await endWithOpenStream();
  const found = await runCli(['doctor', '--json'], { env });
  expect(found).toMatchObject({ code: 8, stderr: '' });
  expect(JSON.parse(found.stdout)).toMatchObject({
    findings: [
      { kind: 'open-stream', count: 1, repaired: 0, jobs: [{ id, queue: 'job', row: 'completed', bullmq: null }] },
    ],
    looked: { rows: 0, bullmqJobs: 0, streams: 1 },
    well: false,
  });
  const repaired = await runCli(['doctor', '--json', '--fix'], { env });
  expect(repaired).toMatchObject({ code: 0, stderr: '' });
  expect(JSON.parse(repaired.stdout)).toMatchObject({ findings: [{ kind: 'open-stream', repaired: 1 }], well: true });
});

test('a trouble that only people can end is told, and leaves 8 also with --fix', async () => {
  await insertJob(file.db, { delayMs: 600_000 });
  const { code, stdout } = await runCli(['doctor', '--fix', '--json'], { env });
  expect(code).toBe(8);
  const { findings } = JSON.parse(stdout) as { findings: { kind: string; repaired: number; count: number }[] };
  expect(findings.map(({ kind }) => kind).sort()).toEqual(['no-reconciler', 'not-dispatched']);
  expect(findings.find(({ kind }) => kind === 'not-dispatched')).toMatchObject({ count: 1, repaired: 1 });
});

test('without Redis there is nothing to compare: 4', async () => {
  const { code, stderr, stdout } = await runCli(['doctor'], { env: { ...env, REDIS_URL: 'redis://127.0.0.1:1' } });
  expect({ code, stdout }).toEqual({ code: 4, stdout: '' });
  expect(stderr).toMatch(/^error SERVICE_MISSING: Redis has not answered for 5 s\n$/);
});
