import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { sql } from 'kysely';
import { expect, it, onTestFinished } from 'vitest';
import { useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { limitedJob } from '../helpers/limited-process.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';
import type { WorkerProcessOptions } from '../helpers/worker-process.ts';

const file = useDatabase();
const WORKER = fileURLToPath(new URL('../helpers/limited-process.ts', import.meta.url));
const LEASE = { leaseTtlMs: 3_000, heartbeatMs: 500 };
const POLL = { timeout: 60_000, interval: 20 };
const LIMIT = 3;

async function startWorker(prefix: string): Promise<ChildProcess> {
  const options: WorkerProcessOptions = { databaseUrl: file.url, redisUrl: testRedisUrl(), prefix, ...LEASE };
  const child = fork(WORKER, [JSON.stringify(options)], {
    execArgv: ['--conditions=oncefleet-source'],
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  onTestFinished(() => kill(child));
  await once(child, 'message');
  return child;
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill('SIGKILL');
  await gone;
}

interface Entry {
  n: number;
  job_id: string;
  fence: number;
  key: string;
  pid: number;
  what: 'start' | 'end' | 'killed';
}

/** The most runs of a key that the ledger shows at once. A killed process has no runs any more. */
function mostAtOnce(ledger: readonly Entry[], key: string, from = 0): number {
  const running = new Map<string, number>();
  let most = 0;
  for (const [i, entry] of ledger.entries()) {
    const run = `${entry.job_id}/${entry.fence}`;
    if (entry.what === 'killed') for (const [held, pid] of running) if (pid === entry.pid) running.delete(held);
    if (entry.key !== key) continue;
    if (entry.what === 'start') running.set(run, entry.pid);
    if (entry.what === 'end') running.delete(run);
    if (i >= from) most = Math.max(most, running.size);
  }
  return most;
}

it('a limit of 3 holds in 4 processes of 50 slots while holders are killed, and their places come back', async () => {
  await sql`create table ledger (n bigint generated always as identity, job_id text, fence bigint, key text, pid int, what text,
    at timestamptz not null default clock_timestamp())`.execute(file.db);
  const prefix = uniquePrefix();
  const client = createTestFleet(file.url, [limitedJob], { prefix, ...LEASE });
  const workers = await Promise.all(Array.from({ length: 4 }, () => startWorker(prefix)));
  const handles = await Promise.all(
    Array.from({ length: 90 }, (_, i) => client.enqueue(limitedJob, { ms: 150, key: i % 3 === 0 ? 'b' : 'a' })),
  );
  for (let round = 0; round < 2; round++) {
    // Whoever has a place, once a third of the jobs of the round have run.
    const holder = async () => {
      const { rows } = await sql<{ pid: number; ended: number }>`
        select s.pid, (select count(*)::int from ledger where what = 'end') as ended from ledger s
        where s.what = 'start' and s.pid = any(${workers.filter((worker) => worker.signalCode === null).map(({ pid }) => pid)}::int[])
          and not exists (select from ledger e where e.job_id = s.job_id and e.fence = s.fence and e.what = 'end')
        order by s.n desc limit 1`.execute(file.db);
      return rows[0] !== undefined && rows[0].ended >= 15 * (round + 1) ? rows[0].pid : undefined;
    };
    let pid: number | undefined;
    await expect.poll(async () => (pid = await holder()), POLL).toBeDefined();
    await kill(workers.find((worker) => worker.pid === pid) as ChildProcess);
    await sql`insert into ledger (pid, what, key) values (${pid}, 'killed', '')`.execute(file.db);
    workers.push(await startWorker(prefix));
  }
  await Promise.all(handles.map((handle) => handle.result({ timeoutMs: 90_000 })));
  const ledger = (await sql<Entry>`select n, job_id, fence, key, pid, what from ledger order by n`.execute(file.db))
    .rows;
  const lastKill = ledger.findLastIndex(({ what }) => what === 'killed');
  for (const key of ['a', 'b']) expect(mostAtOnce(ledger, key), key).toBe(LIMIT);
  const after = ledger.findIndex(({ what, n }) => what === 'start' && n > (ledger[lastKill] as Entry).n);
  expect(mostAtOnce(ledger, 'a', after), 'all places are back').toBe(LIMIT);
  const ends = ledger.filter(({ what }) => what === 'end').map(({ job_id }) => job_id);
  expect(ends.sort()).toEqual(handles.map(({ id }) => id).sort());
});
