/** Every setting of a session that might matter, against everything a fleet does. */
import { describe, it, onTestFinished } from 'vitest';
import { execute } from '../../src/testing/services/databases.ts';
import { useDatabase } from '../helpers/fixtures.ts';
import { findProgram, startPgBouncer } from '../helpers/pgbouncer.ts';
import { exerciseFleet, setForDatabase } from '../helpers/sessions.ts';

const file = useDatabase();

/** A setting, and a value of it as in SQL. */
const HARMLESS: [string, string][] = [
  ['DateStyle', "'German'"],
  ['DateStyle', "'SQL, DMY'"],
  ['DateStyle', "'Postgres, YMD'"],
  ['IntervalStyle', "'sql_standard'"],
  ['IntervalStyle', "'iso_8601'"],
  ['TimeZone', "'America/St_Johns'"],
  ['TimeZone', "'Asia/Kathmandu'"],
  ['TimeZone', "'<+1234>-12:34'"],
  ['bytea_output', "'escape'"],
  ['extra_float_digits', '0'],
  ['standard_conforming_strings', 'off'],
  ['backslash_quote', 'off'],
  ['quote_all_identifiers', 'on'],
  ['transform_null_equals', 'on'],
  ['search_path', "''"],
  ['default_transaction_deferrable', 'on'],
  ['statement_timeout', "'1s'"],
  ['lock_timeout', "'250ms'"],
  ['idle_in_transaction_session_timeout', "'500ms'"],
  ['idle_session_timeout', "'400ms'"],
  ['transaction_timeout', "'2s'"],
  ['row_security', 'off'],
  ['client_encoding', "'LATIN1'"],
  ['default_text_search_config', "'pg_catalog.german'"],
  ['default_toast_compression', "'pglz'"],
  ['client_min_messages', "'debug5'"],
  ['plan_cache_mode', "'force_generic_plan'"],
  ['synchronous_commit', 'off'],
  ['track_activities', 'off'],
];

describe('a fleet works, whatever the database has set', () => {
  it.each(HARMLESS)('%s = %s', async (setting, value) => {
    const known = await execute(file.url, `select from pg_settings where name = '${setting}'`);
    // Some came with later versions of Postgres.
    if (known.rows.length === 0) return;
    await setForDatabase(file.url, setting, value);
    await exerciseFleet(file.url);
  });

  it('PGCLIENTENCODING', async () => {
    process.env.PGCLIENTENCODING = 'LATIN1';
    onTestFinished(() => {
      delete process.env.PGCLIENTENCODING;
    });
    await exerciseFleet(file.url);
  });
});

const program = findProgram('pgbouncer');

describe.skipIf(program === undefined)('through PgBouncer in transaction mode', () => {
  it.each<[string, string]>([
    ['DateStyle', "'German'"],
    ['TimeZone', "'America/St_Johns'"],
    ['standard_conforming_strings', 'off'],
    ['bytea_output', "'escape'"],
  ])('%s = %s of the database does not matter', async (setting, value) => {
    await setForDatabase(file.url, setting, value);
    const bouncer = await startPgBouncer(program as string, file.url);
    onTestFinished(() => bouncer.stop());
    await exerciseFleet(bouncer.url);
  });
});
