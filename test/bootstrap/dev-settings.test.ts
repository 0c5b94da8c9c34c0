import { spawnSync } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseEnv } from 'node:util';
import { expect, test } from 'vitest';
import { formatSettings } from '../../scripts/dev-settings.ts';
import { createTestFolder } from '../helpers/services.ts';

const SETTINGS = {
  DATABASE_URL: `postgres://me:a$b%20"c'd#e@127.0.0.1:5432/x?options=-c%20a&application_name=a;b`,
  REDIS_URL: 'redis://127.0.0.1:6379/0?a=$HOME&b=`c`',
  ONCEFLEET_PREFIX: 'oncefleet',
};

test('what npm run dev leaves for other terminals is the same to a shell, to Node and to the command line', async () => {
  const file = join(await createTestFolder(), 'dev.env');
  const text = formatSettings(SETTINGS);
  await writeFile(file, text);
  // An apostrophe in a URL is written as what it stands for.
  const expected = { ...SETTINGS, DATABASE_URL: SETTINGS.DATABASE_URL.replace("'", '%27') };
  expect(parseEnv(text)).toEqual(expected);
  const print = 'process.stdout.write(JSON.stringify(process.env))';
  const shell = spawnSync(
    '/bin/sh',
    ['-c', `set -a; . "$1"; set +a; exec "$2" -e '${print}'`, 'sh', file, process.execPath],
    {
      encoding: 'utf8',
      env: {},
    },
  );
  expect(shell.stderr).toBe('');
  expect(JSON.parse(shell.stdout)).toMatchObject(expected);
});
