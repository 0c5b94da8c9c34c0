/** Commands in an environment whose sessions of Postgres break what a fleet does. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createTestDatabase, type TestDatabase, testRedisUrl, uniquePrefix } from '../helpers/services.ts';
import { withOptions } from '../helpers/sessions.ts';
import { runCli } from './run-cli.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(() => database.drop());

const run = (args: string[], settings: Record<string, string>) =>
  runCli(args, {
    env: {
      DATABASE_URL: withOptions(database.url, settings),
      REDIS_URL: testRedisUrl(),
      ONCEFLEET_PREFIX: uniquePrefix(),
      PORT: '0',
    },
  });

it.each(['migrate', 'work', 'web', 'dev'])('%s ends with 4, and says which setting to change', async (command) => {
  const ended = await run([command], { default_transaction_read_only: 'on', statement_timeout: '200' });
  expect(ended.code).toBe(4);
  expect(ended.stderr).toMatch(/POSTGRES_UNUSABLE: .*default_transaction_read_only is on .*statement_timeout is 200 /s);
});

it('doctor lists it, and ends with 8', async () => {
  const ended = await run(['doctor'], { statement_timeout: '900' });
  expect(ended.code).toBe(8);
  expect(ended.stdout).toMatch(/postgres-settings\n {2}statement_timeout is 900 /);
});
