/** What a run has to say: counts, recoveries, and the whole history of a job that went wrong. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { percentile } from '../bench/lib/stats.ts';
import type { Evidence, Transcript } from './checker.ts';
import type { Entry } from './history.ts';

export interface Spread {
  count: number;
  p50Ms: number;
  maxMs: number;
}

export interface Counts {
  jobs: number;
  completed: number;
  failed: number;
  cancelled: number;
  requests: number;
  duplicates: number;
  attempts: number;
  takeovers: number;
  interruptions: number;
  poisoned: number;
  leasesLost: number;
  refusedWrites: number;
  redispatched: number;
  effects: number;
  events: number;
  readers: number;
  reconnects: number;
  eventsRead: number;
  gapsFilled: number;
  processDeaths: number;
  /** From the fault that took a worker away to the next attempt of what it ran; faults strike on meanwhile. */
  recoveries: Spread;
}

/** A line of a process's log that a count needs. */
export interface LogLine {
  msg?: string;
  jobId?: string;
  [field: string]: unknown;
}

export function readLogs(folder: string): LogLine[] {
  const lines: LogLine[] = [];
  for (const file of readdirSync(join(folder, 'logs'))) {
    for (const text of readFileSync(join(folder, 'logs', file), 'utf8').split('\n')) {
      if (!text.startsWith('{')) continue;
      try {
        lines.push({ file, ...(JSON.parse(text) as LogLine) });
      } catch {
        // Torn by a SIGKILL.
      }
    }
  }
  return lines;
}

export function count({ entries, transcripts, state }: Evidence, logs: readonly LogLine[], deaths: number): Counts {
  const said = (msg: string) => logs.filter((entry) => entry.msg === msg);
  const accepted = entries.filter((entry) => entry.type === 'accepted');
  const withStatus = (status: string) => state.jobs.filter((job) => job.status === status).length;
  const withOutcome = (outcome: string) => state.attempts.filter((attempt) => attempt.outcome === outcome).length;
  return {
    jobs: state.jobs.length,
    completed: withStatus('completed'),
    failed: withStatus('failed'),
    cancelled: withStatus('cancelled'),
    requests: accepted.length,
    duplicates: accepted.filter(({ outcome }) => outcome !== 'created').length,
    attempts: state.attempts.length,
    takeovers: withOutcome('crash'),
    interruptions: withOutcome('interruption'),
    poisoned: withOutcome('poisoned'),
    leasesLost: said('lease lost').length,
    refusedWrites: findRefused(entries, logs).size,
    redispatched: said('reconciled').reduce((sum, { repaired }) => sum + Number(repaired), 0),
    effects: state.effects.length,
    events: state.segments.reduce((sum, { firstSeq, lastSeq }) => sum + lastSeq - firstSeq + 1, 0),
    readers: transcripts.length,
    reconnects: transcripts.reduce((sum, { connections }) => sum + connections - 1, 0),
    eventsRead: transcripts.reduce((sum, { seqs }) => sum + seqs.length, 0),
    gapsFilled: said('gap filled from the journal').length,
    processDeaths: deaths,
    recoveries: spreadOf(findRecoveries(entries, state.attempts)),
  };
}

/** What the lease keeper says when it did not ask Postgres. */
const NOT_ASKED = 'it was not renewed in time';

/** Attempts of which Postgres refused something because of their fence; those that stopped by themselves are not among them. */
export function findRefused(entries: readonly Entry[], logs: readonly LogLine[]): Set<string> {
  const refusals = [
    ...entries.filter((entry) => entry.type === 'refused').filter(({ code }) => code === 'LEASE_LOST'),
    ...logs
      .filter(({ msg }) => msg === 'run given up: its lease is lost')
      .map(({ jobId, fence, err }) => ({ jobId, fence, why: String((err as { message?: string })?.message) })),
    ...logs.filter(({ msg }) => msg === 'lease lost'),
  ];
  return new Set(
    refusals.filter(({ why }) => !String(why).endsWith(NOT_ASKED)).map(({ jobId, fence }) => `${jobId}/${fence}`),
  );
}

/** Faults that keep a worker from renewing its leases. */
const TAKING_AWAY: ReadonlySet<string> = new Set([
  'kill',
  'skew',
  'freeze',
  'hold-postgres',
  'cut-postgres',
  'strand-postgres',
]);

