/** The clients of the soak: they enqueue over HTTP, some follow, some of those come and go. */
import { serve } from '../lib/child.ts';
import { enqueueTalk, type TalkInput } from '../lib/fleet-processes.ts';
import { type Memory, memoryAfterGc } from '../lib/memory.ts';
import { SseClient } from '../lib/sse-client.ts';

/** Shares of what clients do. */
const DUPLICATE = 0.3;
const FOLLOW = 0.6;
const CUT = 0.5;

/** Duplicates are of one of so many keys used last: jobs in flight and jobs that have ended. */
const RECENT_KEYS = 500;

const MAX_EVENTS = 40;
const MAX_PAUSE_MS = 20;

export interface Tally {
  created: number;
  attached: number;
  replayed: number;
  /** Streams read to their end. */
  followed: number;
  /** Connections cut by their client, who came back. */
  cut: number;
  events: number;
}

interface Sent {
  key: string;
  input: TalkInput;
  id: string;
}

const tally: Tally = { created: 0, attached: 0, replayed: 0, followed: 0, cut: 0, events: 0 };
const recent: Sent[] = [];
let keys = 0;
let stopping = false;
let lanes: Promise<unknown> = Promise.resolve();

export const commands = {
  /** Starts so many clients, each doing one thing after the other. */
  start(order: { port: number; clients: number }): void {
    lanes = Promise.all(
      Array.from({ length: order.clients }, async () => {
        while (!stopping) await visit(order.port);
      }),
    );
    // The caller of `stop` is told.
    lanes.catch(() => {
      stopping = true;
    });
  },

  /** Lets every client finish what it does. @throws Error a client got something wrong */
  async stop(_: null): Promise<Tally> {
    stopping = true;
    await lanes;
    return tally;
  },

  /** @throws Error a client got something wrong */
  async memory(_: null): Promise<Memory> {
    if (stopping) await lanes;
    return memoryAfterGc();
  },

  tally: (_: null): Tally => tally,
};

async function visit(port: number): Promise<void> {
  const before = Math.random() < DUPLICATE ? recent[Math.floor(Math.random() * recent.length)] : undefined;
  const key = before?.key ?? `soak-${keys++}`;
  const input = before?.input ?? {
    events: 1 + Math.floor(Math.random() * MAX_EVENTS),
    perFlush: MAX_EVENTS + 1,
    pauseMs: Math.floor(Math.random() * MAX_PAUSE_MS),
  };
  const { id, outcome } = await enqueueTalk(port, input, key);
  tally[outcome]++;
  if ((outcome === 'created') !== (before === undefined) || (before !== undefined && before.id !== id))
    throw new Error(`key ${key} was ${outcome} with job ${id}${before === undefined ? '' : `, not ${before.id}`}`);
  if (before === undefined) {
    recent.push({ key, input, id });
    if (recent.length > RECENT_KEYS) recent.shift();
  }
  if (Math.random() < FOLLOW) await follow(port, id, input.events);
}

/** Reads a stream to its end, perhaps over several connections. */
async function follow(port: number, id: string, events: number): Promise<void> {
  let next = 0;
  let last = '';
  while (last !== 'end') {
    const cutAt = Math.random() < CUT ? next + Math.floor(Math.random() * events) : Number.POSITIVE_INFINITY;
    let wrong: string | undefined;
    const client: SseClient = new SseClient({
      port,
      path: `/v1/jobs/${id}/events`,
      ...(next === 0 ? {} : { after: next - 1 }),
      onEvent(seq, type) {
        if (client.cut) return;
        if (seq !== next) wrong ??= `seq ${seq} where ${next} was due`;
        next = seq + 1;
        last = type;
        if (seq >= cutAt && type !== 'end') {
          tally.cut++;
          client.close();
        }
      },
    });
    await client.opened;
    await client.closed;
    if (wrong !== undefined) throw new Error(`stream ${id}: ${wrong}`);
    if (!client.cut && last !== 'end') throw new Error(`stream ${id} was closed at seq ${next - 1}, before its end`);
  }
  if (next !== events + 1) throw new Error(`stream ${id} ended after ${next} events, not ${events + 1}`);
  tally.followed++;
  tally.events += next;
}

serve(commands);
