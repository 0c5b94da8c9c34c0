/** Beside a user's own tables: one schema, its own bookkeeping, and no search_path that matters. */
import { Kysely, PostgresDialect, sql } from 'kysely';
import { type Migration, Migrator } from 'kysely/migration';
import pg from 'pg';
import { describe, expect, it, onTestFinished } from 'vitest';
import { z } from 'zod';
import { createDb } from '../../src/db/client.ts';
import { checkSchema, migrate, moveFromPublic } from '../../src/db/migrate.ts';
import { RELATIONS } from '../../src/db/own-schema.ts';
import { createBuiltinJobs, createFleet, defineJob, loadConfig } from '../../src/index.ts';
import { execute } from '../../src/testing/services/databases.ts';
import { findProgram, startPgBouncer } from '../helpers/pgbouncer.ts';
import { createEmptyDatabase, testRedisUrl, uniquePrefix } from '../helpers/services.ts';

async function emptyDatabase(): Promise<string> {
  const database = await createEmptyDatabase();
  onTestFinished(() => database.drop());
  return database.url;
}

function open(url: string, schema?: string) {
  const db = createDb({
    url,
    ...(schema === undefined ? {} : { schema }),
    maxConnections: 3,
    applicationName: 'schema test',
    onError: () => undefined,
  });
  onTestFinished(() => db.close());
  return db;
}

/** A connection whose role, or path, is another. */
function withOptions(url: string, options: Record<string, string>): string {
  const changed = new URL(url);
  const text = Object.entries(options).map(([name, value]) => `-c ${name}=${value}`);
  changed.searchParams.set('options', text.join(' '));
  return changed.href;
}

/** All that touches tables: keys, streams, retries, transactions, cancels, documents, upkeep. */
async function scenario(url: string, databaseSchema?: string): Promise<void> {
  const job = defineJob({
    name: 'work',
    input: z.object({ n: z.number() }),
    attempts: 2,
    backoff: { type: 'fixed', delayMs: 0 },
    lease: { ttlMs: 2_000 },
    async run({ n }, ctx) {
      for (let i = 0; i < 5; i++) await ctx.emit({ type: 'n', i });
      await ctx.checkpoint({ n });
      if (n === 1 && ctx.attempt === 1) throw new Error('once more');
      if (n === 2)
        return new Promise((_, reject) => ctx.signal.addEventListener('abort', () => reject(ctx.signal.reason)));
      await ctx.transaction((trx) => ctx.complete(trx, n));
    },
  });
  const builtin = createBuiltinJobs(loadConfig({ DATABASE_URL: url, REDIS_URL: testRedisUrl() }));
  const fleet = createFleet({
    databaseUrl: url,
    ...(databaseSchema === undefined ? {} : { databaseSchema }),
    redisUrl: testRedisUrl(),
    prefix: uniquePrefix(),
    jobs: [job, ...builtin],
    databasePoolSize: 4,
    reconcileMs: 200,
    shutdownMs: 100,
  });
  onTestFinished(() => fleet.close());
  await checkSchema(fleet.db);
  await fleet.work();
  const handles = await Promise.all([0, 1, 2].map((n) => fleet.enqueue(job, { n }, { key: `k${n}` })));
  const [first, retried, cancelled] = handles as [(typeof handles)[0], (typeof handles)[0], (typeof handles)[0]];
  expect(await first.result({ timeoutMs: 60_000 })).toBe(0);
  expect(await retried.result({ timeoutMs: 60_000 })).toBe(1);
  await expect.poll(async () => (await fleet.get(cancelled.id))?.status).toBe('running');
  await cancelled.cancel();
  await expect(cancelled.result({ timeoutMs: 60_000 })).rejects.toMatchObject({ code: 'CANCELLED' });
  expect((await fleet.enqueue(job, { n: 0 }, { key: 'k0' })).outcome).toBe('replayed');
  const seen: string[] = [];
  for await (const { event } of fleet.follow(retried.id)) seen.push(event.type);
  expect(seen.filter((type) => type === 'n')).toHaveLength(10);
  const ingest = await fleet.enqueue('ingest', {
    collection: 'notes',
    documents: [{ path: 'tea.md', content: '# Tea\n\nGreen tea wants 80 degrees.' }],
  });
  await ingest.result({ timeoutMs: 60_000 });
  const answer = await fleet.enqueue('answer', { collection: 'notes', question: 'How hot should green tea be?' });
  expect(JSON.stringify(await answer.result({ timeoutMs: 60_000 }))).toContain('80 degrees');
  // Of a caller whose path is its own.
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query('begin');
    await client.query('set local search_path to pg_temp');
    const inside = await fleet.enqueue(job, { n: 3 }, { key: 'tx', tx: client });
    await client.query('commit');
    expect(await inside.result({ timeoutMs: 60_000 })).toBe(3);
  } finally {
    await client.end();
  }
  expect((await fleet.doctor({ lookAgainMs: 0 })).findings.filter(({ count }) => count > 0)).toEqual([]);
  await fleet.sweep();
}

