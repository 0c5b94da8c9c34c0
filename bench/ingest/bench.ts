/** `npm run bench -- ingest`: documents into a collection, beside a plain COPY of the rows that they become. */
import { fileURLToPath } from 'node:url';
import { createFleet, type Fleet } from '../../src/workers/fleet.ts';
import { numberOption, rotate } from '../lib/arguments.ts';
import type { Bench, BenchContext, BenchOptions, BenchResult } from '../lib/bench.ts';
import { type Bed, withCase } from '../lib/case.ts';
import { Places, settle, walBytes } from '../lib/databases.ts';
import { prepareOncefleet } from '../lib/oncefleet.ts';
import { round as digits, spread } from '../lib/stats.ts';
import { formatNumber, rangeText } from '../lib/table.ts';
import { createJobs, type Jobs } from '../retrieval/jobs.ts';
import { copyIn, copyOut, withClient } from './copy.ts';
import { type BenchDocument, makeDocuments } from './documents.ts';
import type { commands } from './worker-process.ts';

const WORKER = fileURLToPath(new URL('worker-process.ts', import.meta.url));

const WHOLE = { rounds: 3, documents: 600 };
const QUICK = { rounds: 1, documents: 60 };
type Plan = typeof WHOLE;

const JOBS_AT_ONCE = 4;
const COLLECTION = 'bench';

/** What `ingest` leaves, in an order in which COPY may write it. */
const TABLES = ['documents', 'chunks', 'search_parts', 'search_blocks'] as const;

type Send = (documents: readonly BenchDocument[], fleet: Fleet, ingest: Jobs['ingest']) => Promise<unknown[]>;

const INGESTS = {
  'uploads, one job': async (documents, fleet) => [await upload(documents, fleet)],
  'uploads, four jobs at once': (documents, fleet) =>
    Promise.all(
      Array.from({ length: JOBS_AT_ONCE }, (_, job) =>
        upload(
          documents.filter((_, n) => n % JOBS_AT_ONCE === job),
          fleet,
        ),
      ),
    ),
  "texts in a job's input": async (documents, fleet, ingest) => {
    const input = { collection: COLLECTION, documents: documents.map(({ path, text }) => ({ path, content: text })) };
    return [await (await fleet.enqueue(ingest, input)).result()];
  },
} as const satisfies Record<string, Send>;

const ALL_ROWS = 'COPY, with keys and indexes';
const TEXTS = 'COPY of texts alone';

type Ingest = keyof typeof INGESTS;
type Case = Ingest | typeof ALL_ROWS | typeof TEXTS;
const CASES: readonly Case[] = [...(Object.keys(INGESTS) as Ingest[]), ALL_ROWS, TEXTS];
/** Its rows are what COPY writes. */
const COPIED: Ingest = 'uploads, one job';

interface Finding {
  subject: Case;
  chunks: number;
  ms: number;
  walBytes: number;
  /** Of the worker: all its threads, and the most memory it ever had. COPY needs none. */
  worker: { cpuMs: number; peakRssBytes: number } | undefined;
}

