import { Client } from 'pg';
import { expect, it } from 'vitest';
import { readPage } from '../helpers/markdown.ts';
import { createTestDatabase } from '../helpers/services.ts';

it('docs/reference/storage.md lists every table and view of the schema, and no other', async () => {
  const [, after = ''] = readPage('docs/reference/storage.md').split('| table | |\n');
  const [table = ''] = after.split('\n\n');
  const named = [...table.matchAll(/^\|([^|]+)\|/gm)].flatMap(([, cell = '']) =>
    [...cell.matchAll(/`(\w+)`/g)].map(([, name]) => name),
  );
  const database = await createTestDatabase();
  const client = new Client({ connectionString: database.url });
  try {
    await client.connect();
    const { rows } = await client.query(
      "select table_name as name from information_schema.tables where table_schema = 'oncefleet'",
    );
    expect(named.toSorted()).toEqual(rows.map(({ name }) => name).toSorted());
  } finally {
    await client.end();
    await database.drop();
  }
});
