/** `npm run bench -- replay`: a finished stream read from its start, before and after it is folded. */
import pg from 'pg';
import { createDb } from '../../src/db/client.ts';
import { numberOption } from '../lib/arguments.ts';
import type { Bench, BenchContext, BenchOptions, BenchResult } from '../lib/bench.ts';
import { type Bed, withCase } from '../lib/case.ts';
import { now } from '../lib/clock.ts';
import { bytesOnDisk, Places } from '../lib/databases.ts';
import {
  enqueueTalk,
  WEB_PROCESS,
  type WebCommands,
  WORKER_PROCESS,
  type WorkerCommands,
} from '../lib/fleet-processes.ts';
import { prepareOncefleet } from '../lib/oncefleet.ts';
import { SseClient } from '../lib/sse-client.ts';
import { round as digits, percentile } from '../lib/stats.ts';
import { formatNumber } from '../lib/table.ts';
import { fold } from './fold.ts';

const WHOLE = { events: 10_000, perFlush: [1, 16], reads: 20 };
const QUICK = { events: 200, perFlush: [16], reads: 2 };

interface Plan {
  events: number;
  /** Events that were durable together: those of a segment. */
  perFlush: readonly number[];
  /** How often each is read; the first is left out. */
  reads: number;
}

interface Finding {
  perFlush: number;
  folded: boolean;
  rows: number;
  bytesPerEvent: number;
  /** Medians. */
  statementMs: number;
  readerMs: number;
  sseMs: number;
}

export const replayBench: Bench = {
  name: 'replay',
  summary: 'a finished stream read from its start, before and after it is folded',
  packages: ['fastify', 'ioredis', 'pg'],
  method: [
    'A worker process runs one job whose events are flushed in batches, so that each batch is a segment: one event each is what a slow stream leaves, 16 each a fast one. When it has ended the stream is read from seq 0, again and again; the first read is left out and the figures are medians.',
    '',
    '- Rows: the segments that hold the stream, all of which a replay reads.',
    '- Statement: one statement that gets all of them from Postgres, until its caller has the texts.',
    "- Reader: the web process's own follower from start to end, without HTTP: subscribe, look at the head, read, parse every event.",
    '- SSE: a client of the web process, from its connect until the connection is closed; every seq is checked.',
    '- Bytes on disk: tables, indexes and TOAST an event, after a vacuum, which gives the room of merged rows back to the table but not to the disk: the folded figures have both in them; a database has this one stream.',
  ].join('\n'),
  options: {
    events: { about: 'events of the stream' },
    reads: { about: 'how often it is read' },
  },
  plan,
};

function plan({ quick, own }: BenchOptions): (context: BenchContext) => Promise<BenchResult> {
  const sizes = quick ? QUICK : WHOLE;
  const wanted: Plan = {
    ...sizes,
    events: numberOption(own, 'events', sizes.events),
    reads: numberOption(own, 'reads', sizes.reads),
  };
  return (context) => run(context, wanted);
}

async function run({ services, signal, say }: BenchContext, wanted: Plan): Promise<BenchResult> {
  const places = new Places(services);
  const findings: Finding[] = [];
  try {
    for (const perFlush of wanted.perFlush) {
      const found = await measure({ services, places, signal }, perFlush, wanted);
      findings.push(...found);
      for (const finding of found)
        say(`${titleOf(finding)}: ${finding.rows} rows, ${formatNumber(finding.readerMs)} ms in the reader`);
    }
  } finally {
    await places.close();
  }
  return report(findings, wanted);
}

async function measure(bed: Bed, perFlush: number, wanted: Plan): Promise<Finding[]> {
  return withCase(bed, { name: 'oncefleet', prepare: prepareOncefleet }, async ({ place, start }) => {
    const web = start<WebCommands>(WEB_PROCESS, { exposeGc: true });
    const worker = start<WorkerCommands>(WORKER_PROCESS, { exposeGc: true });
    const port = await web.call('open', place);
    await worker.call('open', { place, concurrency: 1 });
    const { id } = await enqueueTalk(port, { events: wanted.events, perFlush, pauseMs: 0 });
    // The follower waits for the end, and checks that all of it came.
    await readOverSse(port, id, wanted.events + 1);
    // Whatever else it does when it has time would be measured.
    await worker.stop();

    const db = createDb({
      url: place.databaseUrl,
      maxConnections: 1,
      applicationName: 'oncefleet bench',
      onError: () => {},
    });
    try {
      const read = () => measureReads({ databaseUrl: place.databaseUrl, web, port, id }, wanted);
      const findings: Finding[] = [{ perFlush, folded: false, ...(await read()) }];
      await fold(db.kysely, id);
      findings.push({ perFlush, folded: true, ...(await read()) });
      return findings;
    } finally {
      await db.close();
    }
  });
}

