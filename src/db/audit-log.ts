/** Queries of `audit_log`: what people have done in the console. */
import { type Kysely, sql } from 'kysely';
import type { Database } from './schema.ts';

export interface AuditEntry {
  actor: string;
  sessionId: string | null;
  tenant: string | null;
  action: 'cancel' | 'redrive' | 'redrive-many' | 'enqueue' | 'upload' | 'login' | 'logout';
  jobId: string | null;
  details: Record<string, unknown>;
}

/** Before the action: one that dies with its process is noted without an outcome. @returns its id */
export async function insertAudit(db: Kysely<Database>, entry: AuditEntry): Promise<number> {
  const { actor, sessionId, tenant, action, jobId, details } = entry;
  const { id } = await db
    .insertInto('audit_log')
    .values({ actor, session_id: sessionId, tenant, action, job_id: jobId, details: JSON.stringify(details) })
    .returning('id')
    .executeTakeFirstOrThrow();
  return id;
}

export async function finishAudit(db: Kysely<Database>, id: number, outcome: string): Promise<void> {
  await db.updateTable('audit_log').set({ outcome }).where('id', '=', id).execute();
}

/** What was done, the newest first: to a job, or at all. */
export async function findAudit(
  db: Kysely<Database>,
  { tenant, jobId, limit }: { tenant: string | null; jobId?: string | undefined; limit: number },
) {
  let query = db.selectFrom('audit_log').selectAll().orderBy('id', 'desc').limit(limit);
  if (tenant !== null) query = query.where(sql<boolean>`tenant is not distinct from ${tenant}`);
  if (jobId !== undefined) query = query.where('job_id', '=', jobId);
  return query.execute();
}
