/**
 * Says whether a run kept the promises, from what its producers, handlers and followers
 * recorded themselves and from the rows that are left. A pure function, so that its own tests
 * can hand it histories in which something went wrong.
 */
import type { FinalJob, FinalSegment, FinalState } from './final-state.ts';
import type { Entry, Kind } from './history.ts';
import { POISON_CRASHES } from './settings.ts';

/** What one follower was given, in the order in which it came. */
export interface Transcript {
  reader: string;
  jobId: string;
  seqs: number[];
  jsons: string[];
  finished: boolean;
  connections: number;
}

export interface Evidence {
  /** Of producers, handlers and the nemesis. */
  entries: readonly Entry[];
  transcripts: readonly Transcript[];
  state: FinalState;
  /** What was still open or alive when all should have been gone. */
  leftovers: readonly string[];
  /** Ends of processes that nobody asked for, and other things that no fault explains. */
  oddities: readonly string[];
}

export interface Violation {
  /** Which promise. */
  assertion: (typeof ASSERTIONS)[number];
  jobId: string | undefined;
  what: string;
}

export const ASSERTIONS = [
  'every accepted key has one job, and its outcome',
  'committed effects are there once',
  'every duplicate got the same outcome',
  'every stream is contiguous, with one terminal event at its end',
  'what a run was told is committed is in the journal',
  'every follower read what the journal holds, to its end',
  'poison stops',
  'no fence runs twice',
  'nothing is left without an outcome',
  'nothing is leaked',
  'nothing ends or answers as no fault explains',
] as const;

const STATUS_OF: Record<Kind, string> = {
  effect: 'completed',
  ledger: 'completed',
  stream: 'completed',
  block: 'completed',
  throw: 'completed',
  refuse: 'failed',
  hang: 'cancelled',
  poison: 'failed',
};

const TERMINAL_OF: Record<string, string> = { completed: 'end', failed: 'error', cancelled: 'cancelled' };

export function check(evidence: Evidence): Violation[] {
  const violations: Violation[] = [];
  const fail = (assertion: Violation['assertion'], jobId: string | undefined, what: string) =>
    void violations.push({ assertion, jobId, what });
  const { entries, transcripts, state } = evidence;
  const jobs = new Map(state.jobs.map((job) => [job.id, job]));
  const accepted = Map.groupBy(
    entries.filter((entry) => entry.type === 'accepted'),
    ({ key }) => key,
  );
  const journals = new Map<string, JournalEvent[]>();
  const segments = Map.groupBy(state.segments, ({ jobId }) => jobId);
  const heads = new Map(state.heads.map((head) => [head.jobId, head]));
  const effects = Map.groupBy(state.effects, ({ key }) => key);

  for (const job of state.jobs) {
    if (TERMINAL_OF[job.status] === undefined) {
      fail('nothing is left without an outcome', job.id, `${job.name} ${job.key} is ${job.status}`);
      continue;
    }
    journals.set(job.id, checkJournal(job, segments.get(job.id) ?? [], heads.get(job.id), fail));
  }

  for (const [key, requests] of accepted) {
    const ids = new Set(requests.map(({ id }) => id));
    const [first] = requests;
    if (first === undefined) continue;
    if (ids.size !== 1)
      fail(
        'every accepted key has one job, and its outcome',
        first.id,
        `${key} has ${ids.size} jobs: ${[...ids].join(', ')}`,
      );
    const job = jobs.get(first.id);
    if (job === undefined || job.key !== key) {
      fail('every accepted key has one job, and its outcome', first.id, `${key} was accepted and its job is not there`);
      continue;
    }
    if (requests.filter(({ outcome }) => outcome === 'created').length > 1)
      fail('every accepted key has one job, and its outcome', job.id, `${key} was created more than once`);
    const wanted = STATUS_OF[first.kind];
    if (TERMINAL_OF[job.status] !== undefined && job.status !== wanted)
      fail(
        'every accepted key has one job, and its outcome',
        job.id,
        `${key} is ${job.status}, not ${wanted}: ${job.error ?? ''}`,
      );
    checkEffects(first.kind, first.input as { steps?: number }, key, job, effects.get(key) ?? [], fail);
    if (first.kind === 'stream' && job.status === 'completed')
      checkContent(job, first.input as { events: number }, journals.get(job.id) ?? [], fail);
  }

  for (const entry of entries) {
    if (entry.type === 'outcome') {
      const job = jobs.get(entry.id);
      if (job === undefined)
        fail('every duplicate got the same outcome', entry.id, `${entry.key} had an outcome and has no job`);
      else if (
        job.status !== entry.status ||
        normal(job.result) !== normal(entry.result) ||
        codeOf(job.error) !== entry.error
      )
        fail(
          'every duplicate got the same outcome',
          job.id,
          `${entry.key} was shown as ${entry.status} ${entry.result} ${entry.error}, and is ${job.status} ${job.result} ${job.error}`,
        );
    } else if (entry.type === 'odd') {
      fail('nothing ends or answers as no fault explains', undefined, `${entry.key}: ${entry.what}`);
    } else if (entry.type === 'effect') {
      const there = effects
        .get(entry.key)
        ?.some((effect) => effect.step === entry.step && effect.fence === entry.fence);
      if (!there)
        fail(
          'committed effects are there once',
          entry.jobId,
          `${entry.key} step ${entry.step} at fence ${entry.fence} was committed and is not there`,
        );
    }
  }

  checkStarts(entries, jobs, fail);
  checkFlushed(entries, journals, fail);
  for (const transcript of transcripts) checkTranscript(transcript, journals.get(transcript.jobId), fail);
  for (const entry of entries)
    if (entry.type === 'lost')
      fail(
        'every follower read what the journal holds, to its end',
        entry.jobId,
        `reader ${entry.reader} was turned away: ${entry.what}`,
      );
  for (const what of evidence.leftovers) fail('nothing is leaked', undefined, what);
  for (const what of evidence.oddities) fail('nothing ends or answers as no fault explains', undefined, what);
  return violations;
}