async function measureReads(
  from: {
    databaseUrl: string;
    web: { call(command: 'read', id: string): Promise<{ events: number; ms: number }> };
    port: number;
    id: string;
  },
  { events, reads }: Plan,
): Promise<Omit<Finding, 'perFlush' | 'folded'>> {
  const { databaseUrl, web, port, id } = from;
  const bytes = await bytesOnDisk(databaseUrl, ['oncefleet.journal_segments', 'oncefleet.stream_heads']);
  const times = { statement: [] as number[], reader: [] as number[], sse: [] as number[] };
  let rows = 0;
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  try {
    for (let i = 0; i <= reads; i++) {
      const begun = now();
      const result = await client.query({
        name: 'segments',
        text: 'select first_seq, last_seq, fence, events::text from oncefleet.journal_segments where stream_id = $1 order by first_seq',
        values: [id],
      });
      times.statement.push(now() - begun);
      rows = result.rows.length;
      const read = await web.call('read', id);
      if (read.events !== events + 1) throw new Error(`${read.events} events were read where ${events + 1} should be`);
      times.reader.push(read.ms);
      times.sse.push(await readOverSse(port, id, events + 1));
    }
  } finally {
    await client.end();
  }
  const median = (values: readonly number[]) => percentile(values.slice(1), 50);
  return {
    rows,
    bytesPerEvent: bytes / (events + 1),
    statementMs: median(times.statement),
    readerMs: median(times.reader),
    sseMs: median(times.sse),
  };
}

/** Reads a stream to its end. @returns how long it took, in milliseconds */
async function readOverSse(port: number, id: string, events: number): Promise<number> {
  let next = 0;
  let last = '';
  const begun = now();
  const client = new SseClient({
    port,
    path: `/v1/jobs/${id}/events`,
    onEvent(seq, type) {
      if (seq === next) next++;
      last = type;
    },
  });
  await client.opened;
  await client.closed;
  if (next !== events || last !== 'end') throw new Error(`${next} events came, the last of type ${last}`);
  return now() - begun;
}

function report(findings: readonly Finding[], { events, reads }: Plan): BenchResult {
  return {
    rows: findings.map((finding) => ({
      case: finding.folded ? 'folded' : 'as written',
      events,
      eventsPerSegmentWritten: finding.perFlush,
      reads,
      rowsRead: finding.rows,
      statementMs: digits(finding.statementMs),
      readerMs: digits(finding.readerMs),
      sseMs: digits(finding.sseMs),
      diskBytesPerEvent: digits(finding.bytesPerEvent),
    })),
    tables: [
      {
        title: 'Replay',
        about: `${formatNumber(events)} events and the terminal event, from seq 0, in ms.`,
        columns: ['', 'rows', 'statement', 'reader', 'SSE', 'bytes/event'],
        rows: findings.map((finding) => [
          titleOf(finding),
          formatNumber(finding.rows),
          formatNumber(finding.statementMs),
          formatNumber(finding.readerMs),
          formatNumber(finding.sseMs),
          formatNumber(finding.bytesPerEvent),
        ]),
      },
    ],
    charts: [
      {
        name: 'replay',
        chart: {
          title: `Reading ${formatNumber(events)} events from the start`,
          subtitle: 'Medians.',
          groups: findings.map(titleOf),
          series: (['statementMs', 'readerMs', 'sseMs'] as const).map((figure) => ({
            name: { statementMs: 'statement', readerMs: 'reader', sseMs: 'SSE' }[figure],
            values: findings.map((finding) => ({ value: finding[figure], min: finding[figure], max: finding[figure] })),
          })),
          unit: 'ms',
        },
      },
    ],
  };
}

function titleOf({ perFlush, folded }: Pick<Finding, 'perFlush' | 'folded'>): string {
  return `${perFlush === 1 ? 'one event' : `${perFlush} events`} a segment${folded ? ', folded' : ''}`;
}
