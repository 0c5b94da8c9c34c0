/**
 * Keyed limits: how many jobs of a key run at once and how many start in a time, decided at the claim.
 *
 * New tables, and two columns of `jobs` that need no rewrite: one is null, the other has a constant default.
 * Existing rows have no keys, so no limit of a definition holds for them; those of tenants hold at once.
 */
import { type Kysely, sql } from 'kysely';

const COMMENTS = {
  jobs: {
    limit_keys:
      'keys of its limits, a JSON array of texts, computed at its enqueue; null: its definition has no limits',
    limited_count: 'claims that met a limit: the job went back and waits for a place',
  },
  limits: {
    '': 'limits of job definitions, as the worker that was started last defines them',
    name: 'what keys of this limit begin with; a slash follows in the key',
    concurrency: 'jobs of one key that may run at once; null: any number',
    rate_max: 'jobs of one key that may start within rate_per_ms; null: any number',
    rate_per_ms: 'length of the window of rate_max, in milliseconds',
    updated_at: 'when it was last changed',
  },
  tenant_limits: {
    '': 'what an operator grants each tenant; a tenant without a row has no limit and a weight of 1',
    tenant: 'whose',
    concurrency: 'jobs of the tenant that may run at once; null: any number',
    rate_max: 'jobs of the tenant that may start within rate_per_ms; null: any number',
    rate_per_ms: 'length of the window of rate_max, in milliseconds',
    weight: 'share of a queue beside other tenants that wait there; null: 1',
    updated_at: 'when it was last changed',
  },
  limit_keys: {
    '': 'one row a key of a limit; claims of a key take turns by locking it',
    key: 'name of the limit, a slash, and the key; @tenant/ and @queue/ stand for tenants and queues',
    paused_until: 'no job of the key starts before; null: not paused',
  },
  limit_places: {
    '': 'starts of jobs under a key; one is taken up as long as its job has a live lease, or the window of the rate has it',
    key: 'of limit_keys',
    job_id: 'of jobs',
    fence: 'of the claim',
    started_at: 'when it was claimed',
  },
  limit_waits: {
    '': 'jobs that wait for a place under a key, in the order they are woken',
    job_id: 'of jobs',
    key: 'the key whose limit the job met',
    priority: 'of the job; lower is woken first',
    since: 'when it met a limit for the first time since it last ran',
    woken_at: 'when a place was kept for it and BullMQ told to deliver it; null: it waits',
  },
} as const;

// biome-ignore lint/suspicious/noExplicitAny: a migration must not follow later changes of the schema types.
export async function up(db: Kysely<any>): Promise<void> {
  await sql`alter table jobs add column limit_keys text, add column limited_count integer not null default 0`.execute(
    db,
  );
  await sql`
    create table limits (
      name text primary key,
      concurrency integer,
      rate_max integer,
      rate_per_ms float8,
      updated_at timestamptz not null default clock_timestamp()
    )`.execute(db);
  await sql`
    create table tenant_limits (
      tenant text primary key,
      concurrency integer check (concurrency > 0),
      rate_max integer check (rate_max > 0),
      rate_per_ms float8 check (rate_per_ms > 0),
      weight float8 check (weight > 0 and weight < 'infinity'),
      updated_at timestamptz not null default clock_timestamp(),
      check ((rate_max is null) = (rate_per_ms is null))
    )`.execute(db);
  await sql`create table limit_keys (key text primary key, paused_until timestamptz)`.execute(db);
  await sql`
    create table limit_places (
      key text not null,
      job_id uuid not null,
      fence bigint not null,
      started_at timestamptz not null,
      primary key (key, job_id, fence)
    )`.execute(db);
  await sql`create index limit_places_by_start on limit_places (key, started_at)`.execute(db);
  await sql`
    create table limit_waits (
      job_id uuid primary key,
      key text not null,
      priority integer not null,
      since timestamptz not null,
      woken_at timestamptz
    )`.execute(db);
  await sql`create index limit_waits_asleep on limit_waits (key, priority, since) where woken_at is null`.execute(db);
  await sql`create index limit_waits_woken on limit_waits (key, woken_at) where woken_at is not null`.execute(db);
  for (const [table, comments] of Object.entries(COMMENTS)) {
    for (const [column, comment] of Object.entries(comments)) {
      if (column === '') await sql`comment on table ${sql.ref(table)} is ${sql.lit(comment)}`.execute(db);
      else await sql`comment on column ${sql.ref(`${table}.${column}`)} is ${sql.lit(comment)}`.execute(db);
    }
  }
}

// biome-ignore lint/suspicious/noExplicitAny: as above.
export async function down(db: Kysely<any>): Promise<void> {
  for (const table of ['limit_waits', 'limit_places', 'limit_keys', 'tenant_limits', 'limits'])
    await db.schema.dropTable(table).execute();
  await sql`alter table jobs drop column limit_keys, drop column limited_count`.execute(db);
}
