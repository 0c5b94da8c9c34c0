/** Queries of `api_tokens`: tokens of the API and sessions of the console, by their hashes. */
import { type Kysely, sql } from 'kysely';
import type { Database } from './schema.ts';

export const SCOPES = ['enqueue', 'read', 'admin'] as const;
export type Scope = (typeof SCOPES)[number];

export type TokenKind = 'token' | 'session';

interface NewToken {
  id: string;
  kind: TokenKind;
  tenant: string | null;
  name: string;
  hash: Buffer;
  scopes: readonly Scope[];
  /** Hash of the token that logged in. */
  grantedBy?: Buffer;
  /** From now, in milliseconds; Infinity: no end. */
  lifeMs: number;
}

/** Sessions that nobody will use again go when another is made. */
const KEEP_ENDED_SESSIONS_MS = 86_400_000;
/** How exact `last_used_at` is. */
const USED_MS = 60_000;

/** @returns when it expires */
export async function insertToken(db: Kysely<Database>, token: NewToken): Promise<Date | null> {
  const { id, kind, tenant, name, hash, scopes, grantedBy, lifeMs } = token;
  if (kind === 'session')
    await sql`
      delete from oncefleet.api_tokens where kind = 'session'
        and least(expires_at, revoked_at) < clock_timestamp() - ${KEEP_ENDED_SESSIONS_MS} * interval '1 ms'`.execute(
      db,
    );
  const { rows } = await sql<{ expires_at: Date | null }>`
    insert into oncefleet.api_tokens (id, kind, tenant, name, token_hash, scopes, granted_by, expires_at)
    values (${id}, ${kind}, ${tenant}, ${name}, ${hash}::bytea, ${[...scopes]}::text[], ${grantedBy ?? null}::bytea,
      case when ${String(lifeMs)}::float8 = 'infinity' then null
        else clock_timestamp() + ${String(lifeMs)}::float8 * interval '1 ms' end)
    returning expires_at`.execute(db);
  return rows[0]?.expires_at ?? null;
}

export interface FoundToken {
  id: string;
  kind: TokenKind;
  tenant: string | null;
  name: string;
  scopes: Scope[];
  granted_by: Buffer | null;
  /** Of itself, or of the token that logged in. */
  revoked: boolean;
  /** By the database's clock, in milliseconds; null: it has no end. */
  expires_in_ms: number | null;
  /** It was granted by a token in Postgres. */
  granted_here: boolean;
  /** Its last use is more than a minute ago. */
  used_due: boolean;
}

/** A session ends with the token that logged in. */
export async function findToken(db: Kysely<Database>, hash: Buffer): Promise<FoundToken | undefined> {
  const { rows } = await sql<FoundToken>`
    select t.id, t.kind, t.tenant, t.name, t.scopes, t.granted_by,
      (t.revoked_at is not null or p.revoked_at is not null) as revoked,
      p.id is not null as granted_here,
      extract(epoch from least(t.expires_at, p.expires_at) - clock_timestamp())::float8 * 1000 as expires_in_ms,
      coalesce(t.last_used_at < clock_timestamp() - ${USED_MS} * interval '1 ms', true) as used_due
    from oncefleet.api_tokens t left join oncefleet.api_tokens p on p.token_hash = t.granted_by
    where t.token_hash = ${hash}::bytea`.execute(db);
  return rows[0];
}

/** Notes the use of a token, unless another process has within the last minute. */
export async function noteUse(db: Kysely<Database>, id: string): Promise<void> {
  await sql`
    update oncefleet.api_tokens set last_used_at = clock_timestamp()
    where id = ${id} and coalesce(last_used_at < clock_timestamp() - ${USED_MS} * interval '1 ms', true)`.execute(db);
}

/** Tokens of a tenant or of all, the youngest first, without sessions. */
export async function listTokens(db: Kysely<Database>, tenant: string | undefined) {
  const tokens = db
    .selectFrom('api_tokens')
    .select(['id', 'tenant', 'name', 'scopes', 'created_at', 'expires_at', 'last_used_at', 'revoked_at'])
    .select(sql<boolean>`coalesce(expires_at <= clock_timestamp(), false)`.as('expired'))
    .where('kind', '=', 'token')
    .orderBy('created_at', 'desc')
    .orderBy('id', 'desc');
  return (tenant === undefined ? tokens : tokens.where('tenant', '=', tenant)).execute();
}

/** @returns whether there is such a token; one that was revoked before stays as it is */
export async function revokeToken(db: Kysely<Database>, id: string, kind: TokenKind): Promise<boolean> {
  const { numUpdatedRows } = await db
    .updateTable('api_tokens')
    .set({ revoked_at: sql<Date>`coalesce(revoked_at, clock_timestamp())` })
    .where('id', '=', id)
    .where('kind', '=', kind)
    .executeTakeFirst();
  return numUpdatedRows === 1n;
}
