import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { LeaseKeeper } from '../../src/leases/keeper.ts';
import { silentLogger } from '../../src/log.ts';
import { blockEventLoop } from '../helpers/block.ts';
import { claimFree, claimOne, expireLease, insertJob, rowOf, useDatabase } from '../helpers/fixtures.ts';

const file = useDatabase();

function createKeeper(
  overrides: { databaseUrl?: string; heartbeatMs?: number; maxBlockMs?: number } = {},
): LeaseKeeper {
  const keeper = new LeaseKeeper({
    databaseUrl: file.url,
    databaseSchema: 'oncefleet',
    heartbeatMs: 100,
    maxBlockMs: 60_000,
    log: silentLogger(),
    ...overrides,
  });
  onTestFinished(() => keeper.close());
  return keeper;
}

/** A claimed job, held by a keeper. */
async function hold(keeper: LeaseKeeper, ttlMs: number) {
  const id = await insertJob(file.db);
  const claimSentAt = process.hrtime.bigint();
  const answer = await claimOne(file.db, id, { ttlMs });
  if (answer.decision !== 'claimed') throw new Error(answer.decision);
  const onLost = vi.fn();
  const onCancel = vi.fn();
  const lease = keeper.hold({ jobId: id, fence: 1, ttlMs, claimSentAt, onLost, onCancel });
  return { id, lease, onLost, onCancel };
}

describe('the lease keeper', () => {
  it('renews by the database clock, again and again', async () => {
    const keeper = createKeeper();
    // Long enough for a thread to start on a machine that is busy.
    const { id, onLost } = await hold(keeper, 10_000);
    const first = (await rowOf(file.db, id)).lease_expires_at as Date;
    await expect
      .poll(async () => ((await rowOf(file.db, id)).lease_expires_at as Date).getTime() - first.getTime())
      .toBeGreaterThan(1_500);
    expect(onLost).not.toHaveBeenCalled();
  });

  it('renews a lease whose TTL is shorter than the heartbeat, beside longer ones', async () => {
    const keeper = createKeeper({ heartbeatMs: 60_000 });
    await hold(keeper, 200_000);
    // Long enough for a thread to start on a machine that is busy.
    const { id, onLost } = await hold(keeper, 12_000);
    const first = (await rowOf(file.db, id)).lease_expires_at as Date;
    await expect
      .poll(async () => ((await rowOf(file.db, id)).lease_expires_at as Date).getTime() - first.getTime(), {
        timeout: 25_000,
      })
      .toBeGreaterThan(1_500);
    expect(onLost).not.toHaveBeenCalled();
  });

  it('says that a lease is lost when its row is at another fence', async () => {
    const keeper = createKeeper();
    const { id, onLost } = await hold(keeper, 60_000);
    await expireLease(file.db, id);
    await claimFree(file.db, id);
    await expect.poll(() => onLost.mock.calls.length).toBe(1);
    expect(onLost.mock.calls[0]?.[0]).toMatchObject({ code: 'LEASE_LOST', jobId: id, fence: 1 });
    expect(keeper.size).toBe(0);
  });

  it('says so before the lease expires when no renewal gets through: a failed one is unknown, not lost', async () => {
    const keeper = createKeeper({ databaseUrl: 'postgres://nobody@127.0.0.1:1/none' });
    const { id, onLost } = await hold(keeper, 6_000);
    await expect.poll(() => onLost.mock.calls.length, { interval: 5 }).toBe(1);
    // By the database clock the lease is still this owner's: nobody else can have claimed.
    expect((await claimOne(file.db, id)).decision).toBe('held');
  });

  it('goes on after renewals that failed, and tells nobody of a loss', async () => {
    const relay = await startRelay();
    relay.refuse = true;
    const keeper = createKeeper({ databaseUrl: relay.url });
    const { id, onLost } = await hold(keeper, 60_000);
    await expect.poll(() => relay.refused).toBeGreaterThan(1);
    expect(onLost).not.toHaveBeenCalled();
    const first = (await rowOf(file.db, id)).lease_expires_at as Date;
    relay.refuse = false;
    await expect.poll(async () => (await rowOf(file.db, id)).lease_expires_at as Date).not.toEqual(first);
    expect(onLost).not.toHaveBeenCalled();
    expect(keeper.size).toBe(1);
  });

  it('measures safety from when a renewal was sent, not from when its answer came', async () => {
    const relay = await startRelay();
    const keeper = createKeeper({ databaseUrl: relay.url, heartbeatMs: 1_800 });
    const { id, onLost } = await hold(keeper, 6_000);
    const expiry = async () => ((await rowOf(file.db, id)).lease_expires_at as Date).getTime();
    const renewed = async () => {
      const before = await expiry();
      await expect.poll(expiry, { interval: 10 }).toBeGreaterThan(before);
    };
    await renewed();
    relay.hold('answers');
    await renewed();
    // The answer comes late, and is the last one.
    relay.hold('statements');
    relay.refuse = true;
    const left = `select extract(epoch from lease_expires_at - clock_timestamp()) * 1000 as ms from oncefleet.jobs where id = '${id}'`;
    await expect
      .poll(async () => Number((await file.pool.query(left)).rows[0].ms), { interval: 10 })
      .toBeLessThan(4_400);
    relay.passAnswers();
    await expect.poll(() => onLost.mock.calls.length, { interval: 5 }).toBe(1);
    expect((await claimOne(file.db, id)).decision).toBe('held');
  });

  it('tells of a cancel once', async () => {
    const keeper = createKeeper();
    const { id, onCancel } = await hold(keeper, 60_000);
    await file.pool.query('update oncefleet.jobs set cancel_requested_at = clock_timestamp() where id = $1', [id]);
    await expect.poll(() => onCancel.mock.calls.length).toBe(1);
    keeper.cancel(id);
    expect(onCancel).toHaveBeenCalledOnce();
  });

  it('keeps renewing while the event loop is blocked, up to maxBlockMs', async () => {
    const keeper = createKeeper({ maxBlockMs: 60_000 });
    const { id, onLost } = await hold(keeper, 3_000);
    blockEventLoop(7_000);
    expect((await claimOne(file.db, id)).decision).toBe('held');
    expect(onLost).not.toHaveBeenCalled();
  });

  it('lets the leases of a loop that is blocked beyond maxBlockMs expire, and aborts as soon as it runs again', async () => {
    const keeper = createKeeper({ maxBlockMs: 500 });
    const { id, onLost } = await hold(keeper, 1_000);
    blockEventLoop(3_000);
    await expect.poll(() => onLost.mock.calls.length).toBe(1);
    // The thread may have renewed it once more when the loop came back, before it was told.
    await expect.poll(async () => (await claimOne(file.db, id)).decision).toBe('claimed');
  });

  it('knows of the block also where its thread waits for Postgres and cannot tell', async () => {
    const keeper = createKeeper({ maxBlockMs: 500, heartbeatMs: 4_000 });
    const long = await hold(keeper, 60_000);
    // Its statement is given up after a heartbeat, and not before.
    const other = await file.pool.connect();
    onTestFinished(() => other.release());
    await other.query('begin');
    await other.query('select from oncefleet.jobs where id = $1 for update', [long.id]);
    const waiting = `select count(*)::int as n from pg_stat_activity
      where datname = current_database() and wait_event_type = 'Lock' and query like '%lease_expires_at%'`;
    await expect.poll(async () => (await file.pool.query(waiting)).rows[0].n, { timeout: 20_000 }).toBe(1);
    const { onLost } = await hold(keeper, 1_000);
    blockEventLoop(2_000);
    await expect.poll(() => onLost.mock.calls.length).toBe(1);
    expect(onLost.mock.calls[0]).toEqual([expect.objectContaining({ code: 'LEASE_LOST', expired: true }), true]);
    await other.query('rollback');
  });

  it('lets go of a released lease without calling it lost', async () => {
    const keeper = createKeeper();
    const { lease, id, onLost } = await hold(keeper, 1_000);
    lease.release();
    lease.release();
    await file.pool.query(
      "update oncefleet.jobs set status = 'pending', lease_owner = null, lease_expires_at = null where id = $1",
      [id],
    );
    const other = await hold(keeper, 10_000);
    const first = (await rowOf(file.db, other.id)).lease_expires_at as Date;
    await expect.poll(async () => ((await rowOf(file.db, other.id)).lease_expires_at as Date) > first).toBe(true);
    expect(onLost).not.toHaveBeenCalled();
  });

  it('closes in any state', async () => {
    const unused = createKeeper();
    await unused.close();
    const used = createKeeper();
    await hold(used, 60_000);
    await Promise.all([used.close(), used.close()]);
    expect(used.size).toBe(0);
  });
});

