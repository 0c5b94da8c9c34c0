/**
 * Queues that somebody has paused: Redis keeps a pause in one field, which a flush takes away.
 *
 * A new table only, so no locks on anything in use and no backfill: a queue that is paused in Redis
 * is noted by the next round of the reconciler.
 */
import { type Kysely, sql } from 'kysely';

// biome-ignore lint/suspicious/noExplicitAny: a migration must not follow later changes of the schema types.
export async function up(db: Kysely<any>): Promise<void> {
  await sql`
    create table paused_queues (
      prefix text not null,
      queue text not null,
      id uuid not null,
      paused_at timestamptz not null default clock_timestamp(),
      paused_by text not null,
      primary key (prefix, queue)
    )`.execute(db);
  await sql`comment on table paused_queues is 'BullMQ queues that are paused; Redis is brought in line with it'`.execute(
    db,
  );
  for (const [column, comment] of [
    ['prefix', 'what BullMQ puts before the keys of the queue'],
    ['queue', 'name of the queue'],
    ['id', 'names this pause; the queue has it in Redis too, which tells a resume from a flush'],
    ['paused_at', 'when it was paused, or first seen paused'],
    ['paused_by', 'what paused it: bull-board with its user, a program, or bullmq (another client, found in Redis)'],
  ])
    await sql`comment on column ${sql.ref(`paused_queues.${column}`)} is ${sql.lit(comment)}`.execute(db);
}

// biome-ignore lint/suspicious/noExplicitAny: as above.
export async function down(db: Kysely<any>): Promise<void> {
  await db.schema.dropTable('paused_queues').execute();
}
