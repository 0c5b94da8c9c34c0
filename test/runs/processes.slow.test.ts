import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Redis } from 'ioredis';
import { sql } from 'kysely';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { StreamEvent } from '../../src/index.ts';
import type { Fleet } from '../../src/workers/fleet.ts';
import { journalOf, rowOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';
import { testJobs, type WorkerProcessOptions } from '../helpers/worker-process.ts';

const file = useDatabase();
const WORKER = fileURLToPath(new URL('../helpers/worker-process.ts', import.meta.url));
const LEASE = { leaseTtlMs: 3_000, heartbeatMs: 300 };

interface Message {
  type: string;
  [field: string]: unknown;
}

/** libfaketime, where it is installed. */
const FAKETIME = ['/usr/lib/x86_64-linux-gnu', '/usr/lib/aarch64-linux-gnu', '/usr/lib64']
  .map((folder) => `${folder}/faketime/libfaketime.so.1`)
  .find(existsSync);

/** A real worker process, killed when the test ends. */
async function startWorkerProcess(
  prefix: string,
  env: Record<string, string> = {},
  more: Partial<WorkerProcessOptions> = {},
): Promise<{ child: ChildProcess; message(type: string): Promise<Message> }> {
  const options: WorkerProcessOptions = { databaseUrl: file.url, redisUrl: testRedisUrl(), prefix, ...LEASE, ...more };
  const child = fork(WORKER, [JSON.stringify(options)], {
    execArgv: ['--conditions=oncefleet-source'],
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    env: { ...process.env, ...env },
  });
  onTestFinished(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, 'exit');
    child.kill('SIGKILL');
    await gone;
  });
  const seen: Message[] = [];
  child.on('message', (message: Message) => seen.push(message));
  const message = (type: string) =>
    expect
      .poll(() => seen.find((candidate) => candidate.type === type))
      .toBeDefined()
      .then(() => seen.find((candidate) => candidate.type === type) as Message);
  await message('ready');
  return { child, message };
}

function idleFleet(prefix: string): Fleet {
  return createTestFleet(file.url, testJobs, { prefix, ...LEASE });
}

/** The events a reader holds that obeys every rewind. */
function afterRewinds(events: readonly StreamEvent[]): string[] {
  let held: StreamEvent[] = [];
  for (const told of events) {
    if (told.event.type === 'rewind') held = held.filter(({ seq }) => seq <= told.seq);
    else held.push(told);
  }
  return held.map(({ json }) => json);
}

describe('a worker killed with SIGKILL', () => {
  it('loses its lease to another worker; the journal is contiguous and every follower reads the same story', async () => {
    const prefix = uniquePrefix();
    const worker = await startWorkerProcess(prefix);
    const fleet = idleFleet(prefix);
    const handle = await fleet.enqueue('stream', { events: 40 }, { key: 'k' });
    const live: string[] = [];
    const following = (async () => {
      for await (const event of handle.events()) live.push(event.json);
    })();
    if (worker.child.signalCode === null) await once(worker.child, 'exit');
    await fleet.work();
    expect(await handle.result({ timeoutMs: 60_000 })).toEqual({ attempt: 2 });
    await following;
    const journal = await journalOf(file.db, handle.id);
    expect(live.map((json) => JSON.parse(json))).toEqual(journal.map(({ event }) => event));
    const restart = journal.findIndex(({ event }) => event.type === 'attempt');
    expect(journal[restart]).toMatchObject({ fence: 2, event: { attempt: 2, reason: 'crash', resumed: false } });
    expect(journal.slice(restart + 1).map(({ event }) => event.i ?? event.type)).toEqual([
      ...Array.from({ length: 40 }, (_, i) => i),
      'end',
    ]);
    // What the dead worker had buffered and not committed is nowhere.
    expect(journal.some(({ event }) => event.i === -1)).toBe(false);
    const record = await fleet.get(handle.id);
    expect(record).toMatchObject({ crashCount: 1, errorCount: 0 });
    expect(record?.attempts.map((attempt) => attempt.outcome)).toEqual(['crash', 'completed']);
  });

  it('after it published events that it had not committed: readers are rewound, live or back with a cursor', async () => {
    const prefix = uniquePrefix();
    const fleet = idleFleet(prefix);
    const handle = await fleet.enqueue('ahead', { events: 10 });
    const live: StreamEvent[] = [];
    const following = (async () => {
      for await (const event of handle.events()) live.push(event);
    })();
    // Started once somebody follows: what is not committed is seen live or never.
    const redis = new Redis(testRedisUrl());
    onTestFinished(async () => void (await redis.quit()));
    await expect.poll(() => redis.pubsub('CHANNELS', `*${handle.id}*`)).toHaveLength(1);
    const worker = await startWorkerProcess(prefix, {}, { lingerMs: 60_000 });
    await expect.poll(() => live.length).toBe(10);
    worker.child.kill('SIGKILL');
    await once(worker.child, 'exit');
    expect((await journalOf(file.db, handle.id)).map(({ seq }) => seq)).toEqual([0, 1, 2, 3, 4, 5]);
    const before = [...live];
    await fleet.work();
    expect(await handle.result({ timeoutMs: 60_000 })).toEqual({ attempt: 2 });
    await following;
    const journal = (await journalOf(file.db, handle.id)).map(({ event }) => JSON.stringify(event));
    expect(journal).toHaveLength(6 + 1 + 10 + 1);
    expect(live[10]).toMatchObject({ event: { type: 'rewind', from: 6 }, cursor: '2-5' });
    expect(afterRewinds(live)).toEqual(journal);
    expect(live.filter(({ event }) => event.type === 'rewind')).toHaveLength(1);
    for (const [seq, event] of before.entries()) {
      const back = before.slice(0, seq + 1);
      for await (const later of handle.events({ after: event.cursor })) back.push(later);
      expect(back.some((told) => told.event.type === 'rewind')).toBe(seq >= 6);
      expect(afterRewinds(back)).toEqual(journal);
    }
  });

  it('by its own job, again and again, poisons that job', async () => {
    const prefix = uniquePrefix();
    const fleet = idleFleet(prefix);
    const handle = await fleet.enqueue('poison', {});
    for (let crash = 1; crash <= 2; crash++) {
      const worker = await startWorkerProcess(prefix);
      if (worker.child.signalCode === null) await once(worker.child, 'exit');
      expect(await rowOf(file.db, handle.id)).toMatchObject({ status: 'running', fence: crash });
    }
    await fleet.work();
    await expect(handle.result({ timeoutMs: 60_000 })).rejects.toMatchObject({ code: 'POISONED' });
    expect(await rowOf(file.db, handle.id)).toMatchObject({ status: 'failed', crash_count: 2 });
    expect((await journalOf(file.db, handle.id)).at(-1)?.event).toMatchObject({
      type: 'error',
      error: { code: 'POISONED' },
    });
  });
});

