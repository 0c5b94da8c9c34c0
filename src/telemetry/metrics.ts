/**
 * The metrics of a process, in Prometheus' text format: counters of the transitions that it makes and of what its parts
 * tell its probe, and gauges that are read when somebody asks for them.
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { Backlog, BacklogLimits } from '../db/backlog.ts';
import type { Transition } from '../runtime/observers.ts';
import type { Runtime } from '../runtime/runtime.ts';
import type { Probe } from '../util/probes.ts';
import { CATALOGUE, entryOf, type MetricName } from './catalogue.ts';
import { BoundedLabel } from './labels.ts';
import { RowGauges } from './row-gauges.ts';

/** How a run may end. */
const RUN_ENDS: ReadonlySet<string> = new Set([
  'completed',
  'failed',
  'cancelled',
  'retried',
  'deferred',
  'interrupted',
]);
const OUTCOMES: ReadonlySet<string> = new Set(['completed', 'failed', 'poisoned', 'cancelled']);

export interface MetricsOptions {
  runtime: Pick<Runtime, 'db' | 'leases' | 'log' | 'observers' | 'probes' | 'writer'>;
  /** Show the gauges of the whole fleet too, read from Postgres. */
  rows: boolean;
  /** For tests. */
  limits?: Partial<BacklogLimits>;
  freshMs?: number;
}

export class Metrics {
  /** Of what `render` gives. */
  readonly contentType: string;
  readonly #options: MetricsOptions;
  readonly #registry = new Registry();
  readonly #counters = new Map<MetricName, Counter>();
  readonly #gauges = new Map<MetricName, Gauge>();
  readonly #histograms = new Map<MetricName, Histogram>();
  readonly #names = new BoundedLabel(100);
  readonly #queues = new BoundedLabel(100);
  readonly #tenants = new BoundedLabel(20);
  readonly #models = new BoundedLabel(20);
  readonly #rows: RowGauges | undefined;
  readonly #stop: () => void;
  #openStreams: (() => number) | undefined;
  #heldBytes: (() => number) | undefined;
  #rendering: Promise<string> | undefined;

  /** Starts to listen to the runtime. */
  constructor(options: MetricsOptions) {
    this.#options = options;
    this.contentType = this.#registry.contentType;
    const { runtime, rows, limits = {}, freshMs } = options;
    this.#rows = rows
      ? new RowGauges({
          db: runtime.db.kysely,
          log: runtime.log,
          limits,
          ...(freshMs === undefined ? {} : { freshMs }),
        })
      : undefined;
    for (const name of Object.keys(CATALOGUE) as MetricName[]) this.#register(name);
    this.#startAtZero();
    collectDefaultMetrics({ register: this.#registry });
    runtime.probes.listener = this.#probe();
    const unobserve = runtime.observers.observe((transition) => this.#count(transition));
    this.#stop = () => {
      unobserve();
      runtime.probes.listener = undefined;
    };
  }

  /** Counts the event streams of a web process. */
  countStreams(openStreams: () => number): void {
    this.#openStreams = openStreams;
  }

  /** Of the requests of a web process. */
  countHeldBytes(heldBytes: () => number): void {
    this.#heldBytes = heldBytes;
  }

  /** The metrics as they are now. Never longer than the gauges of rows may take. */
  render(): Promise<string> {
    // One at a time: a second one would take gauges away while the first is written.
    this.#rendering ??= this.#render().finally(() => {
      this.#rendering = undefined;
    });
    return this.#rendering;
  }