const HOSTILE = `
  create schema decoy;
  ${Object.keys(RELATIONS)
    .map((name) => `create table decoy.${name} (mine int)`)
    .join('; ')}`;

describe('the fleet works, whatever the search_path is', () => {
  it.each(['decoy', 'pg_temp', '"$user"', 'information_schema'])('%s', async (path) => {
    const url = await emptyDatabase();
    await execute(url, HOSTILE);
    await migrate(open(withOptions(url, { search_path: path })).kysely);
    await scenario(withOptions(url, { search_path: path }));
    for (const name of Object.keys(RELATIONS))
      expect((await execute(url, `select count(*)::int as n from decoy.${name}`)).rows).toEqual([{ n: 0 }]);
  });

  it('in a schema of another name', async () => {
    const url = await emptyDatabase();
    const path = withOptions(url, { search_path: 'pg_temp' });
    await migrate(open(path, '_my_jobs2').kysely);
    await scenario(path, '_my_jobs2');
    const { rows } = await execute(url, "select nspname from pg_namespace where nspname in ('oncefleet', '_my_jobs2')");
    expect(rows).toEqual([{ nspname: '_my_jobs2' }]);
  });

  it('as a role that may use one schema and make nothing else', async () => {
    const url = await emptyDatabase();
    const role = `limited_${process.pid}_${Date.now()}`;
    await execute(
      url,
      `create role ${role} login password 'x'; create schema oncefleet; grant usage, create on schema oncefleet to ${role};
       revoke all on schema public from public; revoke create, temp on database "${new URL(url).pathname.slice(1)}" from public`,
    );
    const limited = new URL(url);
    limited.username = role;
    limited.password = 'x';
    onTestFinished(async () => {
      await execute(url, `drop owned by ${role}; drop role ${role}`);
    });
    await migrate(open(limited.href).kysely);
    await scenario(limited.href);
  });

  it('a role that may not make the schema is told who can', async () => {
    const url = await emptyDatabase();
    const role = `powerless_${process.pid}_${Date.now()}`;
    await execute(url, `create role ${role} login password 'x'`);
    onTestFinished(async () => {
      await execute(url, `drop role ${role}`);
    });
    const limited = new URL(url);
    limited.username = role;
    limited.password = 'x';
    await expect(migrate(open(limited.href).kysely)).rejects.toMatchObject({
      code: 'SCHEMA_FORBIDDEN',
      message: expect.stringContaining('create schema if not exists oncefleet'),
    });
  });

  const bouncer = findProgram('pgbouncer');
  it.skipIf(bouncer === undefined)('behind PgBouncer in transaction mode, in a schema of another name', async () => {
    const url = await emptyDatabase();
    await migrate(open(url, 'elsewhere').kysely);
    const pooled = await startPgBouncer(bouncer as string, url);
    onTestFinished(() => pooled.stop());
    await scenario(pooled.url, 'elsewhere');
  });
});

describe('a handler’s own tables', () => {
  it('are what it means by their names, also where ours have the same', async () => {
    const url = await emptyDatabase();
    await migrate(open(url).kysely);
    // Of these servers the role is named as our schema is, and `"$user"` comes first in the path.
    await execute(url, 'create table public.jobs (note text); create table public.messages (note text)');
    const job = defineJob({
      name: 'notes',
      input: z.object({}),
      async run(_input, ctx) {
        await ctx.transaction(async (trx) => {
          await sql`insert into jobs (note) values ('raw')`.execute(trx);
          await trx
            .insertInto('messages' as never)
            .values({ note: 'built' } as never)
            .execute();
          await ctx.complete(trx, 'done');
        });
      },
    });
    const databaseUrl = withOptions(url, { search_path: 'public' });
    const fleet = createFleet({ databaseUrl, redisUrl: testRedisUrl(), prefix: uniquePrefix(), jobs: [job] });
    onTestFinished(() => fleet.close());
    await fleet.work();
    expect(await (await fleet.enqueue(job, {})).result({ timeoutMs: 60_000 })).toBe('done');
    expect(
      (await execute(url, 'select note from public.jobs union all select note from public.messages')).rows,
    ).toEqual([{ note: 'raw' }, { note: 'built' }]);
  });
});

