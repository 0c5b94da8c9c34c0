/** Every metric of ours: kind, labels and what it says. docs/reference/metrics.md has the same, which a test holds. */

/** Seconds; from a statement on the same machine to one that will not end well. */
const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];
/** Seconds; handlers take from a millisecond to an hour. */
const RUN_SECONDS = [0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3_600];
const EVENTS = [1, 10, 100, 500, 1_000, 2_000];

interface CatalogueEntry {
  readonly kind: 'counter' | 'gauge' | 'histogram';
  readonly labels: readonly string[];
  readonly help: string;
  /** Of a histogram. */
  readonly buckets?: readonly number[];
  /** Read from Postgres: the same in every process that shows it. */
  readonly ofRows?: true;
}

export const CATALOGUE = {
  oncefleet_transitions_total: {
    kind: 'counter',
    labels: ['type', 'queue', 'name'],
    help: 'Transitions of jobs that this process has made',
  },
  oncefleet_outcomes_total: {
    kind: 'counter',
    labels: ['outcome', 'tenant'],
    help: 'Jobs that this process has ended: completed, failed, poisoned or cancelled',
  },
  oncefleet_failures_total: {
    kind: 'counter',
    labels: ['name', 'code'],
    help: 'Attempts that failed and jobs that ended without a result, by error code',
  },
  oncefleet_run_seconds: {
    kind: 'histogram',
    labels: ['name', 'outcome'],
    help: 'From a claim to the outcome of its run',
    buckets: RUN_SECONDS,
  },
  oncefleet_tokens_total: {
    kind: 'counter',
    labels: ['name', 'tenant', 'model', 'direction'],
    help: 'Tokens of models that handlers have told with a usage event',
  },
  oncefleet_leases_held: { kind: 'gauge', labels: [], help: 'Leases that this process renews: its running jobs' },
  oncefleet_lease_losses_total: {
    kind: 'counter',
    labels: ['why'],
    help: 'Leases lost by runs of this process: taken by another owner, or expired',
  },
  oncefleet_writes_refused_total: {
    kind: 'counter',
    labels: ['write'],
    help: 'Writes of runs that a fence has refused',
  },
  oncefleet_flush_seconds: {
    kind: 'histogram',
    labels: [],
    help: 'How long Postgres took for a flush of the journal',
    buckets: SECONDS,
  },
  oncefleet_flush_events: { kind: 'histogram', labels: [], help: 'Events of a flush', buckets: EVENTS },
  oncefleet_flush_characters_total: {
    kind: 'counter',
    labels: [],
    help: 'Characters of JSON that flushes have written',
  },
  oncefleet_flush_failures_total: {
    kind: 'counter',
    labels: [],
    help: 'Flushes that met a Postgres that does not answer, and were tried again',
  },
  oncefleet_journal_buffered_characters: {
    kind: 'gauge',
    labels: [],
    help: 'Characters of events that are not committed yet; emit waits above 16 Mi',
  },
  oncefleet_publish_seconds: {
    kind: 'histogram',
    labels: [],
    help: 'From the commit of events to the answer of Redis that it has published them',
    buckets: SECONDS,
  },
  oncefleet_unpublished_messages_total: {
    kind: 'counter',
    labels: ['reason'],
    help: 'Live messages that Redis was not given (skipped) or did not take (failed)',
  },
  oncefleet_gaps_total: {
    kind: 'counter',
    labels: [],
    help: 'Times that a follower has found events in Postgres that no live message had brought',
  },
  oncefleet_gap_events_total: { kind: 'counter', labels: [], help: 'Events that followers have read in such gaps' },
  oncefleet_demotions_total: {
    kind: 'counter',
    labels: [],
    help: 'Times that a follower was too slow for live messages and read from Postgres instead',
  },
  oncefleet_open_streams: { kind: 'gauge', labels: [], help: 'Event streams that this web process is writing' },
  oncefleet_request_bytes: {
    kind: 'gauge',
    labels: [],
    help: 'Bytes that requests make this web process hold, counted against IN_FLIGHT_BYTES',
  },
  oncefleet_postgres_connections: {
    kind: 'gauge',
    labels: ['state'],
    help: 'Connections of the pool: idle or busy, and the most there may be (limit)',
  },
  oncefleet_postgres_waiting: { kind: 'gauge', labels: [], help: 'Statements that wait for a connection of the pool' },
  oncefleet_reconciler_rounds_total: {
    kind: 'counter',
    labels: ['result'],
    help: 'Rounds of the reconciler that this process has led: done or failed',
  },
  oncefleet_reconciler_round_seconds: {
    kind: 'histogram',
    labels: [],
    help: 'How long a round took',
    buckets: SECONDS,
  },
  oncefleet_reconciler_repairs_total: {
    kind: 'counter',
    labels: [],
    help: 'Jobs and streams that rounds have repaired',
  },
  oncefleet_rows_up: {
    kind: 'gauge',
    labels: [],
    help: '1 if the gauges of rows could be read, 0 if Postgres did not answer in time; they are left out then',
    ofRows: true,
  },
  oncefleet_jobs: {
    kind: 'gauge',
    labels: ['queue', 'tenant', 'state'],
    help: 'Due jobs: waiting, running, or abandoned (running, and the lease is over)',
    ofRows: true,
  },
  oncefleet_oldest_job_seconds: {
    kind: 'gauge',
    labels: ['queue', 'tenant', 'state'],
    help: 'Since the oldest of these jobs was due',
    ofRows: true,
  },
  oncefleet_due_jobs: { kind: 'gauge', labels: [], help: 'All jobs that may run or run now', ofRows: true },
  oncefleet_delayed_jobs: { kind: 'gauge', labels: [], help: 'Jobs that are not due yet', ofRows: true },
  oncefleet_uncounted_jobs: {
    kind: 'gauge',
    labels: [],
    help: 'Due jobs beyond the oldest 100,000, which oncefleet_jobs and oncefleet_oldest_job_seconds leave out',
    ofRows: true,
  },
  oncefleet_outbox_jobs: {
    kind: 'gauge',
    labels: [],
    help: 'Committed jobs that wait to be given to BullMQ',
    ofRows: true,
  },
  oncefleet_poison_alerts: {
    kind: 'gauge',
    labels: [],
    help: 'Poisoned jobs whose onPoison has not resolved',
    ofRows: true,
  },
  oncefleet_limited_jobs: {
    kind: 'gauge',
    labels: ['limit'],
    help: 'Jobs that wait for a place, by the name of the limit; @tenant and @queue for those of tenants and pauses',
    ofRows: true,
  },
  oncefleet_oldest_limited_seconds: {
    kind: 'gauge',
    labels: ['limit'],
    help: 'Since the job that waits longest met this limit',
    ofRows: true,
  },
  oncefleet_paused_queues: { kind: 'gauge', labels: [], help: 'Queues that are paused', ofRows: true },
  oncefleet_reconciler_round_age_seconds: {
    kind: 'gauge',
    labels: [],
    help: 'Since any process finished a round of the reconciler; left out where none is known',
    ofRows: true,
  },
} as const satisfies Record<string, CatalogueEntry>;

export type MetricName = keyof typeof CATALOGUE;

export function entryOf(name: MetricName): CatalogueEntry {
  return CATALOGUE[name];
}