type Fail = (assertion: Violation['assertion'], jobId: string | undefined, what: string) => void;

interface JournalEvent {
  fence: number;
  json: string;
  event: { type: string; [field: string]: unknown };
}

/** The stream of a finished job, put together from its segments. */
function checkJournal(
  job: FinalJob,
  segments: readonly FinalSegment[],
  head: FinalState['heads'][number] | undefined,
  fail: Fail,
): JournalEvent[] {
  const assertion = 'every stream is contiguous, with one terminal event at its end';
  const journal: JournalEvent[] = [];
  if (head === undefined) {
    if (segments.length > 0) fail(assertion, job.id, 'segments without a head');
    const event = rowTerminal(job);
    return [{ fence: job.fence, json: JSON.stringify(event), event }];
  }
  let fence = 0;
  for (const segment of segments) {
    const events = JSON.parse(segment.events) as JournalEvent['event'][];
    if (segment.firstSeq !== journal.length)
      fail(assertion, job.id, `a segment starts at seq ${segment.firstSeq} where ${journal.length} was due`);
    if (segment.lastSeq - segment.firstSeq + 1 !== events.length)
      fail(assertion, job.id, `segment ${segment.firstSeq} to ${segment.lastSeq} holds ${events.length} events`);
    if (segment.fence < fence)
      fail(assertion, job.id, `fence ${segment.fence} writes seq ${segment.firstSeq} after fence ${fence}`);
    fence = segment.fence;
    for (const event of events) journal.push({ fence, json: JSON.stringify(event), event });
  }
  if (head.nextSeq !== journal.length || head.state !== 'closed')
    fail(assertion, job.id, `the head is ${head.state} at ${head.nextSeq}, the stream has ${journal.length} events`);
  if (head.fence !== job.fence) fail(assertion, job.id, `the head is at fence ${head.fence}, the job at ${job.fence}`);
  const terminals = journal.flatMap(({ event }, seq) => (Object.values(TERMINAL_OF).includes(event.type) ? [seq] : []));
  if (terminals.length !== 1 || terminals[0] !== journal.length - 1)
    fail(assertion, job.id, `terminal events at [${terminals.join(', ')}] of ${journal.length} events`);
  const last = journal.at(-1);
  if (last !== undefined && last.json !== JSON.stringify(rowTerminal(job)))
    fail(
      assertion,
      job.id,
      `the stream ends with ${last.json.slice(0, 200)}, the row with ${JSON.stringify(rowTerminal(job)).slice(0, 200)}`,
    );
  return journal;
}

function rowTerminal(job: FinalJob): JournalEvent['event'] {
  if (job.status === 'cancelled') return { type: 'cancelled' };
  if (job.status === 'failed') return { type: 'error', error: JSON.parse(job.error ?? 'null') };
  return job.result === null ? { type: 'end' } : { type: 'end', result: JSON.parse(job.result) };
}

function checkEffects(
  kind: Kind,
  input: { steps?: number },
  key: string,
  job: FinalJob,
  steps: FinalState['effects'],
  fail: Fail,
): void {
  if (kind !== 'effect' && kind !== 'ledger') return;
  if (job.status !== 'completed') return;
  const wanted = Array.from({ length: kind === 'effect' ? 1 : (input.steps ?? 0) }, (_, i) => i + 1);
  const found = steps.map(({ step }) => step).sort((a, b) => a - b);
  if (JSON.stringify(found) !== JSON.stringify(wanted))
    fail(
      'committed effects are there once',
      job.id,
      `${key} has the steps [${found.join(', ')}], not 1 to ${wanted.length}`,
    );
  let fence = 0;
  for (const effect of [...steps].sort((a, b) => a.step - b.step)) {
    if (effect.fence < fence)
      fail(
        'committed effects are there once',
        job.id,
        `${key} step ${effect.step} is of fence ${effect.fence}, after fence ${fence}`,
      );
    fence = effect.fence;
  }
}