  async #render(): Promise<string> {
    await this.#collect();
    return this.#registry.metrics();
  }

  close(): void {
    this.#stop();
    this.#registry.clear();
  }

  #register(name: MetricName): void {
    const { kind, labels, help, buckets = [], ofRows = false } = entryOf(name);
    if (ofRows && this.#rows === undefined) return;
    const config = { name, help, labelNames: [...labels], registers: [this.#registry] };
    if (kind === 'counter') this.#counters.set(name, new Counter(config));
    else if (kind === 'gauge') this.#gauges.set(name, new Gauge(config));
    else this.#histograms.set(name, new Histogram({ ...config, buckets: [...buckets] }));
  }

  /** Series that appear with their first event are missing from the rate of that event. */
  #startAtZero(): void {
    for (const why of ['taken', 'expired']) this.#add('oncefleet_lease_losses_total', { why }, 0);
    for (const write of ['append', 'settle', 'checkpoint', 'transaction'])
      this.#add('oncefleet_writes_refused_total', { write }, 0);
    for (const reason of ['skipped', 'failed']) this.#add('oncefleet_unpublished_messages_total', { reason }, 0);
    for (const result of ['done', 'failed']) this.#add('oncefleet_reconciler_rounds_total', { result }, 0);
  }

  #add(name: MetricName, labels: Record<string, string> = {}, by = 1): void {
    this.#counters.get(name)?.inc(labels, by);
  }

  #set(name: MetricName, value: number, labels: Record<string, string> = {}): void {
    this.#gauges.get(name)?.set(labels, value);
  }

  #observe(name: MetricName, value: number, labels: Record<string, string> = {}): void {
    this.#histograms.get(name)?.observe(labels, value);
  }

  #count({ type, queue, name: job, tenant, runMs, errorCode }: Transition): void {
    const name = this.#names.of(job);
    this.#add('oncefleet_transitions_total', { type, queue: this.#queues.of(queue), name });
    if (OUTCOMES.has(type)) this.#add('oncefleet_outcomes_total', { outcome: type, tenant: this.#tenants.of(tenant) });
    if (errorCode !== undefined) this.#add('oncefleet_failures_total', { name, code: errorCode });
    if (runMs !== undefined && RUN_ENDS.has(type))
      this.#observe('oncefleet_run_seconds', runMs / 1_000, { name, outcome: type });
  }

  #probe(): Probe {
    return {
      flushed: ({ ms, events, characters }) => {
        this.#observe('oncefleet_flush_seconds', ms / 1_000);
        this.#observe('oncefleet_flush_events', events);
        this.#add('oncefleet_flush_characters_total', {}, characters);
      },
      flushFailed: () => this.#add('oncefleet_flush_failures_total'),
      published: (ms) => this.#observe('oncefleet_publish_seconds', ms / 1_000),
      unpublished: (reason, messages) => this.#add('oncefleet_unpublished_messages_total', { reason }, messages),
      writeRefused: (write) => this.#add('oncefleet_writes_refused_total', { write }),
      leaseLost: (why) => this.#add('oncefleet_lease_losses_total', { why }),
      gapFilled: (events) => {
        this.#add('oncefleet_gaps_total');
        this.#add('oncefleet_gap_events_total', {}, events);
      },
      followerDemoted: () => this.#add('oncefleet_demotions_total'),
      reconciled: ({ ms, repaired, failed }) => {
        this.#add('oncefleet_reconciler_rounds_total', { result: failed ? 'failed' : 'done' });
        if (failed) return;
        this.#observe('oncefleet_reconciler_round_seconds', ms / 1_000);
        this.#add('oncefleet_reconciler_repairs_total', {}, repaired);
      },
      tokensUsed: (job, usage) => this.#countTokens(job, usage),
    };
  }

  /** A handler of a user's may say anything of its usage. */
  #countTokens(job: { name: string; tenant: string }, usage: Readonly<Record<string, unknown>>): void {
    const model = typeof usage['model'] === 'string' ? this.#models.of(usage['model']) : '';
    const labels = { name: this.#names.of(job.name), tenant: this.#tenants.of(job.tenant), model };
    for (const [field, direction] of [
      ['inputTokens', 'input'],
      ['outputTokens', 'output'],
    ] as const) {
      const tokens = usage[field];
      if (typeof tokens === 'number' && Number.isFinite(tokens) && tokens > 0)
        this.#add('oncefleet_tokens_total', { ...labels, direction }, tokens);
    }
  }

  async #collect(): Promise<void> {
    const { db, leases, writer } = this.#options.runtime;
    const { totalCount, idleCount, waitingCount, options } = db.pool;
    this.#set('oncefleet_leases_held', leases.size);
    this.#set('oncefleet_journal_buffered_characters', writer.bufferedLength);
    this.#set('oncefleet_open_streams', this.#openStreams?.() ?? 0);
    this.#set('oncefleet_request_bytes', this.#heldBytes?.() ?? 0);
    this.#set('oncefleet_postgres_connections', idleCount, { state: 'idle' });
    this.#set('oncefleet_postgres_connections', totalCount - idleCount, { state: 'busy' });
    this.#set('oncefleet_postgres_connections', options.max ?? 0, { state: 'limit' });
    this.#set('oncefleet_postgres_waiting', waitingCount);
    if (this.#rows !== undefined) this.#showRows(await this.#rows.read());
  }

  /** What is not known is not shown: an old value would look like one of now. */
  #showRows(backlog: Backlog | undefined): void {
    for (const [name, gauge] of this.#gauges) {
      const { ofRows, labels } = entryOf(name);
      if (ofRows !== true) continue;
      if (labels.length === 0) gauge.remove();
      else gauge.reset();
    }
    this.#set('oncefleet_rows_up', backlog === undefined ? 0 : 1);
    if (backlog === undefined) return;
    for (const { queue, tenant, state, jobs, oldestS } of backlog.groups) {
      this.#set('oncefleet_jobs', jobs, { queue, tenant, state });
      this.#set('oncefleet_oldest_job_seconds', Math.max(0, oldestS), { queue, tenant, state });
    }
    for (const { limit, jobs, oldestS } of backlog.limits) {
      this.#set('oncefleet_limited_jobs', jobs, { limit });
      this.#set('oncefleet_oldest_limited_seconds', Math.max(0, oldestS), { limit });
    }
    this.#set('oncefleet_due_jobs', backlog.due);
    this.#set('oncefleet_delayed_jobs', backlog.delayed);
    this.#set('oncefleet_uncounted_jobs', backlog.uncounted);
    this.#set('oncefleet_outbox_jobs', backlog.outbox);
    this.#set('oncefleet_poison_alerts', backlog.alerts);
    this.#set('oncefleet_paused_queues', backlog.pausedQueues);
    if (backlog.roundAgeS !== null) this.#set('oncefleet_reconciler_round_age_seconds', backlog.roundAgeS);
  }
}
