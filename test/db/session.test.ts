/** What a role, a database or PGOPTIONS set for sessions: it does not matter, or it is refused by name. */
import { sql } from 'kysely';
import { describe, expect, it, onTestFinished } from 'vitest';
import { createDb } from '../../src/db/client.ts';
import { migrate } from '../../src/db/migrate.ts';
import { findSessionProblems } from '../../src/db/session.ts';
import { dropDatabase, execute } from '../../src/testing/services/databases.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { createTestFleet } from '../helpers/fleet.ts';
import { createEmptyDatabase } from '../helpers/services.ts';
import { exerciseFleet, setForDatabase, withOptions } from '../helpers/sessions.ts';

const file = useDatabase();

function open(url: string) {
  const db = createDb({ url, maxConnections: 2, applicationName: 'session test', onError: () => undefined });
  onTestFinished(() => db.close());
  return db.kysely;
}

/** A database without tables. */
async function emptyDatabase(): Promise<string> {
  const database = await createEmptyDatabase();
  onTestFinished(() => database.drop());
  return database.url;
}

describe('a fleet works', () => {
  it('where the database has DateStyle German', async () => {
    await setForDatabase(file.url, 'DateStyle', "'German'");
    await exerciseFleet(file.url);
  });

  it('where the role has DateStyle SQL, DMY', async () => {
    const role = `german_${process.pid}`;
    await execute(file.url, `create role ${role} login superuser password 'german'`);
    onTestFinished(async () => {
      await execute(file.url, `drop role ${role}`);
    });
    await execute(file.url, `alter role ${role} set DateStyle = 'SQL, DMY'`);
    const url = new URL(file.url);
    url.username = role;
    url.password = 'german';
    await exerciseFleet(url.href);
  });

  it('where PGOPTIONS has DateStyle Postgres', () => exerciseFleet(withOptions(file.url, { DateStyle: 'Postgres' })));
});

