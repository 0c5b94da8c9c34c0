import { Client } from 'pg';
import { expect, it } from 'vitest';
import { codeIn, readPage, tableUnder } from '../helpers/markdown.ts';
import { createTestDatabase } from '../helpers/services.ts';

it('docs/reference/storage.md lists every table and view of the schema, and no other', async () => {
  const rows = tableUnder(readPage('docs/reference/storage.md'), '| table | |');
  const named = rows.flatMap(([names = '']) => codeIn(names));
  const database = await createTestDatabase();
  const client = new Client({ connectionString: database.url });
  try {
    await client.connect();
    const { rows: there } = await client.query(
      "select table_name as name from information_schema.tables where table_schema = 'oncefleet'",
    );
    expect(named.toSorted()).toEqual(there.map(({ name }) => name).toSorted());
  } finally {
    await client.end();
    await database.drop();
  }
});