export const ingestBench: Bench = {
  name: 'ingest',
  summary: 'documents into a collection, in documents/s and WAL, beside a plain COPY of the same rows',
  packages: ['bullmq', 'ioredis', 'kysely', 'pg'],
  method: [
    'The documents are Markdown files of this repository, in six languages, as often as it takes; each copy ends with a line of its own. Every case has a database of its own, which is new, and the ingests a worker process of their own. The cases take turns, in another order each round.',
    '',
    '- **uploads, one job**: `fleet.collections.add`, as `oncefleet ingest` and `POST /v1/collections/{name}/documents` call it. Time is from the call until the result of the job is there: bytes are stored, read, cut into chunks, analysed and indexed in it.',
    '- **uploads, four jobs at once**: a quarter of the documents each, in one worker.',
    "- **texts in a job's input**: `fleet.enqueue` with `documents[].content`.",
    `- **COPY, with keys and indexes**: all rows that the first case has left in ${TABLES.map((name) => `\`${name}\``).join(', ')}, in binary and in one transaction, into tables with the same keys and indexes, without foreign keys and triggers. Nothing is read, cut or analysed in this time.`,
    '- **COPY of texts alone**: path, heading and content of each chunk, into a table without a key: what the texts cost by themselves.',
    '',
    'CPU is that of the worker with all its threads; the process that sends, Postgres and Redis have their own. Memory is the most that the worker was ever resident with. WAL is that of the server from the first call until the result, beside the bytes of the documents as they came; what removes uploads comes later and is not in it.',
  ].join('\n'),
  options: {
    documents: { about: 'documents of each measurement' },
    rounds: { about: 'how often each case is measured' },
  },
  plan,
};

function plan({ quick, own }: BenchOptions): (context: BenchContext) => Promise<BenchResult> {
  const sizes = quick ? QUICK : WHOLE;
  const rounds = numberOption(own, 'rounds', sizes.rounds);
  const documents = numberOption(own, 'documents', sizes.documents);
  return (context) => measureAll(context, { rounds, documents });
}

async function measureAll({ services, signal, say }: BenchContext, wanted: Plan): Promise<BenchResult> {
  const documents = await makeDocuments(wanted.documents);
  const places = new Places(services);
  const findings: Finding[] = [];
  try {
    for (let round = 0; round < wanted.rounds; round++) {
      for (const subject of rotate(Object.keys(INGESTS) as Ingest[], round)) {
        for (const finding of await measure({ services, places, signal }, subject, documents)) {
          findings.push(finding);
          const perS = (documents.length / finding.ms) * 1_000;
          say(`Round ${round + 1} of ${wanted.rounds}: ${finding.subject}, ${formatNumber(perS)} documents/s`);
        }
      }
    }
  } finally {
    await places.close();
  }
  return report(findings, documents, wanted);
}

/** @returns the ingest, and the COPYs of its rows where they are taken from it */
function measure(bed: Bed, subject: Ingest, documents: readonly BenchDocument[]): Promise<Finding[]> {
  return withCase(bed, { name: 'ingest', prepare: prepareOncefleet }, async ({ place, start }) => {
    const { databaseUrl, redisUrl, prefix } = place;
    const jobs = createJobs();
    const fleet = createFleet({ databaseUrl, redisUrl, prefix, jobs: [jobs.ingest] });
    const worker = start<typeof commands>(WORKER);
    try {
      await fleet.health();
      await worker.call('open', place);
      await settle(databaseUrl);
      await worker.call('start', null);
      const taken = await clocked(databaseUrl, () => INGESTS[subject](documents, fleet, jobs.ingest));
      const used = await worker.call('stop', null);
      const chunks = countChunks(taken.value, documents.length);
      const finding: Finding = { subject, chunks, ms: taken.ms, walBytes: taken.walBytes, worker: used };
      if (subject !== COPIED) return [finding];
      // It would sweep uploads meanwhile.
      await worker.stop();
      return [finding, ...(await measureCopies(databaseUrl, chunks))];
    } finally {
      await fleet.close();
    }
  });
}

async function upload(documents: readonly BenchDocument[], fleet: Fleet): Promise<unknown> {
  const sent = documents.map(({ path, bytes, sha256 }) => ({ path, sha256, body: [bytes] }));
  return (await fleet.collections.add(COLLECTION, sent)).result();
}

async function clocked<T>(databaseUrl: string, run: () => Promise<T>) {
  const before = await walBytes(databaseUrl);
  const begunAt = performance.now();
  const value = await run();
  const ms = performance.now() - begunAt;
  return { value, ms, walBytes: (await walBytes(databaseUrl)) - before };
}

/** @throws Error a document is missing: figures of less work would be worth nothing */
function countChunks(results: readonly unknown[], documents: number): number {
  const sums = { added: 0, chunks: 0 };
  for (const { added, chunks } of results as (typeof sums)[]) {
    sums.added += added;
    sums.chunks += chunks;
  }
  if (sums.added !== documents) throw new Error(`${sums.added} of ${documents} documents were ingested`);
  return sums.chunks;
}

function measureCopies(databaseUrl: string, chunks: number): Promise<Finding[]> {
  return withClient(databaseUrl, async (client) => {
    await client.query('create schema copied');
    const rows = new Map<string, Buffer>();
    for (const table of TABLES) {
      rows.set(table, await copyOut(client, `oncefleet.${table}`));
      await client.query(`create table copied.${table} (like oncefleet.${table} including all)`);
    }
    const texts = `select d.path, c.heading, c.content from oncefleet.chunks c
      join oncefleet.documents d on d.id = c.document_id`;
    await client.query(`create table copied.texts as ${texts} with no data`);
    const ofTexts = new Map([['texts', await copyOut(client, `(${texts})`)]]);

    const copy = async (subject: Case, from: ReadonlyMap<string, Buffer>): Promise<Finding> => {
      await settle(databaseUrl);
      const { ms, walBytes } = await clocked(databaseUrl, async () => {
        await client.query('begin');
        for (const [table, bytes] of from) await copyIn(client, `copied.${table}`, bytes);
        await client.query('commit');
      });
      const table = from === rows ? 'chunks' : 'texts';
      const counted = await client.query(`select count(*)::integer as chunks from copied.${table}`);
      if (counted.rows[0]?.chunks !== chunks)
        throw new Error(`COPY has written ${counted.rows[0]?.chunks} of ${chunks}`);
      return { subject, chunks, ms, walBytes, worker: undefined };
    };
    return [await copy(ALL_ROWS, rows), await copy(TEXTS, ofTexts)];
  });
}

function report(findings: readonly Finding[], documents: readonly BenchDocument[], { rounds }: Plan): BenchResult {
  const textBytes = documents.reduce((sum, { bytes }) => sum + bytes.length, 0);
  const summaries = CASES.map((subject) => {
    const own = findings.filter((finding) => finding.subject === subject);
    const workers = own.flatMap(({ worker }) => (worker === undefined ? [] : [worker]));
    return {
      subject,
      chunks: (own[0] as Finding).chunks,
      documentsPerS: spread(own.map(({ ms }) => (documents.length / ms) * 1_000)),
      chunksPerS: spread(own.map(({ ms, chunks }) => (chunks / ms) * 1_000)),
      walToText: spread(own.map(({ walBytes }) => walBytes / textBytes)).median,
      ...(workers.length === 0
        ? {}
        : {
            perCpuS: spread(workers.map(({ cpuMs }) => (documents.length / cpuMs) * 1_000)).median,
            peakRssMb: spread(workers.map(({ peakRssBytes }) => peakRssBytes / 1e6)).median,
          }),
    };
  });
  const shown = (value: number | undefined) => (value === undefined ? '' : formatNumber(value));
  return {
    rows: summaries.map(({ subject, chunks, documentsPerS, chunksPerS, walToText, perCpuS, peakRssMb }) => ({
      case: subject,
      rounds,
      documents: documents.length,
      chunks,
      textBytes,
      documentsPerSMin: digits(documentsPerS.min),
      documentsPerS: digits(documentsPerS.median),
      documentsPerSMax: digits(documentsPerS.max),
      chunksPerS: digits(chunksPerS.median),
      walToText: digits(walToText),
      ...(perCpuS === undefined || peakRssMb === undefined
        ? {}
        : { documentsPerWorkerCpuS: digits(perCpuS), peakRssMb: digits(peakRssMb) }),
    })),
    tables: [
      {
        title: 'Ingest',
        about: `${formatNumber(documents.length)} documents of ${formatNumber(textBytes / 1e6)} MB together, ${formatNumber((summaries[0] as (typeof summaries)[number]).chunks)} chunks; medians of ${rounds} rounds, with the least and the most.`,
        columns: ['', 'documents/s', 'from, to', 'chunks/s', 'WAL to text', 'documents per worker CPU s', 'worker MB'],
        rows: summaries.map(({ subject, documentsPerS, chunksPerS, walToText, perCpuS, peakRssMb }) => [
          subject,
          formatNumber(documentsPerS.median),
          rangeText(documentsPerS),
          formatNumber(chunksPerS.median),
          `${formatNumber(walToText)} x`,
          shown(perCpuS),
          shown(peakRssMb),
        ]),
      },
    ],
    charts: [],
  };
}
