import { Command } from 'commander';
import type { JobHandle } from '../client/types.ts';
import { type DocumentErrorCode, inputInvalid, OncefleetError } from '../errors.ts';
import type { JobEvent, SystemEvent } from '../journal/event.ts';
import { UPLOAD_BYTES } from '../options.ts';
import type { Fleet } from '../workers/fleet.ts';
import {
  type CollectedDocument,
  collectDocuments,
  describeLeftOut,
  ingestKey,
  STDIN,
  splitIntoParts,
} from './collect-documents.ts';
import { type CliContext, type CommonOptions, terminalOf } from './context.ts';
import { followJob, requireCompleted } from './follow-job.ts';
import { withFleet } from './open-fleet.ts';
import { addExamples, collectionOption, jsonOption } from './options.ts';
import { Progress } from './progress.ts';
import { CommandInterruptedError } from './report.ts';
import { type Interrupt, listenForInterrupt } from './signals.ts';
import { counted, type Terminal } from './terminal.ts';

/** One job must see all documents to know which are missing; it takes no more. */
const MAX_WHOLE_DOCUMENTS = 10_000;

/** Sending less needs no bar. In bytes. */
const QUICKLY_SENT_BYTES = 8 * 1024 * 1024;

interface IngestOptions extends CommonOptions {
  collection: string;
  key?: string;
  root?: string;
  name?: string;
  again?: boolean;
  removeMissing?: boolean;
  skipBad?: boolean;
  followLinks?: boolean;
  detach?: boolean;
}

/** What the ingest job returns, as far as it is shown. */
interface IngestCounts {
  added: number;
  updated: number;
  unchanged: number;
  removed: number;
  chunks: number;
  failedCount: number;
  failed: readonly Failure[];
  warnings: readonly Failure[];
}

interface Failure {
  path: string;
  code: DocumentErrorCode;
  message: string;
}

interface Part {
  documents: CollectedDocument[];
  input: { collection: string; documents: { path: string; upload: string }[]; removeMissing?: true };
  key: string | undefined;
}

export function ingestCommand(context: CliContext): Command {
  const command = new Command('ingest')
    .summary('put files and folders into a collection')
    .description(
      'Reads PDF, DOCX, and text of any kind (Markdown, HTML, CSV, JSON, plain text, …) in any encoding, folders at any depth,\n' +
        'and ingests it into a collection. Dot files, dot folders, node_modules, source code in folders and links out of the\n' +
        'folders named are left out. If any file cannot be opened, nothing is ingested; one that is no document fails alone and\n' +
        'is named. A document has at most 64 MiB.',
    )
    .argument('<paths...>', 'files, folders, patterns ("docs/**/*.pdf"), or - for standard input')
    .addOption(collectionOption())
    .option('-k, --key <key>', 'idempotency key instead of the one made from collection, paths and contents')
    .option('--again', 'ingest also what this command has ingested before')
    .option('--root <folder>', 'what document paths are relative to; the working directory unless given')
    .option('--name <path>', 'what the document of standard input is called')
    .option('--remove-missing', 'also remove documents of the collection that are not among these')
    .option('--skip-bad', 'leave out files that cannot be opened, and say so')
    .option('--follow-links', 'also read what links lead to outside of the folders named')
    .option('--detach', 'do not wait for the end')
    .addOption(jsonOption())
    .action((paths: string[], options: IngestOptions) => runIngest(context, paths, options));
  return addExamples(
    command,
    [
      ['oncefleet ingest docs/ README.md --collection docs', 'with a progress bar; unchanged documents are skipped'],
      ['oncefleet ingest docs/ -c docs --remove-missing', 'the collection is then exactly this folder'],
      ["oncefleet ingest 'manuals/**/*.pdf' -c manuals", 'the files that a pattern matches, folders at any depth'],
      ['pandoc -t markdown book.odt | oncefleet ingest - --name book.md -c books', 'what another program writes'],
      ['oncefleet ingest docs/ -c docs --detach --json', '{"collection","documents","jobs":[…]} and no waiting'],
    ],
    'Repeating the command attaches to the running job, or shows the outcome of the finished one: nothing is sent again.\n' +
      'More than 16 MiB or 1,000 documents become several jobs. Ctrl-C stops sending and following; the jobs continue.',
  );
}