interface Relay {
  readonly url: string;
  /** New connections are cut. */
  refuse: boolean;
  readonly refused: number;
  /** Statements, or answers, do not arrive for now. */
  hold(what: 'statements' | 'answers'): void;
  passAnswers(): void;
}

/** A way to the database that can be closed, in either direction. */
async function startRelay(): Promise<Relay> {
  const target = new URL(file.url);
  const pairs: { client: Socket; server: Socket }[] = [];
  const relay = {
    url: '',
    refuse: false,
    refused: 0,
    hold(what: 'statements' | 'answers') {
      for (const { client, server } of pairs) (what === 'answers' ? server : client).pause();
    },
    passAnswers() {
      for (const { server } of pairs) server.resume();
    },
  };
  const listener = createServer((client) => {
    client.on('error', () => undefined);
    if (relay.refuse) {
      relay.refused++;
      client.destroy();
      return;
    }
    const server = connect(Number(target.port || 5432), target.hostname);
    pairs.push({ client, server });
    client.on('data', (data) => server.write(data)).on('close', () => server.destroy());
    server
      .on('error', () => undefined)
      .on('data', (data) => client.write(data))
      .on('close', () => client.destroy());
  });
  onTestFinished(() => {
    listener.close();
    for (const { client, server } of pairs) {
      client.destroy();
      server.destroy();
    }
  });
  await once(listener.listen(0, '127.0.0.1'), 'listening');
  const url = new URL(file.url);
  url.hostname = '127.0.0.1';
  url.port = String((listener.address() as AddressInfo).port);
  relay.url = url.href;
  return relay;
}