describe('an app that migrates its own tables with Kysely', () => {
  const migrations: Record<string, Migration> = {
    '001_app': { up: (db) => sql`create table jobs (id int); create table messages (id int)`.execute(db) as never },
    '002_app': { up: (db) => sql`create table documents (id int)`.execute(db) as never },
  };
  const app = (url: string, names: string[]) => {
    const pool = new pg.Pool({ connectionString: withOptions(url, { search_path: 'public' }), max: 2 });
    // The database may be dropped before its connections have ended.
    pool.on('error', () => undefined);
    const db = new Kysely<never>({ dialect: new PostgresDialect({ pool }) });
    onTestFinished(() => db.destroy());
    const known = Object.fromEntries(names.map((name) => [name, migrations[name] as Migration]));
    return new Migrator({ db, provider: { getMigrations: async () => known } });
  };

  it.each(['ours first', 'the app first'])('lives in the same database: %s', async (order) => {
    const url = await emptyDatabase();
    const ours = () => migrate(open(url).kysely);
    const theirs = async (names: string[]) => {
      const { error, results } = await app(url, names).migrateToLatest();
      expect(error).toBeUndefined();
      return results?.map(({ migrationName }) => migrationName);
    };
    if (order === 'ours first') await ours();
    expect(await theirs(['001_app'])).toEqual(['001_app']);
    if (order !== 'ours first') expect((await ours()).length).toBeGreaterThan(5);
    expect(await theirs(['001_app', '002_app'])).toEqual(['002_app']);
    expect(await ours()).toEqual([]);
    await scenario(url);
  });

  it('two processes that migrate at once both find it migrated', async () => {
    const url = await emptyDatabase();
    const done = await Promise.all(Array.from({ length: 4 }, () => migrate(open(url).kysely)));
    expect(done.filter((applied) => applied.length > 0)).toHaveLength(1);
  });
});

describe('tables that an older release has made in public', () => {
  /** As a database of the last release: the tables in public, noted in Kysely's own table, maybe beside an app's. */
  async function oldInstallation(appToo: boolean): Promise<{ url: string; id: string }> {
    const url = await emptyDatabase();
    const db = open(url, 'public');
    await migrate(db.kysely);
    await execute(
      url,
      `create table kysely_migration (name varchar(255) primary key, timestamp varchar(255) not null);
       insert into kysely_migration select name, applied_at::text from applied_migrations;
       create table kysely_migration_lock (id varchar(255) primary key, is_locked integer not null default 0);
       drop table applied_migrations;
       ${appToo ? "insert into kysely_migration values ('001_app', 'now'); create table app (id int)" : ''}`,
    );
    const job = defineJob({ name: 'old', input: z.object({}), run: async (_i, ctx) => ctx.emit({ type: 'said' }) });
    const fleet = createFleet({
      databaseUrl: url,
      databaseSchema: 'public',
      redisUrl: testRedisUrl(),
      prefix: uniquePrefix(),
      jobs: [job],
    });
    await fleet.work();
    const handle = await fleet.enqueue(job, {}, { key: 'k' });
    await handle.result({ timeoutMs: 60_000 });
    await fleet.close();
    return { url, id: handle.id };
  }

  it.each([false, true])(
    'are moved with their data and their notes, and nothing else is; an app’s notes beside: %s',
    async (appToo) => {
      const { url, id } = await oldInstallation(appToo);
      const db = open(url);
      await expect(migrate(db.kysely)).rejects.toMatchObject({ code: 'SCHEMA_ELSEWHERE' });
      await expect(checkSchema(db.kysely)).rejects.toMatchObject({ code: 'SCHEMA_ELSEWHERE' });
      expect((await moveFromPublic(db.kysely)).length).toBe(Object.keys(RELATIONS).length + 1);
      expect(await moveFromPublic(db.kysely)).toEqual([]);
      expect(await migrate(db.kysely)).toEqual([]);
      const { rows } = await db.pool.query('select event::text from oncefleet.journal_events where stream_id = $1', [
        id,
      ]);
      expect(rows.map(({ event }) => JSON.parse(event).type)).toEqual(['said', 'end']);
      const left = await execute(
        url,
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r' order by 1",
      );
      expect(left.rows.map(({ relname }) => relname)).toEqual(
        appToo ? ['app', 'kysely_migration', 'kysely_migration_lock'] : [],
      );
      await scenario(url);
    },
  );

  it('that are the app’s own stay where they are', async () => {
    const url = await emptyDatabase();
    await execute(
      url,
      `create table kysely_migration (name text, timestamp text); insert into kysely_migration values ('0001_jobs_and_journal', 'now');
       create table jobs (id int)`,
    );
    const db = open(url);
    expect(await moveFromPublic(db.kysely)).toEqual([]);
    expect((await migrate(db.kysely)).length).toBeGreaterThan(5);
  });
});

describe('every table, view and column', () => {
  it('of the schema is known to the query builder’s list, and says what it is to people with psql', async () => {
    const url = await emptyDatabase();
    const db = open(url);
    await migrate(db.kysely);
    const { rows } = await db.pool.query<{ name: string; what: string | null; comment: string | null }>(`
      select c.relname as name, a.attname as what, col_description(c.oid, a.attnum) as comment
      from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
      where c.relnamespace = 'oncefleet'::regnamespace and c.relkind in ('r', 'v')
      union all
      select c.relname, null, obj_description(c.oid, 'pg_class') from pg_class c
      where c.relnamespace = 'oncefleet'::regnamespace and c.relkind in ('r', 'v')`);
    expect(rows.filter(({ comment }) => comment === null).map(({ name, what }) => `${name}.${what}`)).toEqual([]);
    const names = new Set(rows.map(({ name }) => name));
    expect([...names].toSorted()).toEqual(
      [...Object.keys(RELATIONS), 'applied_migrations', 'journal_events'].toSorted(),
    );
  });
});