async function runIngest(context: CliContext, paths: string[], options: IngestOptions): Promise<void> {
  if (paths.includes(STDIN) !== (options.name !== undefined))
    throw new OncefleetError('INPUT_INVALID', '--name belongs to -: it names the document that standard input has');
  const { documents, skipped, failed, leftOut } = await collectDocuments(paths, {
    cwd: context.cwd,
    skipBad: options.skipBad === true,
    followLinks: options.followLinks === true,
    ...(options.root === undefined ? {} : { root: options.root }),
    ...(options.name === undefined ? {} : { stdin: { name: options.name, bytes: context.stdin } }),
  });
  const terminal = terminalOf(context, options);
  for (const { path, message } of skipped) terminal.note(`Left out: ${path} ${message}`);
  if (leftOut.size > 0) terminal.note(`Left out: ${describeLeftOut(leftOut)}`);
  for (const { path, message } of failed) terminal.note(`Failed: ${path} ${message}`);
  // Under --json there are no remarks.
  const summary = {
    collection: options.collection,
    documents: documents.length,
    ...(skipped.length === 0 ? {} : { skipped: skipped.map(({ path, message }) => ({ path, message })) }),
    ...(leftOut.size === 0 ? {} : { leftOut: Object.fromEntries(leftOut) }),
    ...(failed.length === 0 ? {} : { failed }),
  };
  const parts = makeParts(documents, options);
  await withFleet(context, {}, async (fleet, { uploadStoreBytes }) => {
    // Every part before the first is enqueued, so that one bad path means nothing half done.
    for (const part of parts) checkInput(fleet, part);
    using interrupt = listenForInterrupt();
    const handles = await sendParts(fleet, parts, { interrupt, terminal, uploadStoreBytes });
    const replayed = handles.filter(({ outcome }) => outcome === 'replayed').length;
    if (replayed > 0)
      terminal.note(`${replayed} of ${counted(handles.length, 'job')} had been done before (--again does them again)`);

    const jobs = handles.map(({ id, outcome, status }) => ({ id, outcome, status }));
    if (options.detach === true) {
      if (terminal.json) return terminal.jsonLine(JSON.stringify({ ...summary, jobs }));
      for (const { id } of jobs) await terminal.line(id);
      return;
    }
    const results = await followParts(fleet, parts, handles, interrupt, terminal);
    const done = handles.map(({ id, outcome }, i) => ({ id, outcome, status: 'completed', result: results[i] }));
    if (terminal.json) {
      return terminal.jsonLine(JSON.stringify({ ...summary, jobs: done }));
    }
    for (const { path, message } of results.flatMap((result) => result?.failed ?? []))
      terminal.note(`Failed: ${path} ${message}`);
    for (const { path, message } of results.flatMap((result) => result?.warnings ?? []))
      terminal.note(`${path} ${message}`);
    await terminal.line(describeResults(options.collection, documents.length + failed.length, results, failed.length));
  });
}

function makeParts(documents: readonly CollectedDocument[], options: IngestOptions): Part[] {
  const { collection } = options;
  const removeMissing = options.removeMissing === true;
  const parts = splitIntoParts(
    documents,
    removeMissing ? { maxBytes: Infinity, maxDocuments: MAX_WHOLE_DOCUMENTS } : {},
  );
  if (removeMissing && parts.length > 1)
    throw new OncefleetError(
      'INPUT_INVALID',
      `--remove-missing takes at most ${MAX_WHOLE_DOCUMENTS} documents at once`,
    );
  return parts.map((part, i) => {
    const given = parts.length === 1 ? options.key : `${options.key}:${i + 1}/${parts.length}`;
    return {
      documents: part,
      input: {
        collection,
        documents: part.map(({ path, sha256 }) => ({ path, upload: sha256 })),
        ...(removeMissing ? { removeMissing: true as const } : {}),
      },
      key:
        options.key !== undefined
          ? given
          : options.again === true
            ? undefined
            : ingestKey(collection, part, { removeMissing }),
    };
  });
}

function checkInput(fleet: Fleet, { input }: Part): void {
  const parsed = fleet.jobs.get('ingest')?.input.safeParse(input);
  if (parsed?.success === false) throw inputInvalid('Input of ingest', parsed.error.issues);
}

/** Stores each part's documents and enqueues its job, part by part: workers begin with the first meanwhile. */
async function sendParts(
  fleet: Fleet,
  parts: readonly Part[],
  { interrupt, terminal, uploadStoreBytes }: { interrupt: Interrupt; terminal: Terminal; uploadStoreBytes: number },
): Promise<JobHandle[]> {
  const documents = parts.flatMap((part) => part.documents);
  const bytes = documents.reduce((sum, document) => sum + document.bytes, 0);
  const progress = bytes > QUICKLY_SENT_BYTES ? new Progress(terminal, 'send') : undefined;
  let done = 0;
  const handles: JobHandle[] = [];
  try {
    for (const { documents, input, key } of parts) {
      if (interrupt.signal.aborted) throw stoppedSending(interrupt, handles);
      const sent = documents.map(({ path, sha256, read }) => ({
        path,
        sha256,
        body: (async function* () {
          progress?.update({ done, total: bytes, message: path });
          for await (const piece of read()) {
            if (interrupt.signal.aborted) throw stoppedSending(interrupt, handles);
            done += piece.length;
            yield piece;
          }
        })(),
      }));
      const { collection, removeMissing } = input;
      const options = { ...(key === undefined ? {} : { key }), ...(removeMissing === true ? { removeMissing } : {}) };
      handles.push(
        await fleet.collections.add(collection, sent, {
          ...options,
          maxBytes: UPLOAD_BYTES.max,
          maxStoredBytes: uploadStoreBytes,
        }),
      );
    }
  } finally {
    progress?.finish();
  }
  return handles;
}

