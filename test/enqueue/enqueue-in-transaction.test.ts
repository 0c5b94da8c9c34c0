/** `enqueue(…, { tx })`: the caller's own transaction decides whether the job exists. */
import type { Queue } from 'bullmq';
import { CamelCasePlugin, Kysely, PostgresDialect, sql } from 'kysely';
import pg from 'pg';
import { beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import { z } from 'zod';
import type { DispatchRow } from '../../src/db/jobs/unfinished.ts';
import { findHome } from '../../src/db/outbox.ts';
import { acceptorIn, isKeyLocked } from '../../src/enqueue/accept.ts';
import { type CallerTransaction, openCallerTransaction } from '../../src/enqueue/caller-transaction.ts';
import type { Dispatcher } from '../../src/enqueue/dispatcher.ts';
import { fingerprint } from '../../src/enqueue/fingerprint.ts';
import { Outbox } from '../../src/enqueue/outbox.ts';
import { defineJob } from '../../src/index.ts';
import { Runtime } from '../../src/runtime/runtime.ts';
import type { Fleet } from '../../src/workers/fleet.ts';
import { proxied, startDoomed } from '../helpers/doomed.ts';
import { backdateJob, rowOf, useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { findProgram, startPgBouncer } from '../helpers/pgbouncer.ts';
import { createTestDatabase, startTestRedis, testRedisUrl, uniquePrefix } from '../helpers/services.ts';
import { medianMs } from '../helpers/work.ts';

const file = useDatabase();
const pgbouncer = findProgram('pgbouncer');

const job = defineJob({
  name: 'job',
  input: z.object({ n: z.number() }),
  run: async ({ n }) => n,
});

beforeAll(async () => {
  await sql`create table orders (id integer primary key)`.execute(file.db);
});

/** A transaction of the caller's, of some kind; `end` commits or rolls back. */
type Begin = (url: string, isolation?: string) => Promise<Open>;
interface Open {
  tx: CallerTransaction;
  run(text: string): Promise<unknown>;
  end(how: 'commit' | 'rollback'): Promise<void>;
}

const beginClient: Begin = async (url, isolation = 'read committed') => {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  onTestFinished(() => client.end());
  await client.query(`begin isolation level ${isolation}`);
  return {
    tx: client,
    run: (text) => client.query(text),
    end: async (how) => void (await client.query(how)),
  };
};

const beginPoolClient: Begin = async (url) => {
  const pool = new pg.Pool({ connectionString: url, max: 1 });
  onTestFinished(() => pool.end());
  const client = await pool.connect();
  await client.query('begin');
  return {
    tx: client,
    run: (text) => client.query(text),
    async end(how) {
      await client.query(how);
      client.release();
    },
  };
};

const beginKysely =
  (plugins: CamelCasePlugin[]): Begin =>
  async (url) => {
    const pool = new pg.Pool({ connectionString: url, max: 1 });
    const db = new Kysely<Record<string, never>>({ dialect: new PostgresDialect({ pool }), plugins });
    onTestFinished(() => db.destroy());
    const ending = Promise.withResolvers<'commit' | 'rollback'>();
    const begun = Promise.withResolvers<Open>();
    const done = db
      .transaction()
      .execute(async (trx) => {
        begun.resolve({
          tx: trx,
          run: (text) => sql.raw(text).execute(trx),
          async end(how) {
            ending.resolve(how);
            await done;
          },
        });
        if ((await ending.promise) === 'rollback') throw new Error('rolled back');
      })
      .catch((error: Error) => expect(error.message).toBe('rolled back'));
    return begun.promise;
  };

const beginControlled: Begin = async (url) => {
  const db = new Kysely<Record<string, never>>({
    dialect: new PostgresDialect({ pool: new pg.Pool({ connectionString: url, max: 1 }) }),
  });
  onTestFinished(() => db.destroy());
  const trx = await db.startTransaction().execute();
  return {
    tx: trx,
    run: (text) => sql.raw(text).execute(trx),
    end: async (how) => void (await trx[how]().execute()),
  };
};

const KINDS: [string, Begin][] = [
  ['a pg client', beginClient],
  ['a client of a pg pool', beginPoolClient],
  ['a Kysely transaction', beginKysely([])],
  ['a Kysely transaction with plugins', beginKysely([new CamelCasePlugin()])],
  ['a controlled Kysely transaction', beginControlled],
];

function inRedis(fleet: Fleet, id: string): Promise<boolean> {
  return (fleet.queues[0] as Queue).getJob(id).then((found) => found !== undefined);
}

async function exists(id: string): Promise<boolean> {
  const found = await file.db.selectFrom('jobs').select('id').where('id', '=', id).executeTakeFirst();
  return found !== undefined;
}

async function outboxSize(): Promise<number> {
  return (await file.db.selectFrom('dispatch_outbox').select('job_id').execute()).length;
}

/** @returns how many statements have given up on a key that an open transaction holds, since the call */
function countLockedKeys(): () => number {
  const queries = vi.spyOn(pg.Client.prototype, 'query');
  onTestFinished(() => queries.mockRestore());
  return () =>
    queries.mock.settledResults.filter(({ type, value }) => type === 'rejected' && isKeyLocked(value)).length;
}

/** Enqueues as a process does that dies before it can dispatch. */
async function enqueueAndDie(tx: CallerTransaction, key: string): Promise<string> {
  const home = await findHome(async (text) => (await file.pool.query(text)).rows);
  const run = await openCallerTransaction(tx, { home, schema: 'oncefleet' });
  const accepted = await acceptorIn(run)(
    {
      tenant: 'default',
      name: job.name,
      queue: job.queue,
      key,
      fingerprint: fingerprint({ n: 1 }),
      input: '{"n":1}',
      options: { priority: 0, attempts: 3, backoff: { type: 'fixed', delayMs: 0 } },
      delayMs: 0,
      deadlineMs: null,
    },
    'replay',
  );
  return accepted.id;
}

describe.each(KINDS)('a job enqueued in %s', (_kind, begin) => {
  it('never was, when that is rolled back', async () => {
    const fleet = createTestFleet(file.url, [job]);
    const { tx, end } = await begin(file.url);
    const handle = await fleet.enqueue(job, { n: 1 }, { tx, key: 'taken-back' });
    expect(handle).toMatchObject({ outcome: 'created', status: 'pending' });
    await end('rollback');
    await fleet.work();
    const again = await fleet.enqueue(job, { n: 2 }, { key: 'taken-back' });
    expect(again.outcome).toBe('created');
    expect(await again.result({ timeoutMs: 10_000 })).toBe(2);
    expect([await exists(handle.id), await inRedis(fleet, handle.id)]).toEqual([false, false]);
    await file.db.deleteFrom('jobs').where('id', '=', again.id).execute();
  });

  it('runs when that is committed, and not before', async () => {
    // It works only afterwards: the first round of its reconciler would dispatch the job too.
    const fleet = createTestFleet(file.url, [job], { reconcileMs: 600_000 });
    const { tx, end } = await begin(file.url);
    const handle = await fleet.enqueue(job, { n: 7 }, { tx, priority: 3 });
    expect([await exists(handle.id), await inRedis(fleet, handle.id)]).toEqual([false, false]);
    await end('commit');
    await expect.poll(() => inRedis(fleet, handle.id)).toBe(true);
    await fleet.work();
    expect(await handle.result({ timeoutMs: 10_000 })).toBe(7);
    expect((await (fleet.queues[0] as Queue).getJob(handle.id))?.opts.priority).toBe(3);
    await expect.poll(outboxSize).toBe(0);
  });

  it('leaves it usable after every answer that a key can get', async () => {
    const fleet = createTestFleet(file.url, [job]);
    await fleet.work();
    const done = await fleet.enqueue(job, { n: 1 }, { key: 'done' });
    await done.result({ timeoutMs: 10_000 });
    const waiting = await fleet.enqueue(job, { n: 1 }, { key: 'waiting', delayMs: 60_000 });
    const { tx, run, end } = await begin(file.url);
    expect(await fleet.enqueue(job, { n: 1 }, { tx, key: 'done' })).toMatchObject({ id: done.id, outcome: 'replayed' });
    expect(await fleet.enqueue(job, { n: 1 }, { tx, key: 'waiting' })).toMatchObject({
      id: waiting.id,
      outcome: 'attached',
    });
    await expect(fleet.enqueue(job, { n: 2 }, { tx, key: 'done' })).rejects.toMatchObject({ code: 'KEY_MISMATCH' });
    const first = await fleet.enqueue(job, { n: 5 }, { tx, key: 'own' });
    expect(await fleet.enqueue(job, { n: 5 }, { tx, key: 'own' })).toMatchObject({ id: first.id, outcome: 'attached' });
    await run('insert into orders values (1)');
    await end('commit');
    expect(await first.result({ timeoutMs: 10_000 })).toBe(5);
    const orders = await sql`delete from orders returning id`.execute(file.db);
    expect(orders.rows).toEqual([{ id: 1 }]);
    for (const id of [done.id, waiting.id, first.id]) await file.db.deleteFrom('jobs').where('id', '=', id).execute();
  });
});

describe('a key', () => {
  it('whose outcome expired starts anew with the transaction, and is given back with it', async () => {
    const fleet = createTestFleet(file.url, [job]);
    await fleet.work();
    const old = await fleet.enqueue(job, { n: 1 }, { key: 'expired' });
    await old.result({ timeoutMs: 10_000 });
    await sql`update oncefleet.jobs set expires_at = clock_timestamp() - interval '1 s' where id = ${old.id}`.execute(
      file.db,
    );
    const taken = await beginClient(file.url);
    expect((await fleet.enqueue(job, { n: 2 }, { tx: taken.tx, key: 'expired' })).outcome).toBe('created');
    await taken.end('rollback');
    expect((await rowOf(file.db, old.id)).key_released).toBe(false);
    const kept = await beginClient(file.url);
    const anew = await fleet.enqueue(job, { n: 2 }, { tx: kept.tx, key: 'expired' });
    await kept.end('commit');
    expect(await anew.result({ timeoutMs: 10_000 })).toBe(2);
    expect((await rowOf(file.db, old.id)).key_released).toBe(true);
  });

  it.each(['commit', 'rollback'] as const)(
    'that an open transaction holds makes duplicates wait for its %s, and no other key',
    async (how) => {
      const refused = countLockedKeys();
      const fleet = createTestFleet(file.url, [job]);
      await fleet.work();
      const { tx, end } = await beginClient(file.url);
      const first = await fleet.enqueue(job, { n: 1 }, { tx, key: `held-${how}` });
      let answered = false;
      const duplicates = Promise.all(
        Array.from({ length: 20 }, () => fleet.enqueue(job, { n: 1 }, { key: `held-${how}` })),
      ).finally(() => {
        answered = true;
      });
      for (let i = 0; i < 5; i++) {
        const others = Array.from({ length: 20 }, (_, n) =>
          fleet.enqueue(job, { n }, { key: `free-${how}-${i}-${n}` }),
        );
        for (const handle of await Promise.all(others)) expect(handle.outcome).toBe('created');
      }
      // Batches that met the key make four of them at most; the others were waits of its lane.
      await expect.poll(refused).toBeGreaterThanOrEqual(6);
      expect(answered).toBe(false);
      await end(how);
      const handles = await duplicates;
      const ids = new Set(handles.map((handle) => handle.id));
      expect(ids.size).toBe(1);
      expect(ids.has(first.id)).toBe(how === 'commit');
      expect(await handles[0]?.result({ timeoutMs: 10_000 })).toBe(1);
    },
  );

  it('that an open transaction holds does not slow down a process that knows of it', async () => {
    const fleet = createTestFleet(file.url, [job]);
    const usual = await medianMs(20, (n) => fleet.enqueue(job, { n }, { key: `known-usual-${n}` }));
    const { tx, end } = await beginClient(file.url);
    await fleet.enqueue(job, { n: 1 }, { tx, key: 'known' });
    const duplicate = fleet.enqueue(job, { n: 1 }, { key: 'known' });
    await fleet.enqueue(job, { n: 2 }, { key: 'known-other' });
    const more = Promise.all(Array.from({ length: 50 }, () => fleet.enqueue(job, { n: 1 }, { key: 'known' })));
    const meanwhile = await medianMs(20, (n) => fleet.enqueue(job, { n }, { key: `known-free-${n}` }));
    // Each batch that waited with it would take a third of a second longer.
    expect(meanwhile - usual).toBeLessThan(150);
    await end('commit');
    expect((await duplicate).outcome).toBe('attached');
    expect(new Set((await more).map((handle) => handle.id)).size).toBe(1);
  });
});

describe.each(['repeatable read', 'serializable'])('at %s', (isolation) => {
  it('a duplicate that the snapshot has is attached to', async () => {
    const fleet = createTestFleet(file.url, [job]);
    const first = await fleet.enqueue(job, { n: 1 }, { key: `seen-${isolation}`, delayMs: 60_000 });
    const { tx, run, end } = await beginClient(file.url, isolation);
    await run('select 1');
    const again = await fleet.enqueue(job, { n: 1 }, { tx, key: `seen-${isolation}` });
    expect(again).toMatchObject({ id: first.id, outcome: 'attached' });
    await end('commit');
  });

  it('a duplicate committed after the snapshot is a serialization failure, as for any write; tried again it attaches', async () => {
    const fleet = createTestFleet(file.url, [job]);
    const { tx, run, end } = await beginClient(file.url, isolation);
    await run('select count(*) from orders');
    const first = await fleet.enqueue(job, { n: 1 }, { key: `unseen-${isolation}`, delayMs: 60_000 });
    await expect(fleet.enqueue(job, { n: 1 }, { tx, key: `unseen-${isolation}` })).rejects.toMatchObject({
      code: '40001',
    });
    await end('rollback');
    await run(`begin isolation level ${isolation}`);
    expect(await fleet.enqueue(job, { n: 1 }, { tx, key: `unseen-${isolation}` })).toMatchObject({
      id: first.id,
      outcome: 'attached',
    });
    await end('commit');
  });

  it('a new job is created and runs', async () => {
    const fleet = createTestFleet(file.url, [job]);
    await fleet.work();
    const { tx, end } = await beginClient(file.url, isolation);
    const handle = await fleet.enqueue(job, { n: 3 }, { tx, key: `new-${isolation}` });
    await end('commit');
    expect(await handle.result({ timeoutMs: 10_000 })).toBe(3);
  });
});

describe('what is no transaction', () => {
  let otherUrl: string;
  let emptyUrl: string;
  beforeAll(async () => {
    const other = await createTestDatabase();
    otherUrl = other.url;
    const empty = new URL(file.url);
    empty.pathname = '/postgres';
    emptyUrl = empty.href;
    return () => other.drop();
  });

  async function inTransaction(url: string, statement = 'select 1'): Promise<pg.Client> {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    onTestFinished(() => client.end());
    await client.query('begin');
    await client.query(statement).catch(() => undefined);
    return client;
  }

  it.each<[string, () => unknown, RegExp]>([
    ['a Kysely instance', () => file.db, /Kysely instance/],
    ['a pool', () => file.pool, /pool/],
    ['a client outside of a transaction', () => connectedClient(), /no transaction is open/],
    ['an object', () => ({}), /neither/],
    ['null', () => null, /null/],
    ['a client of another fleet’s database', () => inTransaction(otherUrl), /not on the fleet's database/],
    ['a client of a database without jobs', () => inTransaction(emptyUrl), /not on the fleet's database/],
    ['an aborted transaction', () => inTransaction(file.url, 'select 1/0'), /aborted/],
    ['a read-only transaction', () => inTransaction(file.url, 'set transaction read only'), /read-only/],
    ['a client that was never connected', () => new pg.Client({ connectionString: file.url }), /not connected/],
    ['a client of something else', () => ({ query: async () => [] }), /does not answer/],
  ])('%s is refused, and nothing is enqueued', async (_what, make, message) => {
    const fleet = createTestFleet(file.url, [job]);
    const tx = (await make()) as CallerTransaction;
    await expect(fleet.enqueue(job, { n: 1 }, { tx, key: 'refused' })).rejects.toMatchObject({
      code: 'TRANSACTION_INVALID',
      message: expect.stringMatching(message),
    });
    expect((await fleet.find({ key: 'refused' })).jobs).toEqual([]);
  });

  it('a transaction on another database goes on after the refusal', async () => {
    const fleet = createTestFleet(file.url, [job]);
    const client = await inTransaction(emptyUrl);
    await expect(fleet.enqueue(job, { n: 1 }, { tx: client })).rejects.toMatchObject({ code: 'TRANSACTION_INVALID' });
    expect((await client.query('select 1 as one')).rows).toEqual([{ one: 1 }]);
  });

  it('an option that is none is refused by its name', async () => {
    const fleet = createTestFleet(file.url, [job]);
    const mistyped = { kye: 'k' } as object;
    await expect(fleet.enqueue(job, { n: 1 }, mistyped)).rejects.toMatchObject({
      code: 'INPUT_INVALID',
      details: { issues: [{ path: 'kye' }] },
    });
  });

  it('a client that was refused is as usable as before', async () => {
    const fleet = createTestFleet(file.url, [job]);
    const client = await connectedClient();
    await expect(fleet.enqueue(job, { n: 1 }, { tx: client })).rejects.toMatchObject({ code: 'TRANSACTION_INVALID' });
    // BEGIN is on its way: what the client believes of itself does not matter.
    void client.query('begin');
    expect((await fleet.enqueue(job, { n: 1 }, { tx: client })).outcome).toBe('created');
    await client.query('rollback');
  });
});

async function connectedClient(): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: file.url });
  await client.connect();
  onTestFinished(() => client.end());
  return client;
}

describe('after the commit', () => {
  it('a part that a savepoint took back never was, and the rest runs', async () => {
    const fleet = createTestFleet(file.url, [job]);
    await fleet.work();
    const { tx, run, end } = await beginClient(file.url);
    const kept = await fleet.enqueue(job, { n: 1 }, { tx });
    await run('savepoint s');
    const lost = await fleet.enqueue(job, { n: 2 }, { tx });
    await run('rollback to savepoint s');
    await end('commit');
    expect(await kept.result({ timeoutMs: 10_000 })).toBe(1);
    expect([await exists(lost.id), await inRedis(fleet, lost.id)]).toEqual([false, false]);
  });

  it('of a process that died before it could dispatch, the reconciler of another dispatches', async () => {
    const fleet = createTestFleet(file.url, [job]);
    const { tx, end } = await beginClient(file.url);
    const id = await enqueueAndDie(tx, 'died');
    await end('commit');
    // The walk over all waiting jobs would find it too, in its turn: the outbox must not leave it to that.
    const noted = file.db.selectFrom('dispatch_outbox').select('job_id').where('job_id', '=', id);
    expect(await noted.execute()).toEqual([{ job_id: id }]);
    // So long ago that no look at recent rows finds it.
    await backdateJob(file.db, id, 3_600_000);
    await fleet.work();
    expect(await fleet.result(id, { timeoutMs: 10_000 })).toBe(1);
    await expect.poll(outboxSize).toBe(0);
  });

  it('a fleet that closes at once has dispatched', async () => {
    const prefix = uniquePrefix();
    const short = createTestFleet(file.url, [job], { prefix });
    const { tx, end } = await beginClient(file.url);
    const handle = await short.enqueue(job, { n: 1 }, { tx });
    await end('commit');
    await short.close();
    const other = createTestFleet(file.url, [job], { prefix });
    expect(await inRedis(other, handle.id)).toBe(true);
  });

  it.each(['lives', 'closes at once'])(
    'while the process that reconciles is frozen: a job runs, of a fleet that %s',
    async (fate) => {
      const prefix = uniquePrefix();
      await sql`delete from oncefleet.reconciler_rounds`.execute(file.db);
      const frozen = await startDoomed({
        databaseUrl: file.url,
        prefix,
        role: 'reconciler',
        point: 'reconcile.locked',
        signal: 'SIGSTOP',
      });
      await frozen.stopped();
      // The next round of any other would be in minutes.
      const worker = createTestFleet(file.url, [job], { prefix, reconcileMs: 600_000 });
      await worker.work();
      const fleet = createTestFleet(file.url, [job], { prefix });
      const { tx, end } = await beginClient(file.url);
      const { id } = await fleet.enqueue(job, { n: 1 }, { tx });
      await end('commit');
      if (fate === 'closes at once') await fleet.close();
      expect(await worker.result(id, { timeoutMs: 10_000 })).toBe(1);
    },
  );

  it('many transactions at once are each dispatched', async () => {
    const fleet = createTestFleet(file.url, [job], { reconcileMs: 600_000, concurrency: 50 });
    await fleet.work();
    const pool = new pg.Pool({ connectionString: file.url, max: 8 });
    onTestFinished(() => pool.end());
    const handles = await Promise.all(
      Array.from({ length: 100 }, async (_, n) => {
        const client = await pool.connect();
        await client.query('begin');
        const handle = await fleet.enqueue(job, { n }, { tx: client });
        await client.query(n % 10 === 0 ? 'rollback' : 'commit');
        client.release();
        return handle;
      }),
    );
    const kept = handles.filter((_, n) => n % 10 !== 0);
    const results = await Promise.all(kept.map((handle) => handle.result({ timeoutMs: 15_000 })));
    expect(results).toEqual(Array.from({ length: 100 }, (_, n) => n).filter((n) => n % 10 !== 0));
    await expect.poll(outboxSize).toBe(0);
  });

  it.skipIf(pgbouncer === undefined)('through PgBouncer in transaction mode it runs too', async () => {
    const bouncer = await startPgBouncer(pgbouncer as string, file.url);
    onTestFinished(() => bouncer.stop());
    const fleet = createTestFleet(bouncer.url, [job], { reconcileMs: 600_000 });
    await fleet.work();
    const { tx, end } = await beginClient(bouncer.url);
    const handle = await fleet.enqueue(job, { n: 9 }, { tx, key: 'bounced' });
    expect((await fleet.enqueue(job, { n: 9 }, { tx, key: 'bounced' })).outcome).toBe('attached');
    await end('commit');
    expect(await handle.result({ timeoutMs: 10_000 })).toBe(9);
  });
});

describe('a result that is waited for', () => {
  const timeoutMs = 10_000;

  it('before the commit comes after it', async () => {
    const fleet = createTestFleet(file.url, [job]);
    await fleet.work();
    const { tx, end } = await beginClient(file.url);
    const handle = await fleet.enqueue(job, { n: 5 }, { tx });
    const result = handle.result({ timeoutMs });
    // The transaction is open: the wait ends at its limit, and is tried again.
    await expect(handle.result({ timeoutMs: 100 })).rejects.toMatchObject({ code: 'WAIT_TIMEOUT' });
    await end('commit');
    expect(await result).toBe(5);
  });

  it.each([
    ['before', 'made'],
    ['before', 'attached'],
    ['after', 'made'],
    ['after', 'attached'],
  ] as const)('from %s the rollback ends with an error (of the handle that %s)', async (when, which) => {
    const fleet = createTestFleet(file.url, [job]);
    const { tx, end } = await beginClient(file.url);
    const options = { tx, key: `never-${when}-${which}` };
    const made = await fleet.enqueue(job, { n: 1 }, options);
    const attached = await fleet.enqueue(job, { n: 1 }, options);
    expect(attached).toMatchObject({ id: made.id, outcome: 'attached' });
    const handle = { made, attached }[which];
    if (when === 'after') await end('rollback');
    const wait = handle.result({ timeoutMs }).catch((error: Error) => error);
    if (when === 'before') {
      // It has looked while the transaction was open.
      await expect(handle.result({ timeoutMs: 100 })).rejects.toMatchObject({ code: 'WAIT_TIMEOUT' });
      await end('rollback');
    }
    expect(await wait).toMatchObject({ code: 'JOB_NOT_FOUND', message: expect.stringContaining('was rolled back') });
  });

  it('of a part that a savepoint took back ends with an error once the rest is committed', async () => {
    const fleet = createTestFleet(file.url, [job]);
    await fleet.work();
    const { tx, run, end } = await beginClient(file.url);
    const kept = await fleet.enqueue(job, { n: 1 }, { tx });
    await run('savepoint s');
    const lost = await fleet.enqueue(job, { n: 2 }, { tx });
    await run('rollback to savepoint s');
    const waits = Promise.allSettled([kept.result({ timeoutMs }), lost.result({ timeoutMs })]);
    await end('commit');
    expect(await waits).toMatchObject([
      { status: 'fulfilled', value: 1 },
      { status: 'rejected', reason: { code: 'JOB_NOT_FOUND' } },
    ]);
  });

  it('ends with an error when its fleet is closed, also if it is waited for afterwards', async () => {
    const fleet = createTestFleet(file.url, [job]);
    const handle = await fleet.enqueue(job, { n: 1 });
    const wait = expect(handle.result()).rejects.toMatchObject({ code: 'SHUTTING_DOWN' });
    await fleet.close();
    await wait;
    await expect(handle.result()).rejects.toMatchObject({ code: 'SHUTTING_DOWN' });
  });
});

describe('a process that closes with many commits to dispatch', () => {
  const MANY = 1_200;

  /** An outbox that watches so many jobs, whose transaction has just committed. */
  async function watchMany(dispatch: (row: DispatchRow) => Promise<boolean>): Promise<Outbox> {
    const runtime = new Runtime({ databaseUrl: file.url, redisUrl: testRedisUrl(), prefix: uniquePrefix() });
    onTestFinished(async () => {
      await runtime.close();
      await file.pool.query('delete from oncefleet.dispatch_outbox');
      await file.pool.query("delete from oncefleet.jobs where queue = 'many'");
      await file.pool.query(
        'delete from oncefleet.unfinished_jobs u where not exists (select from oncefleet.jobs where id = u.job_id)',
      );
    });
    const dispatcher = { dispatch } as unknown as Dispatcher;
    const outbox = new Outbox({ db: file.db, log: runtime.log, dispatcher, committed: async () => undefined });
    const client = await file.pool.connect();
    await client.query('begin');
    const inserted = await client.query<{ id: string; xid: string }>(
      `with job as (
         insert into oncefleet.jobs (id, tenant, name, queue, fingerprint, options, run_at, input)
         select gen_random_uuid(), 'default', 'many', 'many', '', '{"priority":0,"attempts":1}', now(), '{}'
         from generate_series(1, ${MANY}) returning id
       ), unfinished as (insert into oncefleet.unfinished_jobs (job_id, run_at) select id, now() from job
       ), outbox as (insert into oncefleet.dispatch_outbox (job_id) select id from job)
       select id, pg_current_xact_id()::text as xid from job`,
    );
    const options = { priority: 0, attempts: 1, backoff: { type: 'fixed', delayMs: 0 } } as const;
    for (const { id, xid } of inserted.rows)
      outbox.watch(xid, { id, tenant: 'default', name: 'many', queue: 'many', key: null, options, delayMs: 0 });
    await client.query('commit');
    client.release();
    return outbox;
  }

  it('locks no more of them at a time than a batch, and is closed once all are dispatched', async () => {
    const dispatching = Promise.withResolvers<void>();
    const held = Promise.withResolvers<void>();
    const dispatched = new Set<string>();
    const outbox = await watchMany(async (row) => {
      dispatching.resolve();
      await held.promise;
      dispatched.add(row.id);
      return true;
    });
    let closes = 0;
    const closed = Promise.all([1, 2].map(() => outbox.close().then(() => closes++)));
    await dispatching.promise;
    const free = await file.pool.query('select job_id from oncefleet.dispatch_outbox for update skip locked');
    expect(MANY - free.rows.length).toBe(500);
    expect(closes).toBe(0);
    held.resolve();
    await closed;
    expect(dispatched.size).toBe(MANY);
    expect(await outboxSize()).toBe(0);
  });

  it('leaves what Redis refuses to the reconciler, after one batch', async () => {
    let tries = 0;
    const outbox = await watchMany(async () => {
      tries++;
      return false;
    });
    await outbox.close();
    expect(tries).toBe(500);
    expect(await outboxSize()).toBe(MANY);
  });
});

describe('in the fenced transaction of a run', () => {
  it('a follow-up job is enqueued once, with the effects of the attempt that commits', async () => {
    const first = defineJob({
      name: 'first',
      input: z.object({}),
      backoff: { type: 'fixed', delayMs: 0 },
      async run(_input, ctx) {
        return ctx.transaction(async (trx) => {
          const next = await fleet.enqueue(job, { n: ctx.attempt }, { tx: trx });
          if (ctx.attempt === 1) throw new Error('rolled back');
          return next.id;
        });
      },
    });
    const fleet = createTestFleet(file.url, [first, job]);
    await fleet.work();
    const handle = await fleet.enqueue(first, {});
    const id = (await handle.result({ timeoutMs: 10_000 })) as string;
    expect(await fleet.result(id, { timeoutMs: 10_000 })).toBe(2);
    const all = await file.db
      .selectFrom('jobs')
      .select('id')
      .where('created_at', '>=', (await rowOf(file.db, handle.id)).created_at)
      .where('name', '=', 'job')
      .execute();
    expect(all).toEqual([{ id }]);
  });
});

describe('with Redis away or silent', () => {
  it('a commit is dispatched when Redis is back', async () => {
    const { redis, stop } = await startTestRedis();
    onTestFinished(stop);
    const fleet = createTestFleet(file.url, [job], { redisUrl: redis.url });
    await fleet.work();
    await redis.stop();
    const { tx, end } = await beginClient(file.url);
    const handle = await fleet.enqueue(job, { n: 4 }, { tx });
    await end('commit');
    await redis.start();
    expect(await handle.result({ timeoutMs: 20_000 })).toBe(4);
  });

  it('an enqueue is held up once and shortly, and what Redis did not take runs when it answers', async () => {
    const { redis, stop } = await startTestRedis();
    onTestFinished(stop);
    const { proxy, url } = await proxied(redis.url);
    const fleet = createTestFleet(file.url, [job], { redisUrl: url });
    await fleet.work();
    expect(await (await fleet.enqueue(job, { n: 0 })).result({ timeoutMs: 60_000 })).toBe(0);
    const usual = await medianMs(10, () => fleet.enqueue(job, { n: 0 }));
    proxy.set({ kind: 'hold' });
    const handles: Awaited<ReturnType<typeof fleet.enqueue>>[] = [];
    const meanwhile = await medianMs(40, async (n) => handles.push(await fleet.enqueue(job, { n: n + 1 })));
    // Each that waited for Redis would take half a second longer.
    expect(meanwhile - usual).toBeLessThan(250);
    expect(await outboxSize()).toBeGreaterThanOrEqual(39);
    proxy.set({ kind: 'open' });
    const results = await Promise.all(handles.map((handle) => handle.result({ timeoutMs: 20_000 })));
    expect(results).toEqual(Array.from({ length: 40 }, (_, i) => i + 1));
  });
});
