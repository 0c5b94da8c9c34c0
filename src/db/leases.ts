import { ONE_ROW } from './statement.ts';

/**
 * Renews several leases, each at its fence: $1 job ids, $2 fences, $3 TTLs in milliseconds. Returns
 * those that hold, and whether a cancel was requested. By the database's clock.
 *
 * Text, not a query function: the lease thread has a bare connection of its own. An update of
 * no key column, so it passes beside a transaction that holds the fence `for key share`.
 *
 * A lease that has run out comes back, if nobody has claimed its job, but for a job under a limit: its place is
 * free since, and may be another's.
 */
export const RENEW_LEASES = `
  update oncefleet.jobs j set lease_expires_at = clock_timestamp() + l.ttl_ms * interval '1 ms'
  from unnest($1::uuid[], $2::bigint[], $3::float8[]) with ordinality as l (id, fence, ttl_ms, place)
  where j.id = l.id and j.fence = l.fence and j.status = 'running' and ${ONE_ROW}
    and (j.limit_keys is null or j.lease_expires_at > clock_timestamp())
  returning j.id, j.fence, j.cancel_requested_at is not null as cancel_requested`;