function stoppedSending({ by = 'SIGINT' }: Interrupt, handles: readonly JobHandle[]): CommandInterruptedError {
  const jobs = handles.length === 0 ? '' : `; these jobs continue: ${handles.map(({ id }) => id).join(', ')}`;
  return new CommandInterruptedError(by, `Stopped sending${jobs}. The same command sends the rest.`);
}

/** Follows all jobs at once, showing them as one. @returns their results, in order */
async function followParts(
  fleet: Fleet,
  parts: readonly Part[],
  handles: readonly JobHandle[],
  interrupt: Interrupt,
  terminal: Terminal,
): Promise<IngestCounts[]> {
  const progress = new Progress(terminal, 'ingest');
  const total = parts.reduce((sum, { documents }) => sum + documents.length, 0);
  const done = parts.map(() => 0);
  const show = (message?: string) =>
    progress.update({ done: done.reduce((a, b) => a + b, 0), total, ...(message === undefined ? {} : { message }) });
  show();
  const follow = async (handle: JobHandle, i: number): Promise<IngestCounts> => {
    const end = await followJob(fleet, handle.id, {
      interrupt,
      outcomeOnly: true,
      note: (text) => progress.note(text),
      onEvent: ({ event }) => {
        if (event.type === 'progress') {
          const state = event as Extract<SystemEvent, { type: 'progress' }>;
          done[i] = state.done;
          show(state.message);
        } else if (event.type === 'waiting') {
          const { error, delayMs } = event as unknown as { error: { message: string }; delayMs: number };
          progress.note(`${error.message}; asked again in ${(delayMs / 1_000).toFixed(1)} s`);
        } else if (event.type === 'retry') {
          const { error } = event as Extract<SystemEvent, { type: 'retry' }>;
          progress.note(`An attempt failed (${error.code}: ${error.message}) and will be repeated`);
        } else if (event.type === 'attempt') noteAttempt(event, progress);
      },
    });
    if (end !== undefined) requireCompleted(handle.id, end);
    const result = end?.type === 'end' ? end.result : await handle.result({ signal: interrupt.signal });
    done[i] = (parts[i] as Part).documents.length;
    show();
    return result as IngestCounts;
  };
  // All are heard out before one failure is told, so that the bar does not continue after it.
  const settled = await Promise.allSettled(handles.map(follow));
  progress.finish();
  const failures = settled.filter((outcome) => outcome.status === 'rejected').map(({ reason }) => reason as unknown);
  const interrupted = failures.find((reason) => reason instanceof CommandInterruptedError);
  if (interrupted !== undefined) {
    const unfinished = handles.filter((_, i) => settled[i]?.status === 'rejected').map(({ id }) => id);
    throw interrupted.withMessage(
      `Stopped following; these continue: ${unfinished.join(', ')}. Follow one: oncefleet follow ${unfinished[0]}`,
    );
  }
  if (failures.length > 0) throw failures[0];
  return settled.map((outcome) => (outcome as PromiseFulfilledResult<IngestCounts>).value);
}

function noteAttempt(event: JobEvent | SystemEvent, progress: Progress): void {
  const { attempt, resumed } = event as Extract<SystemEvent, { type: 'attempt' }>;
  progress.note(`Attempt ${attempt} ${resumed ? 'continues from the last checkpoint' : 'starts over'}`);
}

function describeResults(
  collection: string,
  documents: number,
  results: readonly IngestCounts[],
  failedHere: number,
): string {
  type Count = Exclude<keyof IngestCounts, 'failed' | 'warnings'>;
  const sum = (field: Count) => results.reduce((total, result) => total + (result?.[field] ?? 0), 0);
  const failed = sum('failedCount') + failedHere;
  const counts = [`${sum('added')} added`, `${sum('updated')} updated`, `${sum('unchanged')} unchanged`];
  if (sum('removed') > 0) counts.push(`${sum('removed')} removed`);
  if (failed > 0) counts.push(`${failed} failed`);
  return `${collection}: ${counted(documents, 'document')}: ${counts.join(', ')}; ${counted(sum('chunks'), 'chunk')}`;
}
