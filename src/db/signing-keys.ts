/** Queries of `signing_keys`: what tickets are signed with. */
import { randomBytes } from 'node:crypto';
import { type Kysely, sql } from 'kysely';
import type { Database } from './schema.ts';

const KEY_BYTES = 32;
/** After this time another key signs. */
const SIGNS_MS = 86_400_000;
/** Longer than any ticket lives after its key has stopped signing. */
const CHECKS_MS = 2 * SIGNS_MS;

export interface SigningKey {
  id: number;
  secret: Buffer;
}

/** Those that check, the youngest first. Where none is young enough to sign, a new one is made and old ones go. */
export async function findSigningKeys(db: Kysely<Database>): Promise<SigningKey[]> {
  const find = () =>
    sql<SigningKey & { signs: boolean }>`
      select id, secret, created_at > clock_timestamp() - ${SIGNS_MS} * interval '1 ms' as signs
      from oncefleet.signing_keys where created_at > clock_timestamp() - ${CHECKS_MS} * interval '1 ms'
      order by created_at desc, id desc`.execute(db);
  const found = await find();
  if (found.rows[0]?.signs === true) return found.rows;
  // Two processes may do so at once: there are two keys then, and both check.
  await sql`insert into oncefleet.signing_keys (secret) values (${randomBytes(KEY_BYTES)}::bytea)`.execute(db);
  await sql`
    delete from oncefleet.signing_keys
    where created_at <= clock_timestamp() - ${CHECKS_MS} * interval '1 ms'`.execute(db);
  return (await find()).rows;
}
