/**
 * The thread of the lease keeper: renews all leases of its process in one statement, on its
 * own connection. Runs as a worker thread; knows nothing of jobs beyond id, fence and TTL.
 */
import { type MessagePort, workerData } from 'node:worker_threads';
import pg from 'pg';
import { RENEW_LEASES } from '../db/leases.ts';

export interface LeaseThreadData {
  port: MessagePort;
  beat: BigInt64Array;
  databaseUrl: string;
  heartbeatMs: number;
  maxBlockMs: number;
}

interface LeaseRef {
  jobId: string;
  fence: number;
}

export type ToThread = ({ type: 'hold'; ttlMs: number } & LeaseRef) | ({ type: 'release' } & LeaseRef);

export type FromThread =
  | { type: 'renewed'; sentAt: bigint; leases: (LeaseRef & { cancelRequested: boolean })[]; lost: LeaseRef[] }
  | { type: 'failed'; reason: string }
  | { type: 'blocked'; blockedMs: number };

const NS_PER_MS = 1_000_000n;

/** Pause after a failed renewal, ms: several tries fit into what is left of a TTL. */
const RETRY_MS = 250;

const { port, beat, databaseUrl, heartbeatMs, maxBlockMs } = workerData as LeaseThreadData;
const leases = new Map<string, LeaseRef & { ttlMs: number; renewedAt: bigint }>();
let client: pg.Client | undefined;
let timer: NodeJS.Timeout | undefined;
let renewing = false;
let blockReported = false;

port.on('message', (messages: ToThread[]) => {
  for (const message of messages) receive(message);
});

function receive(message: ToThread): void {
  const id = `${message.jobId}/${message.fence}`;
  if (message.type === 'release') {
    leases.delete(id);
    return;
  }
  const wasIdle = leases.size === 0;
  leases.set(id, {
    jobId: message.jobId,
    fence: message.fence,
    ttlMs: message.ttlMs,
    renewedAt: process.hrtime.bigint(),
  });
  if (wasIdle || message.ttlMs < 3 * heartbeatMs) schedule();
}

/** Sleeps until the first lease is due; one heartbeat renews them all. */
function schedule(afterMs?: number): void {
  if (renewing) return;
  clearTimeout(timer);
  if (leases.size === 0) return;
  let dueMs = afterMs ?? Number.POSITIVE_INFINITY;
  if (afterMs === undefined) {
    const now = process.hrtime.bigint();
    for (const lease of leases.values()) {
      const age = Number((now - lease.renewedAt) / NS_PER_MS);
      dueMs = Math.min(dueMs, Math.min(heartbeatMs, lease.ttlMs / 3) - age);
    }
  }
  timer = setTimeout(() => void renew(), Math.max(dueMs, 0));
}

async function renew(): Promise<void> {
  if (leases.size === 0) return;
  const blockedMs = Number(process.hrtime.bigint() / NS_PER_MS - Atomics.load(beat, 0));
  if (blockedMs > maxBlockMs) {
    if (!blockReported) send({ type: 'blocked', blockedMs });
    blockReported = true;
    schedule(RETRY_MS);
    return;
  }
  blockReported = false;
  renewing = true;
  const batch = [...leases.values()];
  let retry = false;
  try {
    client ??= await connect();
    const sentAt = process.hrtime.bigint();
    const result = await client.query<{ id: string; fence: string; cancel_requested: boolean }>(RENEW_LEASES, [
      batch.map((lease) => lease.jobId),
      batch.map((lease) => lease.fence),
      batch.map((lease) => lease.ttlMs),
    ]);
    const renewed = new Map(result.rows.map((row) => [`${row.id}/${row.fence}`, row.cancel_requested]));
    const kept = batch.filter((lease) => renewed.has(`${lease.jobId}/${lease.fence}`));
    for (const lease of kept) lease.renewedAt = sentAt;
    send({
      type: 'renewed',
      sentAt,
      leases: kept.map(({ jobId, fence }) => ({
        jobId,
        fence,
        cancelRequested: renewed.get(`${jobId}/${fence}`) === true,
      })),
      // A lease released meanwhile is not lost: its run has ended.
      lost: batch
        .filter((lease) => !kept.includes(lease) && leases.has(`${lease.jobId}/${lease.fence}`))
        .map(({ jobId, fence }) => ({ jobId, fence })),
    });
    for (const lease of batch) if (!kept.includes(lease)) leases.delete(`${lease.jobId}/${lease.fence}`);
  } catch (error) {
    retry = true;
    send({ type: 'failed', reason: (error as Error).message || (error as Error).name });
    const broken = client;
    client = undefined;
    // Not awaited: ending a half-open connection can take as long as TCP likes.
    broken?.end().catch(() => undefined);
  } finally {
    renewing = false;
    if (retry) schedule(RETRY_MS);
    else schedule();
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
