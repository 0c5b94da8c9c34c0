/** The page of one job. */

import type { JobClient } from '../../client/client.ts';
import type { BullView, JobDetails } from '../../client/inspector.ts';
import type { AttemptRecord, JobRecord } from '../../client/types.ts';
import { isTerminalStatus } from '../../db/jobs/states.ts';
import { withoutHosts } from '../hidden-hosts.ts';
import { type Html, html } from './html.ts';
import { duration, facts, status, table, time } from './layout.ts';
import { redact } from './redact.ts';
import { can, type Viewer } from './session.ts';

interface JobPageOptions {
  job: JobRecord;
  details: JobDetails;
  bull: BullView;
  audit: Awaited<ReturnType<JobClient['inspector']['audit']>>;
  viewer: Viewer;
  /** Names of fields whose values are not shown. */
  redacted: readonly string[];
  board: boolean;
}

export function jobPage({ job: record, details, bull, audit, viewer, redacted, board }: JobPageOptions): Html {
  // As in the API: tenants are not told where their jobs run.
  const job = viewer.tenant === null ? record : (withoutHosts(record) as JobRecord);
  const live = !isTerminalStatus(job.status);
  return html`<h1>${job.name} <span class="soft">${job.key ?? job.id}</span></h1>
<div class="row">${status(job.status)}${actionsOf(job, viewer)}
${board && html`<a class="button plain" href="/admin/queues/queue/${encodeURIComponent(job.queue)}/${job.id}">In Bull Board</a>`}</div>
${job.error !== null && html`<div class="panel problem"><p><code>${job.error.code}</code> ${job.error.message}</p></div>`}
${facts([
  ['Id', html`<code>${job.id}</code>`],
  ['Tenant', job.tenant],
  ['Queue', job.queue],
  ['Key', job.key],
  ['Created', time(job.createdAt)],
  ['Runs at', job.status === 'pending' && runsAt(job)],
  ['Started', job.startedAt !== null && time(job.startedAt)],
  [
    'Finished',
    job.finishedAt !== null && html`${time(job.finishedAt)}, took ${duration(job.startedAt, job.finishedAt)}`,
  ],
  ['Deadline', details.deadlineAt !== null && time(details.deadlineAt)],
  ['Cancel asked for', job.cancelRequestedAt !== null && time(job.cancelRequestedAt)],
  ['Kept until', job.expiresAt !== null && time(job.expiresAt)],
  ['Progress', progressOf(job)],
  ['Counters', countersOf(job, details)],
  ['In BullMQ', bullOf(bull)],
])}
${leaseOf(job, details)}
<h2>Stream</h2>
<div data-stream="/console/jobs/${job.id}/events" data-live="${String(live)}" data-collection="${collectionOf(job)}" data-tenant="${job.tenant}">
<p class="soft"><span data-part="state" role="status">${live ? 'connecting' : 'read from the start'}</span> · <span data-part="count">0 events</span> · last received <time data-part="last" hidden datetime="${job.createdAt}"></time>
${details.lastEventAt !== null && html` · last written ${time(details.lastEventAt)}`} · <a href="/console/jobs/${job.id}/events">as it is sent</a></p>
<div class="split"><section aria-label="Text"><h3>Text</h3><pre data-part="text" tabindex="0" aria-live="off"></pre><ol class="sources" data-part="sources"></ol></section>
<section aria-label="Events"><h3>Events</h3><ol class="events" data-part="events" tabindex="0"></ol></section></div></div>
${attemptsOf(job)}
<div class="split"><section><h2>Input</h2>${shownValue(job, 'input', redacted)}</section>
<section><h2>Result</h2>${job.status === 'completed' ? shownValue(job, 'result', redacted) : html`<p class="none">none</p>`}</section></div>
${audit.length > 0 && auditOf(audit)}`;
}

function actionsOf(job: JobRecord, viewer: Viewer): Html {
  return html`${!isTerminalStatus(job.status) && can(viewer, 'enqueue') && html`<a class="button danger" href="/jobs/${job.id}/cancel">Cancel…</a>`}
${job.status === 'failed' && can(viewer, 'admin') && html`<a class="button" href="/jobs/${job.id}/redrive">Redrive…</a>`}`;
}