/** Of each attempt that was taken over: ms from the last fault that hit its process to the start of the next attempt. */
export function findRecoveries(entries: readonly Entry[], attempts: Evidence['state']['attempts']): number[] {
  const starts = new Map(
    entries.filter((entry) => entry.type === 'start').map((entry) => [`${entry.jobId}/${entry.fence}`, entry]),
  );
  const faults = entries.filter((entry) => entry.type === 'fault').filter(({ fault }) => TAKING_AWAY.has(fault));
  const recoveries: number[] = [];
  for (const { jobId, fence, outcome } of attempts) {
    const taken = starts.get(`${jobId}/${fence}`);
    const again = starts.get(`${jobId}/${fence + 1}`);
    if (outcome !== 'crash' || taken === undefined || again === undefined) continue;
    const fault = faults.findLast(({ pid, at }) => pid === taken.pid && at > taken.at && at < again.at);
    if (fault !== undefined) recoveries.push(again.at - fault.at);
  }
  return recoveries;
}

export function spreadOf(values: readonly number[]): Spread {
  if (values.length === 0) return { count: 0, p50Ms: 0, maxMs: 0 };
  return {
    count: values.length,
    p50Ms: Math.round(percentile(values, 50)),
    maxMs: Math.round(percentile(values, 100)),
  };
}

export function formatCounts(counts: Counts): string[] {
  const { recoveries } = counts;
  return [
    `jobs            ${counts.jobs} (${counts.completed} completed, ${counts.failed} failed, ${counts.cancelled} cancelled) from ${counts.requests} requests, ${counts.duplicates} of them duplicates`,
    `attempts        ${counts.attempts}: ${counts.takeovers} takeovers, ${counts.interruptions} interruptions, ${counts.poisoned} jobs poisoned`,
    `zombies         ${counts.leasesLost} leases lost, writes of ${counts.refusedWrites} attempts refused by Postgres`,
    `deaths          ${counts.processDeaths} processes`,
    `redispatched    ${counts.redispatched} by the reconciler`,
    `effects         ${counts.effects} committed`,
    `streams         ${counts.events} events; ${counts.readers} readers, ${counts.reconnects} reconnects, ${counts.eventsRead} events read, ${counts.gapsFilled} gaps filled`,
    `recoveries      ${recoveries.count}: p50 ${recoveries.p50Ms} ms, max ${recoveries.maxMs} ms`,
  ];
}

/** Everything that is known of a job. */
export function jobHistory(jobId: string, { entries, transcripts, state }: Evidence, logs: readonly LogLine[]): string {
  const accepted = entries.find((entry) => entry.type === 'accepted' && entry.id === jobId);
  const key = accepted?.type === 'accepted' ? accepted.key : state.jobs.find(({ id }) => id === jobId)?.key;
  const about = (entry: Entry) =>
    ('jobId' in entry && entry.jobId === jobId) ||
    ('id' in entry && entry.id === jobId) ||
    ('key' in entry && entry.key === key);
  const lines = [
    `job ${jobId}, key ${key}`,
    `row       ${JSON.stringify(state.jobs.find(({ id }) => id === jobId))}`,
    ...state.attempts
      .filter((attempt) => attempt.jobId === jobId)
      .map((attempt) => `attempt   ${JSON.stringify(attempt)}`),
    `head      ${JSON.stringify(state.heads.find((head) => head.jobId === jobId))}`,
    ...state.segments
      .filter((segment) => segment.jobId === jobId)
      .map(
        ({ firstSeq, lastSeq, fence, events }) =>
          `segment   ${firstSeq}-${lastSeq} fence ${fence} ${shorten(events, 160)}`,
      ),
    ...state.effects
      .filter((effect) => effect.jobId === jobId || effect.key === key)
      .map((effect) => `effect    ${JSON.stringify(effect)}`),
    ...entries.filter(about).map((entry) => `history   ${JSON.stringify(entry)}`),
    ...transcripts.filter((transcript) => transcript.jobId === jobId).map(describe),
    ...logs
      .filter((entry) => JSON.stringify(entry).includes(jobId))
      .slice(0, 60)
      .map((entry) => `log       ${shorten(JSON.stringify(entry), 400)}`),
    ...entries
      .filter(({ type }) => type === 'fault' || type === 'healed')
      .map((entry) => `nemesis   ${JSON.stringify(entry)}`),
  ];
  return lines.join('\n');
}

function describe({ reader, seqs, jsons, finished, connections }: Transcript): string {
  return `reader    ${reader}: ${seqs.length} events, last ${seqs.at(-1)} ${shorten(jsons.at(-1) ?? '', 120)}, ${finished ? 'finished' : 'not finished'}, ${connections} connections`;
}

function shorten(text: string, length: number): string {
  return text.length <= length ? text : `${text.slice(0, length)}…`;
}
