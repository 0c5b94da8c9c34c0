/**
 * The thread of the lease keeper: renews all leases of its process in one statement, on its
 * own connection. Runs as a worker thread; knows nothing of jobs beyond id, fence and TTL.
 */
import { type MessagePort, workerData } from 'node:worker_threads';
import pg from 'pg';
import { RENEW_LEASES } from '../db/leases.ts';
import { qualify } from '../db/own-schema.ts';
import { heartbeatOf, type LeaseEntry, type LeaseRef, LeaseTable } from './table.ts';

export interface LeaseThreadData {
  port: MessagePort;
  beat: BigInt64Array;
  /** Of a LeaseTable that the event loop writes. */
  table: SharedArrayBuffer;
  databaseUrl: string;
  databaseSchema: string;
  heartbeatMs: number;
  /** The shortest heartbeat that any lease has needed so far. */
  paceMs: number;
  maxBlockMs: number;
}

/** A lease came that needs a shorter heartbeat than any before it. */
export type ToThread = { type: 'pace'; ms: number };

export type FromThread =
  | { type: 'renewed'; sentAt: bigint; leases: (LeaseRef & { cancelRequested: boolean })[]; lost: LeaseRef[] }
  | { type: 'failed'; reason: string }
  | { type: 'blocked'; blockedMs: number };

const NS_PER_MS = 1_000_000n;

/** Pause after a failed renewal: several retries fit into what is left of a TTL. */
const RETRY_MS = 250;

const { port, beat, databaseUrl, heartbeatMs, maxBlockMs, ...start } = workerData as LeaseThreadData;
const renewLeases = qualify(RENEW_LEASES, start.databaseSchema);
const table = new LeaseTable(start.table);
/** Monotonic ns at which leases were last renewed, by generation. */
let renewals = new Map<number, bigint>();
let paceMs = start.paceMs;
let client: pg.Client | undefined;
let timer: NodeJS.Timeout | undefined;
let renewing = false;
let blockReported = false;

port.on('message', (message: ToThread) => {
  paceMs = message.ms;
  schedule();
});
schedule();

/** Checks twice in the shortest heartbeat; short jobs come and go in between and are never seen. */
function schedule(afterMs = paceMs / 2): void {
  if (renewing) return;
  clearTimeout(timer);
  timer = setTimeout(() => void renew(), afterMs);
}

/** The leases whose heartbeat would be late by the next check. */
function dueLeases(): LeaseEntry[] {
  const now = process.hrtime.bigint();
  const held = table.read();
  const kept = new Map<number, bigint>();
  for (const { generation, claimSentAt } of held) kept.set(generation, renewals.get(generation) ?? claimSentAt);
  renewals = kept;
  const due = held.filter(({ generation, ttlMs }) => {
    const ageMs = Number((now - (renewals.get(generation) as bigint)) / NS_PER_MS);
    return ageMs + paceMs / 2 >= heartbeatOf(ttlMs, heartbeatMs);
  });
  // Rows are locked in this order, as by claims and settlements: no deadlock.
  return due.sort((a, b) => (a.jobId < b.jobId ? -1 : 1));
}

async function renew(): Promise<void> {
  const batch = dueLeases();
  if (batch.length === 0) {
    schedule();
    return;
  }
  const blockedMs = Number(process.hrtime.bigint() / NS_PER_MS - Atomics.load(beat, 0));
  if (blockedMs > maxBlockMs) {
    if (!blockReported) send({ type: 'blocked', blockedMs });
    blockReported = true;
    schedule(Math.min(RETRY_MS, paceMs / 2));
    return;
  }
  blockReported = false;
  renewing = true;
  let retry = false;
  try {
    client ??= await connect();
    const sentAt = process.hrtime.bigint();
    const result = await client.query<{ id: string; fence: string; cancel_requested: boolean }>(renewLeases, [
      batch.map((lease) => lease.jobId),
      batch.map((lease) => lease.fence),
      batch.map((lease) => lease.ttlMs),
    ]);
    const renewed = new Map(result.rows.map((row) => [`${row.id}/${row.fence}`, row.cancel_requested]));
    const isRenewed = ({ jobId, fence }: LeaseRef) => renewed.has(`${jobId}/${fence}`);
    const kept = batch.filter(isRenewed);
    for (const { generation } of kept) renewals.set(generation, sentAt);
    // A lease released meanwhile is not lost: its run has ended.
    const held = new Set(table.read().map(({ generation }) => generation));
    send({
      type: 'renewed',
      sentAt,
      leases: kept.map(({ jobId, fence }) => ({
        jobId,
        fence,
        cancelRequested: renewed.get(`${jobId}/${fence}`) === true,
      })),
      lost: batch
        .filter((lease) => !isRenewed(lease) && held.has(lease.generation))
        .map(({ jobId, fence }) => ({ jobId, fence })),
    });
  } catch (error) {
    retry = true;
    send({ type: 'failed', reason: (error as Error).message || (error as Error).name });
    const broken = client;
    client = undefined;
    // Not awaited: ending a half-open connection can take as long as TCP likes.
    broken?.end().catch(() => undefined);
  } finally {
    renewing = false;
    schedule(retry ? Math.min(RETRY_MS, paceMs / 2) : undefined);
  }
}

async function connect(): Promise<pg.Client> {
  const next = new pg.Client({
    connectionString: databaseUrl,
    application_name: 'oncefleet-leases',
    connectionTimeoutMillis: 3_000,
    query_timeout: Math.max(1_000, heartbeatMs),
    keepAlive: true,
  });
  next.on('error', () => {
    if (client === next) client = undefined;
  });
  await next.connect();
  return next;
}

function send(message: FromThread): void {
  port.postMessage(message);
}
