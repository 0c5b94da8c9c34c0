/**
 * Keeps the leases of a process.
 *
 * Renewals run in a worker thread with its own connection, so that a handler that blocks
 * the event loop keeps its lease; the thread watches the loop and stops renewing once it was
 * blocked for `maxBlockMs`. This side measures safety from the *send* time of the last good
 * renewal, on the monotonic clock both threads share, and aborts a run before its lease can
 * be taken. A failed renewal says nothing and is retried; only a row that was not there at
 * its fence is lost.
 */
import { MessageChannel, type MessagePort, receiveMessageOnPort, Worker } from 'node:worker_threads';
import { LeaseLostError } from '../errors.ts';
import type { Logger } from '../log.ts';
import type { Probes } from '../util/probes.ts';
import { type Placed, SwapList } from '../util/swap-list.ts';
import { heartbeatOf, LeaseTable } from './table.ts';
import type { FromThread, LeaseThreadData, ToThread } from './thread.ts';

interface LeaseKeeperOptions {
  databaseUrl: string;
  databaseSchema: string;
  /** How often leases are renewed; more often where a lease's TTL is under three times this. */
  heartbeatMs: number;
  /** An event loop that is blocked for longer gets no more renewals. */
  maxBlockMs: number;
  log: Logger;
  probes?: Probes | undefined;
}

interface HoldOptions {
  jobId: string;
  fence: number;
  ttlMs: number;
  /** `process.hrtime.bigint()` just before the claim was sent. */
  claimSentAt: bigint;
  /**
   * The lease is lost, or may be soon: stop. Called at most once.
   *
   * @param blocked the event loop was blocked for longer than `maxBlockMs`
   */
  onLost(error: LeaseLostError, blocked: boolean): void;
  /** A cancel was requested. Called at most once. */
  onCancel(): void;
}

export interface HeldLease {
  /**
   * The run writes its outcome, which releases the lease in the database. From here on a renewal that
   * does not find the row is no loss: whether the outcome was in time, its fence says.
   */
  settling(): void;
  /** Stops renewing. Idempotent. */
  release(): void;
}

interface Lease extends HoldOptions, Placed {
  /** Monotonic ns by which the run must have been aborted. */
  safeUntil: bigint;
  cancelled: boolean;
  settling: boolean;
  slot: number;
}

const NS_PER_MS = 1_000_000n;

/** Time a run gets between its abort and the expiry of its lease: a tenth of the TTL, at most this. */
const MAX_MARGIN_MS = 1_000;

const LOOP_BEAT_MS = 200;

/** Past every reading of the monotonic clock. */
const NEVER = 2n ** 63n - 1n;

export class LeaseKeeper {
  readonly #options: LeaseKeeperOptions;
  readonly #leases = new SwapList<Lease>();
  /** The same leases, as the thread sees them. */
  readonly #table = new LeaseTable();
  /** The event loop was blocked beyond `maxBlockMs`, since the last good renewal. */
  #blocked = false;
  /** Monotonic ns, when the last such block was over. */
  #blockedUntil = 0n;
  /** The shortest heartbeat any lease has needed. */
  #paceMs: number;
  /** Monotonic ms of the event loop's last sign of life, read by the thread. */
  readonly #beat = new BigInt64Array(new SharedArrayBuffer(8));
  #worker: Worker | undefined;
  #port: MessagePort | undefined;
  #beatTimer: NodeJS.Timeout | undefined;
  #watchdog: NodeJS.Timeout | undefined;
  #watchdogAt = NEVER;
  #closed: Promise<void> | undefined;

  constructor(options: LeaseKeeperOptions) {
    this.#options = options;
    this.#paceMs = options.heartbeatMs;
  }

  get size(): number {
    return this.#leases.size;
  }