function leaseOf(job: JobRecord, { leaseUntil, leaseLeftMs, heartbeatAt }: JobDetails): Html | false {
  if (job.status !== 'running') return false;
  const over = leaseLeftMs !== null && leaseLeftMs <= 0;
  return html`<h2>Lease</h2>${facts([
    ['Held by', job.leaseOwner ?? 'nobody'],
    ['Until', leaseUntil !== null && time(leaseUntil)],
    ['Last heartbeat, about', heartbeatAt !== null && time(heartbeatAt)],
    [
      'State',
      over
        ? html`<span class="status failed">over: its worker has not been heard of; the job runs again soon</span>`
        : 'held; each heartbeat moves its end',
    ],
  ])}`;
}

/** A job over its limit is parked far ahead, and woken when a place is free. */
function runsAt({ limitedCount, runAt }: JobRecord): Html {
  if (limitedCount === 0) return time(runAt);
  return html`when a place under its limit is free, and looked at again ${time(runAt)}`;
}

function countersOf(job: JobRecord, { attempts }: JobDetails): string {
  const errors = attempts === undefined ? `${job.errorCount} errors` : `${job.errorCount} of ${attempts} errors`;
  const limited = job.limitedCount === 0 ? '' : `, met limits ${job.limitedCount} times`;
  return `${errors}, ${job.crashCount} crashes, ${job.deferralCount} deferrals, ${job.interruptionCount} interruptions${limited}`;
}

function progressOf({ progress }: JobRecord): string | null {
  if (progress === null) return null;
  const share = progress.total === undefined ? String(progress.done) : `${progress.done} of ${progress.total}`;
  return progress.message === undefined ? share : `${share}: ${progress.message}`;
}

function bullOf({ state, attemptsMade, failedReason }: BullView): string {
  const made = attemptsMade === undefined ? '' : `, ${attemptsMade} attempts made`;
  return `${state}${made}${failedReason === undefined || failedReason === '' ? '' : `: ${failedReason.slice(0, 200)}`}`;
}

function attemptsOf({ attempts }: JobRecord): Html {
  const row = (
    attempt: AttemptRecord,
  ) => html`<tr><td>${attempt.fence}</td><td>${attempt.outcome ?? 'running'}</td><td>${time(attempt.startedAt)}</td>
<td>${duration(attempt.startedAt, attempt.finishedAt)}</td><td class="wide">${attempt.worker}${attempt.host !== '' && html` on ${attempt.host}`}</td>
<td class="wide">${attempt.error !== null && html`<code>${attempt.error.code}</code> ${attempt.error.message}`}</td></tr>`;
  if (attempts.length === 0) return html`<h2>Attempts</h2><p class="none">none yet</p>`;
  return html`<h2>Attempts</h2>${table('The last 100, each with its fence', ['Fence', 'Ended with', 'Started', 'Took', 'Worker', 'Error'], attempts.map(row))}`;
}

function shownValue(job: JobRecord, part: 'input' | 'result', redacted: readonly string[]): Html {
  if (job.leftOut.includes(part))
    return html`<p class="soft">It is larger than 256 KiB. <code>GET /v1/jobs/${job.id}</code> has it.</p>`;
  return html`<pre tabindex="0">${JSON.stringify(redact(job[part], redacted), null, 2)}</pre>`;
}

function auditOf(audit: JobPageOptions['audit']): Html {
  const rows = audit.map(
    (entry) =>
      html`<tr><td>${time(entry.at)}</td><td class="wide">${entry.actor}</td><td>${entry.action}</td><td class="wide">${entry.outcome ?? 'not finished'}</td></tr>`,
  );
  return html`<h2>Done in the console</h2>${table('Newest first', ['When', 'Who', 'What', 'Outcome'], rows)}`;
}

/** Where the documents are that an answer quotes. */
function collectionOf({ input }: JobRecord): string {
  const collection = (input as { collection?: unknown } | null)?.collection;
  return typeof collection === 'string' ? collection : '';
}
