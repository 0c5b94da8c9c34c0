import type { Kysely } from 'kysely';
import type { Database } from '../../src/db/schema.ts';
import { foldStream } from '../../src/db/streams/fold.ts';

/** Folds a finished stream, as the sweep does. @throws Error it could not be folded */
export async function fold(db: Kysely<Database>, streamId: string): Promise<void> {
  if ((await foldStream(db, streamId)) === undefined) throw new Error(`stream ${streamId} was not folded`);
}