  /** Renews a lease until `release()`. The thread knows the lease when this returns: the handler may block the loop at once. */
  hold(options: HoldOptions): HeldLease {
    this.#start();
    const lease: Lease = {
      ...options,
      safeUntil: safeUntil(options.claimSentAt, options.ttlMs),
      cancelled: false,
      settling: false,
      slot: this.#table.hold(options),
      place: 0,
    };
    this.#leases.add(lease);
    const paceMs = heartbeatOf(options.ttlMs, this.#options.heartbeatMs);
    if (paceMs < this.#paceMs) {
      this.#paceMs = paceMs;
      this.#port?.postMessage({ type: 'pace', ms: paceMs } satisfies ToThread);
    }
    if (lease.safeUntil < this.#watchdogAt) this.#watch();
    return {
      settling: () => {
        lease.settling = true;
      },
      release: () => this.#drop(lease),
    };
  }

  /** Whether a run of this process holds the job. */
  holds(jobId: string): boolean {
    return this.#leases.values().some((lease) => lease.jobId === jobId);
  }

  /** Cancels the run of a job, if this process has one. */
  cancel(jobId: string): void {
    for (const lease of this.#leases.values()) {
      if (lease.jobId === jobId) tellCancel(lease);
    }
  }

  /** Stops renewing. Leases still held are left to expire. */
  close(): Promise<void> {
    this.#closed ??= (async () => {
      clearInterval(this.#beatTimer);
      clearTimeout(this.#watchdog);
      for (const lease of this.#leases.values()) this.#drop(lease);
      this.#port?.close();
      await this.#worker?.terminate();
    })();
    return this.#closed;
  }

  #start(): void {
    if (this.#worker !== undefined || this.#closed !== undefined) return;
    this.#signOfLife();
    this.#beatTimer = setInterval(() => this.#signOfLife(), LOOP_BEAT_MS);
    this.#beatTimer.unref();
    const { port1, port2 } = new MessageChannel();
    const file = import.meta.url.endsWith('.ts') ? './thread.ts' : './thread.js';
    const data: LeaseThreadData = {
      port: port2,
      beat: this.#beat,
      table: this.#table.buffer,
      databaseUrl: this.#options.databaseUrl,
      databaseSchema: this.#options.databaseSchema,
      heartbeatMs: this.#options.heartbeatMs,
      paceMs: this.#paceMs,
      maxBlockMs: this.#options.maxBlockMs,
    };
    const worker = new Worker(new URL(file, import.meta.url), {
      workerData: data,
      transferList: [port2],
      name: 'lease-keeper',
    });
    worker.unref();
    port1.unref();
    port1.on('message', (message: FromThread) => this.#receive(message));
    worker.on('error', (err) => {
      this.#options.log.error({ err }, 'lease thread died; starting another');
      this.#restart();
    });
    this.#worker = worker;
    this.#port = port1;
  }

  #restart(): void {
    clearInterval(this.#beatTimer);
    this.#port?.close();
    this.#worker = undefined;
    this.#port = undefined;
    this.#start();
  }

  /** Finds out here too that the loop was blocked: a thread that waits for Postgres, or for a processor, tells nobody. */
  #signOfLife(): void {
    const now = process.hrtime.bigint();
    const last = Atomics.load(this.#beat, 0);
    Atomics.store(this.#beat, 0, now / NS_PER_MS);
    if (last === 0n || now / NS_PER_MS - last <= BigInt(this.#options.maxBlockMs)) return;
    this.#blocked = true;
    this.#blockedUntil = now;
  }

  /** @returns false: it was released before */
  #drop(lease: Lease): boolean {
    if (!this.#leases.remove(lease)) return false;
    this.#table.release(lease.slot);
    return true;
  }

  #receive(message: FromThread): void {
    switch (message.type) {
      case 'renewed': {
        // One from before the end of a block that is over now says nothing about it.
        if (message.sentAt > this.#blockedUntil) this.#blocked = false;
        const held = new Map(this.#leases.values().map((lease) => [leaseId(lease.jobId, lease.fence), lease]));
        for (const { jobId, fence, cancelRequested } of message.leases) {
          const lease = held.get(leaseId(jobId, fence));
          if (lease === undefined) continue;
          lease.safeUntil = safeUntil(message.sentAt, lease.ttlMs);
          if (cancelRequested) tellCancel(lease);
        }
        for (const { jobId, fence } of message.lost) {
          const lease = held.get(leaseId(jobId, fence));
          if (lease?.settling === true) this.#drop(lease);
          else if (lease !== undefined) this.#lose(lease, 'its row is no longer at this fence');
        }
        return;
      }
      case 'failed':
        this.#options.log.warn({ reason: message.reason, leases: this.#leases.size }, 'heartbeat failed; trying again');
        return;
      case 'blocked':
        this.#blocked = true;
        this.#options.log.error(
          { blockedMs: message.blockedMs },
          'event loop blocked beyond maxBlockMs; leases were not renewed',
        );
        return;
      default:
        message satisfies never;
    }
  }

  #lose(lease: Lease, why: string, expired = false): void {
    if (!this.#drop(lease)) return;
    this.#options.probes?.listener?.leaseLost(expired ? 'expired' : 'taken');
    this.#options.log.warn({ jobId: lease.jobId, fence: lease.fence, why }, 'lease lost');
    lease.onLost(new LeaseLostError(lease.jobId, lease.fence, why, { expired }), this.#blocked);
  }

  /** One timer for the lease that is nearest to its end. */
  #watch(): void {
    clearTimeout(this.#watchdog);
    let nearest = NEVER;
    for (const lease of this.#leases.values()) {
      if (lease.safeUntil < nearest) nearest = lease.safeUntil;
    }
    this.#watchdogAt = nearest;
    if (nearest === NEVER) return;
    const ms = Number((nearest - process.hrtime.bigint()) / NS_PER_MS);
    this.#watchdog = setTimeout(() => this.#judge(), Math.max(ms, 0) + 1);
    this.#watchdog.unref();
  }

  #judge(): void {
    this.#signOfLife();
    // After a blocked loop timers run before messages: read the thread's messages first.
    for (
      let news = this.#port && receiveMessageOnPort(this.#port);
      news !== undefined;
      news = this.#port && receiveMessageOnPort(this.#port)
    ) {
      this.#receive(news.message as FromThread);
    }
    const now = process.hrtime.bigint();
    for (const lease of this.#leases.values()) {
      if (lease.safeUntil <= now) this.#lose(lease, 'it was not renewed in time', true);
    }
    this.#watch();
  }
}

function leaseId(jobId: string, fence: number): string {
  return `${jobId}/${fence}`;
}

function safeUntil(sentAt: bigint, ttlMs: number): bigint {
  const marginMs = Math.min(MAX_MARGIN_MS, Math.floor(ttlMs / 10));
  return sentAt + BigInt(ttlMs - marginMs) * NS_PER_MS;
}

function tellCancel(lease: Lease): void {
  if (lease.cancelled) return;
  lease.cancelled = true;
  lease.onCancel();
}
