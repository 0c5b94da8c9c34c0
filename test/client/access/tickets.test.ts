import { sql } from 'kysely';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Tickets } from '../../../src/client/access/tickets.ts';
import { createDb, type Db } from '../../../src/db/client.ts';
import { findSigningKeys } from '../../../src/db/signing-keys.ts';
import { createTestDatabase } from '../../helpers/services.ts';

let database: Awaited<ReturnType<typeof createTestDatabase>>;
let db: Db;
beforeAll(async () => {
  database = await createTestDatabase();
  db = createDb({ url: database.url, maxConnections: 4, applicationName: 'test', onError: () => {} });
});
afterAll(async () => {
  await db?.close();
  await database?.drop();
});

const ticket = { tenant: 'ac.me ü', jobId: '0190aaaa-0000-7000-8000-000000000000', expiresAt: Date.now() + 60_000 };
const aged = (hours: number) =>
  sql`update oncefleet.signing_keys set created_at = created_at - ${hours} * interval '1 hour'`.execute(db.kysely);

it('a key signs for a day, checks for another, and is then gone', async () => {
  const process = () => new Tickets(() => findSigningKeys(db.kysely));
  const first = await process().sign(ticket);
  expect(await process().check(first, ticket.jobId)).toEqual({ state: 'active', tenant: ticket.tenant });
  await aged(25);
  const second = await process().sign(ticket);
  expect(second.split('.')[0]).not.toBe(first.split('.')[0]);
  expect(await process().check(first, ticket.jobId)).toEqual({ state: 'active', tenant: ticket.tenant });
  await aged(25);
  await process().sign(ticket);
  expect(await process().check(first, ticket.jobId)).toEqual({ state: 'unknown' });
  expect(await process().check(second, ticket.jobId)).toEqual({ state: 'active', tenant: ticket.tenant });
});

it('while Postgres does not answer, tickets of known keys are checked, and without any key it says so', async () => {
  let gone = false;
  const find = async () => {
    if (gone) throw new Error('gone');
    return findSigningKeys(db.kysely);
  };
  const tickets = new Tickets(find);
  const text = await tickets.sign(ticket);
  gone = true;
  expect((await tickets.check(text, ticket.jobId)).state).toBe('active');
  await expect(new Tickets(find).check(text, ticket.jobId)).rejects.toThrow('gone');
});