/** A setting, a value of it as in SQL, and what the refusal says. */
const REFUSED: [string, string, RegExp][] = [
  [
    'default_transaction_read_only',
    'on',
    /read_only is on \(set by ALTER DATABASE\): .*alter role "\w+" set \w+ = off/,
  ],
  ['default_transaction_isolation', "'serializable'", /isolation is serializable \(.*set \w+ = 'read committed'/],
  ['default_transaction_isolation', "'repeatable read'", /isolation is repeatable read/],
  ['statement_timeout', '999', /statement_timeout is 999 .*1000 ms is the least/],
  ['transaction_timeout', '500', /transaction_timeout is 500/],
  ['extra_float_digits', '-1', /extra_float_digits is -1 .*rounded/],
  ['array_nulls', 'off', /array_nulls is off/],
];

describe('a setting that breaks what a fleet does is refused by name', () => {
  it.each(REFUSED)('%s = %s', async (setting, value, says) => {
    const { rows } = await sql`select from pg_settings where name = ${setting}`.execute(file.db);
    // `transaction_timeout` came with Postgres 17.
    if (rows.length === 0) return;
    const empty = await emptyDatabase();
    await setForDatabase(empty, setting, value);
    await expect(migrate(open(empty))).rejects.toMatchObject({
      code: 'POSTGRES_UNUSABLE',
      message: expect.stringMatching(says),
      details: { problems: [{ setting }] },
    });
    expect((await execute(empty, "select from pg_namespace where nspname = 'oncefleet'")).rows).toEqual([]);

    await setForDatabase(file.url, setting, value);
    const fleet = createTestFleet(file.url, []);
    await expect(fleet.work()).rejects.toMatchObject({ code: 'POSTGRES_UNUSABLE' });
    const { findings } = await fleet.doctor({ lookAgainMs: 0 });
    expect(findings).toContainEqual(
      expect.objectContaining({ kind: 'postgres-settings', message: expect.stringContaining(setting) }),
    );
  });

  it.each(['LATIN1', 'SQL_ASCII'])('a database in %s', async (encoding) => {
    const server = new URL(file.url);
    server.pathname = '/postgres';
    const name = `odd_${process.pid}_${encoding.toLowerCase()}`;
    await execute(server.href, `create database ${name} encoding '${encoding}' locale 'C' template template0`);
    onTestFinished(() => dropDatabase(server.href, name));
    const url = new URL(server);
    url.pathname = `/${name}`;
    await expect(migrate(open(url.href))).rejects.toMatchObject({
      code: 'POSTGRES_UNUSABLE',
      message: expect.stringMatching(new RegExp(`encoded in ${encoding}.*encoding 'UTF8' template template0`)),
    });
    expect((await execute(url.href, "select from pg_namespace where nspname = 'oncefleet'")).rows).toEqual([]);
  });

  it('all that is wrong is named at once, with where it comes from', async () => {
    const url = withOptions(file.url, { statement_timeout: '50', array_nulls: 'off' });
    const problems = await findSessionProblems(open(url));
    expect(problems.map(({ setting }) => setting).sort()).toEqual(['array_nulls', 'statement_timeout']);
    for (const { message, remedy } of problems) {
      expect(message).toContain('PGOPTIONS');
      expect(remedy).toMatch(/^Take it out there, or set it to/);
    }
  });
});

describe('a search_path that names a schema before pg_catalog', () => {
  it('is refused where that has a function, table, type or operator of Postgres, which are named', async () => {
    const url = await emptyDatabase();
    await execute(
      url,
      `create schema decoy;
       create function decoy.clock_timestamp() returns timestamptz language sql as $$ select 'epoch'::timestamptz $$;
       create table decoy.pg_stat_activity (pid int);
       create domain decoy.uuid as text;
       create function decoy.equal(int, int) returns bool language sql as 'select true';
       create operator decoy.= (leftarg = int, rightarg = int, function = decoy.equal)`,
    );
    const decoyed = withOptions(url, { search_path: 'decoy,pg_catalog' });
    const [problem, ...others] = await findSessionProblems(open(decoyed));
    expect(others).toEqual([]);
    expect(problem?.setting).toBe('search_path');
    for (const name of ['decoy.clock_timestamp', 'decoy.pg_stat_activity', 'decoy.uuid', 'decoy.='])
      expect(problem?.message).toContain(name);
    await expect(migrate(open(decoyed))).rejects.toMatchObject({ code: 'POSTGRES_UNUSABLE' });
    // Behind pg_catalog they take nothing's place.
    expect(await findSessionProblems(open(withOptions(url, { search_path: 'decoy' })))).toEqual([]);
  });

  it('is none where that has names of its own, and other arguments', async () => {
    const url = await emptyDatabase();
    await execute(
      url,
      `create schema decoy; create table decoy.jobs (mine int);
       create function decoy.length(decoy.jobs) returns int language sql as 'select 1'`,
    );
    expect(await findSessionProblems(open(withOptions(url, { search_path: 'decoy,pg_catalog' })))).toEqual([]);
  });
});

describe('migrations', () => {
  it('take as long as they take, and put back what a caller had set', async () => {
    const db = open(await emptyDatabase());
    await db.transaction().execute(async (trx) => {
      await sql`set local statement_timeout = '7s'`.execute(trx);
      expect((await migrate(trx)).length).toBeGreaterThan(0);
      expect((await sql`show statement_timeout`.execute(trx)).rows).toEqual([{ statement_timeout: '7s' }]);
    });
  });

  it('are not kept from what they need by a statement_timeout of the role', async () => {
    const url = await emptyDatabase();
    await execute(
      url,
      `create function slow() returns event_trigger language plpgsql as $$ begin perform pg_sleep(1.1); end $$;
       create event trigger slow on ddl_command_end when tag in ('CREATE VIEW') execute function slow()`,
    );
    await setForDatabase(url, 'statement_timeout', "'1s'");
    expect((await migrate(open(url))).length).toBeGreaterThan(0);
  });
});
