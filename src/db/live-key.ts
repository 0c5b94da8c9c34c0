/** The key that the processes of a fleet seal live messages with. */
import { randomBytes } from 'node:crypto';
import type { Kysely } from 'kysely';
import type { Database } from './schema.ts';

const KEY_BYTES = 32;

/** Makes it, if no process has yet. */
export async function findLiveKey(db: Kysely<Database>): Promise<Buffer> {
  const find = () => db.selectFrom('live_key').select('secret').executeTakeFirst();
  const found = await find();
  if (found !== undefined) return found.secret;
  await db
    .insertInto('live_key')
    .values({ secret: randomBytes(KEY_BYTES) })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
  const { secret } = (await find()) as { secret: Buffer };
  return secret;
}
