/** Queries of `conversations` and `messages`. */
import { type Kysely, sql, type Transaction } from 'kysely';
import type { Database } from './schema.ts';

export interface Message {
  role: 'user' | 'assistant';
  content: string;
}

/** The newest messages, oldest first, without those of one job: a retried answer must not read itself. */
export async function findNewestMessages(
  db: Kysely<Database>,
  tenant: string,
  conversationId: string,
  options: { exceptJobId: string; limit: number },
): Promise<Message[]> {
  const rows = await db
    .selectFrom('messages')
    .select(['role', 'content'])
    .where('tenant', '=', tenant)
    .where('conversation_id', '=', conversationId)
    .where('job_id', '<>', options.exceptJobId)
    .orderBy('id', 'desc')
    .limit(options.limit)
    .execute();
  return rows.reverse();
}

/** A job's question and answer, made part of the conversation; done again, they replace themselves. */
export async function upsertExchange(
  trx: Transaction<Database>,
  exchange: { tenant: string; conversationId: string; jobId: string; question: string; answer: string },
): Promise<void> {
  const { tenant, conversationId, jobId } = exchange;
  await trx
    .insertInto('conversations')
    .values({ tenant, id: conversationId })
    .onConflict((oc) => oc.doNothing())
    .execute();
  await trx
    .insertInto('messages')
    .values([
      { tenant, conversation_id: conversationId, job_id: jobId, role: 'user', content: exchange.question },
      { tenant, conversation_id: conversationId, job_id: jobId, role: 'assistant', content: exchange.answer },
    ])
    .onConflict((oc) =>
      oc
        .columns(['job_id', 'role'])
        .doUpdateSet({ content: (eb) => eb.ref('excluded.content'), created_at: sql<Date>`clock_timestamp()` }),
    )
    .execute();
}
