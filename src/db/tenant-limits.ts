/** Queries on `tenant_limits`: what an operator grants each tenant. */
import { type Kysely, sql } from 'kysely';
import type { Database } from './schema.ts';

/** Tenants whose weight is read; more have the weight 1. */
const MAX_WEIGHTS = 10_000;

/** Weights of tenants that have another than 1. */
export async function findWeights(db: Kysely<Database>): Promise<Map<string, number>> {
  const rows = await db
    .selectFrom('tenant_limits')
    .select(['tenant', 'weight'])
    .where('weight', 'is not', null)
    .orderBy('tenant')
    .limit(MAX_WEIGHTS)
    .execute();
  return new Map(rows.map(({ tenant, weight }) => [tenant, weight ?? 1]));
}

/** What an operator grants a tenant; null: any number, or a weight of 1. */
export interface TenantLimits {
  tenant: string;
  /** Jobs of the tenant that run at once. */
  concurrency: number | null;
  /** Jobs of the tenant that start within any `perMs` milliseconds. */
  rate: { max: number; perMs: number } | null;
  /** Its share of a queue in which other tenants wait too, beside their 1. */
  weight: number | null;
}

export async function findTenantLimits(db: Kysely<Database>): Promise<TenantLimits[]> {
  const rows = await db.selectFrom('tenant_limits').selectAll().orderBy('tenant').execute();
  return rows.map(({ tenant, concurrency, rate_max: max, rate_per_ms: perMs, weight }) => ({
    tenant,
    concurrency,
    rate: max === null || perMs === null ? null : { max, perMs },
    weight,
  }));
}

/** Sets what is named and leaves the rest; limits that say nothing any more are removed. */
export async function setTenantLimits(
  db: Kysely<Database>,
  tenant: string,
  { concurrency, rate, weight }: Partial<Omit<TenantLimits, 'tenant'>>,
): Promise<void> {
  const set = {
    ...(concurrency === undefined ? {} : { concurrency }),
    ...(rate === undefined ? {} : { rate_max: rate?.max ?? null, rate_per_ms: rate?.perMs ?? null }),
    ...(weight === undefined ? {} : { weight }),
  };
  await db.transaction().execute(async (trx) => {
    await trx
      .insertInto('tenant_limits')
      .values({ tenant, ...set })
      .onConflict((oc) => oc.column('tenant').doUpdateSet({ ...set, updated_at: sql<Date>`clock_timestamp()` }))
      .execute();
    await trx
      .deleteFrom('tenant_limits')
      .where('tenant', '=', tenant)
      .where('concurrency', 'is', null)
      .where('rate_max', 'is', null)
      .where('weight', 'is', null)
      .execute();
  });
}