describe('a worker frozen past its lease', () => {
  it('wakes as a zombie, and every write it then tries is refused', async () => {
    await sql`create table if not exists effects (job_id uuid, attempt integer)`.execute(file.db);
    const prefix = uniquePrefix();
    const zombie = await startWorkerProcess(prefix);
    const fleet = idleFleet(prefix);
    const handle = await fleet.enqueue('zombie', {});
    await zombie.message('running');
    zombie.child.kill('SIGSTOP');
    await fleet.work();
    expect(await handle.result({ timeoutMs: 60_000 })).toBe('second');
    const before = { row: await rowOf(file.db, handle.id), journal: await journalOf(file.db, handle.id) };

    zombie.child.kill('SIGCONT');
    zombie.child.send({ type: 'go' });
    const tried = await zombie.message('tried');
    expect(tried).toMatchObject({
      outcomes: { emit: 'LEASE_LOST', checkpoint: 'LEASE_LOST', transaction: 'LEASE_LOST' },
      aborted: 'LEASE_LOST',
    });
    // Its outcome too: the delivery is over when the process runs nothing any more.
    zombie.child.kill('SIGTERM');
    await once(zombie.child, 'exit');
    expect(await rowOf(file.db, handle.id)).toEqual(before.row);
    expect(await journalOf(file.db, handle.id)).toEqual(before.journal);
    const effects = await sql<{ attempt: number }>`select attempt from effects where job_id = ${handle.id}`.execute(
      file.db,
    );
    expect(effects.rows).toEqual([{ attempt: 2 }]);
  });
});

describe('a handler that blocks the event loop', () => {
  it('for three TTLs keeps its lease, and BullMQ’s stalled check does not turn that into a failure', async () => {
    const prefix = uniquePrefix();
    await startWorkerProcess(prefix);
    await startWorkerProcess(prefix);
    const fleet = idleFleet(prefix);
    const handle = await fleet.enqueue('block', { ms: LEASE.leaseTtlMs * 3 });
    expect(await handle.result({ timeoutMs: 60_000 })).toBe('done');
    expect(await rowOf(file.db, handle.id)).toMatchObject({
      fence: 1,
      crash_count: 0,
      error_count: 0,
      status: 'completed',
    });
  });
});

describe.skipIf(FAKETIME === undefined)('workers whose clocks are an hour ahead and an hour behind', () => {
  const skewed = (by: string) => ({ LD_PRELOAD: FAKETIME as string, FAKETIME: by, FAKETIME_DONT_FAKE_MONOTONIC: '1' });

  it('keep their leases and take over each other’s, as if their clocks were right', async () => {
    const prefix = uniquePrefix();
    const workers = [await startWorkerProcess(prefix, skewed('+1h')), await startWorkerProcess(prefix, skewed('-1h'))];
    const fleet = idleFleet(prefix);
    const blocked = await fleet.enqueue('block', { ms: LEASE.leaseTtlMs * 2 });
    expect(await blocked.result({ timeoutMs: 60_000 })).toBe('done');
    expect(await rowOf(file.db, blocked.id)).toMatchObject({ fence: 1, crash_count: 0 });

    const streamed = await fleet.enqueue('stream', { events: 10 });
    expect(await streamed.result({ timeoutMs: 60_000 })).toEqual({ attempt: 2 });
    expect(await rowOf(file.db, streamed.id)).toMatchObject({ fence: 2, crash_count: 1 });
    expect(workers.filter((worker) => worker.child.signalCode === null)).toHaveLength(1);
  });
});
