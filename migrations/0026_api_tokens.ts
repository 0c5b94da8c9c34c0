/**
 * Tokens of the API and sessions of the console, and the keys that tickets are signed with.
 *
 * New tables only, so no locks on anything in use and no backfill.
 */
import { type Kysely, sql } from 'kysely';

const COMMENTS = {
  api_tokens: {
    '': 'tokens of the API and sessions of the console; only their hashes',
    id: 'names it for people; no secret',
    kind: 'token: made by an operator, sent as a bearer token; session: made by a login, sent as a cookie',
    tenant: 'whose jobs it sees; null: those of all tenants (sessions of operators alone)',
    name: 'what it is for, in the words of the person who made it; of a session who logged in',
    token_hash: 'SHA-256 of the token, which has 256 random bits',
    scopes: 'enqueue, read, admin; admin has the others in it',
    granted_by: 'of a session: SHA-256 of the token that logged in; the session ends with it',
    created_at: 'when it was made',
    expires_at: 'not accepted from then on; null: no end',
    last_used_at: 'when it was last seen, to a minute',
    revoked_at: 'not accepted from then on',
  },
  signing_keys: {
    '': 'keys that tickets for streams are signed with; the youngest signs, the others check until their tickets have expired',
    id: 'named in each ticket',
    secret: 'random bytes; deleted, the tickets signed with it end within a minute',
    created_at: 'when it was made; a day later another one signs',
  },
} as const;

// biome-ignore lint/suspicious/noExplicitAny: a migration must not follow later changes of the schema types.
export async function up(db: Kysely<any>): Promise<void> {
  await sql`
    create table api_tokens (
      id uuid primary key,
      kind text not null check (kind in ('token', 'session')),
      tenant text,
      name text not null,
      token_hash bytea not null unique check (length(token_hash) = 32),
      scopes text[] not null check (scopes <@ array['enqueue', 'read', 'admin'] and cardinality(scopes) > 0),
      granted_by bytea,
      created_at timestamptz not null default clock_timestamp(),
      expires_at timestamptz,
      last_used_at timestamptz,
      revoked_at timestamptz,
      check ((kind = 'session') = (granted_by is not null)),
      check (kind = 'session' or tenant is not null)
    )`.execute(db);
  await sql`
    create table signing_keys (
      id integer generated always as identity primary key,
      secret bytea not null check (length(secret) >= 32),
      created_at timestamptz not null default clock_timestamp()
    )`.execute(db);
  for (const [table, columns] of Object.entries(COMMENTS))
    for (const [column, comment] of Object.entries(columns)) {
      const on = column === '' ? sql`table ${sql.ref(table)}` : sql`column ${sql.ref(`${table}.${column}`)}`;
      await sql`comment on ${on} is ${sql.lit(comment)}`.execute(db);
    }
}

// biome-ignore lint/suspicious/noExplicitAny: as above.
export async function down(db: Kysely<any>): Promise<void> {
  await db.schema.dropTable('signing_keys').execute();
  await db.schema.dropTable('api_tokens').execute();
}