/** A reader who folds the stream has every number once and in order, whatever was tried in between. */
function checkContent(job: FinalJob, input: { events: number }, journal: readonly JournalEvent[], fail: Fail): void {
  let numbers: { seq: number; n: number }[] = [];
  journal.forEach(({ event }, seq) => {
    if (event.type === 'number') numbers.push({ seq, n: event.n as number });
    if (event.type !== 'attempt') return;
    const from = event.resumed === true ? ((event.from as number | undefined) ?? seq) : 0;
    numbers = numbers.filter((number) => number.seq < from);
  });
  const wrong = numbers.findIndex(({ n }, i) => n !== i);
  if (wrong !== -1 || numbers.length !== input.events)
    fail(
      'every stream is contiguous, with one terminal event at its end',
      job.id,
      `folded, it has ${numbers.length} of ${input.events} numbers${wrong === -1 ? '' : `, and ${numbers[wrong]?.n} in place ${wrong}`}`,
    );
}

function checkStarts(entries: readonly Entry[], jobs: ReadonlyMap<string, FinalJob>, fail: Fail): void {
  const starts = Map.groupBy(
    entries.filter((entry) => entry.type === 'start'),
    ({ jobId }) => jobId,
  );
  for (const [jobId, its] of starts) {
    const fences = its.map(({ fence }) => fence);
    if (new Set(fences).size !== fences.length)
      fail('no fence runs twice', jobId, `handlers started at fences ${fences.join(', ')}`);
    const job = jobs.get(jobId);
    const kind = its[0]?.kind;
    if (kind !== 'poison') continue;
    if (its.length > POISON_CRASHES + 1)
      fail('poison stops', jobId, `it was started ${its.length} times; ${POISON_CRASHES} crashes are allowed`);
    if (job?.status === 'failed' && codeOf(job.error) !== 'POISONED')
      fail('poison stops', jobId, `it failed with ${job.error}`);
  }
}

function checkFlushed(entries: readonly Entry[], journals: ReadonlyMap<string, JournalEvent[]>, fail: Fail): void {
  const numbers = new Map<string, Map<number, JournalEvent[]>>();
  for (const entry of entries) {
    if (entry.type !== 'flushed') continue;
    const journal = journals.get(entry.jobId);
    if (journal === undefined) continue;
    let byFence = numbers.get(entry.jobId);
    if (byFence === undefined) {
      byFence = Map.groupBy(
        journal.filter(({ event }) => event.type === 'number'),
        ({ fence }) => fence,
      );
      numbers.set(entry.jobId, byFence);
    }
    const committed = byFence.get(entry.fence)?.length ?? 0;
    if (committed < entry.events)
      fail(
        'what a run was told is committed is in the journal',
        entry.jobId,
        `fence ${entry.fence} was told of ${entry.events} events, the journal has ${committed}`,
      );
  }
}

function checkTranscript(transcript: Transcript, journal: readonly JournalEvent[] | undefined, fail: Fail): void {
  const assertion = 'every follower read what the journal holds, to its end';
  const { reader, jobId, seqs, jsons } = transcript;
  if (journal === undefined) {
    if (transcript.finished) fail(assertion, jobId, `reader ${reader} finished a stream that has no end`);
    return;
  }
  if (!transcript.finished) {
    fail(
      assertion,
      jobId,
      `reader ${reader} has ${seqs.length} of ${journal.length} events and did not end (${transcript.connections} connections)`,
    );
    return;
  }
  const wrong = seqs.findIndex((seq, i) => seq !== i || jsons[i] !== journal[i]?.json);
  if (wrong !== -1)
    fail(
      assertion,
      jobId,
      `reader ${reader} was given seq ${seqs[wrong]} ${jsons[wrong]?.slice(0, 150)} in place ${wrong}; the journal has ${journal[wrong]?.json.slice(0, 150)}`,
    );
  else if (seqs.length !== journal.length)
    fail(assertion, jobId, `reader ${reader} ended after ${seqs.length} of ${journal.length} events`);
}

/** One text for one value; the API says null where there is none. */
function normal(json: string | null): string {
  return JSON.stringify(JSON.parse(json ?? 'null'));
}

function codeOf(error: string | null): string | null {
  return error === null ? null : ((JSON.parse(error) as { code?: string } | null)?.code ?? null);
}
