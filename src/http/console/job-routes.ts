/** The pages that search jobs and show one. */
import type { FastifyInstance } from 'fastify';
import type { JobSummary } from '../../client/types.ts';
import type { InspectFilter } from '../../db/jobs/inspect.ts';
import { JOB_STATUSES, type JobStatus } from '../../db/jobs/states.ts';
import { isUuid } from '../../util/uuid.ts';
import { readCursor } from '../cursor.ts';
import { streamEvents } from '../event-stream.ts';
import { jobNotFound } from '../job-id.ts';
import { type ConsoleContext, fieldsOf, findOwn } from './context.ts';
import { type Html, html } from './html.ts';
import { jobPage } from './job-page.ts';
import { duration, status, table, time } from './layout.ts';
import { redactedDialect } from './redact.ts';
import { can, type Viewer } from './session.ts';

const PAGE = 50;
const MAX_WORDS = 5;
/** Longest input and longest result that a page shows, bytes. */
const MAX_PAYLOAD_BYTES = 256 * 1024;

export async function jobRoutes(app: FastifyInstance, context: ConsoleContext): Promise<void> {
  const { client, show, board, config } = context;
  const dialect = redactedDialect(config.redactedFields ?? []);
  app.get('/', { schema: { hide: true } }, async (request, reply) => {
    const viewer = request.viewer as Viewer;
    const fields = fieldsOf(request.query);
    if (isUuid(fields['id'])) return reply.redirect(`/jobs/${fields['id']}`, 303);
    const found = await client.inspector.search(filterOf(fields, viewer), PAGE);
    const { jobs, counts, seen, more, nextCursor } = found;
    const main = html`<h1>Jobs</h1>${searchForm(fields, viewer)}
${fields['id'] !== undefined && html`<p role="alert">An id is a UUID; <code>${fields['id']}</code> is none.</p>`}
${countsOf(counts, fields, { seen, more })}
${jobs.length === 0 ? html`<p>No jobs${more ? ' among those that were looked at' : ''}.</p>` : jobTable(jobs, viewer)}
<div class="row">${nextCursor !== null && html`<a class="button plain" rel="next" href="${queryOf({ ...fields, cursor: nextCursor })}">Older jobs</a>`}
${fields['cursor'] !== undefined && html`<a class="button plain" href="${queryOf({ ...fields, cursor: undefined })}">Newest</a>`}
${can(viewer, 'admin') && html`<a class="button plain" href="/redrive${queryOf({ tenant: fields['tenant'], name: fields['name'], code: fields['code'] })}">Redrive failed jobs…</a>`}</div>`;
    return show(request, reply, { title: 'Jobs', here: 'jobs', main });
  });

  app.get('/jobs/:id', { schema: { hide: true } }, async (request, reply) => {
    const { id, tenant } = await findOwn(context, request);
    const viewer = request.viewer as Viewer;
    const [job, details, audit] = await Promise.all([
      client.get(id, { tenant, maxBytes: MAX_PAYLOAD_BYTES }),
      client.inspector.details(id),
      client.inspector.audit(viewer.tenant, id),
    ]);
    if (job === undefined || details === undefined) throw jobNotFound(id);
    const bull = await client.inspector.bull(job);
    const redacted = config.redactedFields ?? [];
    const main = jobPage({ job, details, bull, audit, viewer, redacted, board: board && viewer.tenant === null });
    return show(request, reply, { title: `${job.name} ${job.key ?? job.id}`, here: 'jobs', main });
  });

  app.get(
    '/console/jobs/:id/events',
    { config: { duringDrain: true, quiet: true, waitsForRoom: true }, schema: { hide: true } },
    async (request, reply) => {
      const { id, tenant } = await findOwn(context, request);
      request.tenant = tenant;
      const after = readCursor(request.headers['last-event-id'] as string | undefined);
      return streamEvents(context, { id, after, dialect, request, reply });
    },
  );
}

function filterOf(fields: Record<string, string>, viewer: Viewer): InspectFilter {
  const { key, name, queue, code, error } = fields;
  const wanted = JOB_STATUSES.find((one) => one === fields['status']);
  const asked = viewer.tenant ?? fields['tenant'];
  return {
    tenant: asked,
    key,
    name,
    queue,
    status: wanted,
    code,
    words: error?.split(/\s+/).slice(0, MAX_WORDS),
    before: fields['cursor'],
  };
}

function searchForm(fields: Record<string, string>, viewer: Viewer): Html {
  const field = (name: string, text: string) =>
    html`<div><label for="f-${name}">${text}</label><input id="f-${name}" name="${name}" value="${fields[name] ?? ''}" maxlength="500"></div>`;
  const option = (value: string) =>
    html`<option value="${value}"${fields['status'] === value && html` selected`}>${value}</option>`;
  return html`<form class="search panel" role="search" method="get" action="/">
${field('id', 'Id')}${field('key', 'Key')}${viewer.tenant === null && field('tenant', 'Tenant')}${field('name', 'Name')}${field('queue', 'Queue')}
<div><label for="f-status">Status</label><select id="f-status" name="status"><option value="">any</option>${JOB_STATUSES.map(option)}</select></div>
${field('code', 'Error code')}${field('error', 'Words of the error')}
<div class="row"><button>Search</button><a class="button plain" href="/">Clear</a></div></form>`;
}

function countsOf(
  counts: Partial<Record<JobStatus, number>>,
  fields: Record<string, string>,
  { seen, more }: { seen: number; more: boolean },
): Html {
  const items = JOB_STATUSES.map(
    (one) =>
      html`<li><a href="${queryOf({ ...fields, cursor: undefined, status: one })}">${status(one)}</a> ${(counts[one] ?? 0).toLocaleString('en-US')}</li>`,
  );
  const where = more ? `the newest ${seen.toLocaleString('en-US')}` : seen.toLocaleString('en-US');
  return html`<ul class="counts" aria-label="Jobs by status">${items}<li class="soft">among ${where} jobs looked at${fields['cursor'] !== undefined && ' from here on'}</li></ul>`;
}

function jobTable(jobs: readonly JobSummary[], viewer: Viewer): Html {
  const headings = [
    'Job',
    'Status',
    ...(viewer.tenant === null ? ['Tenant'] : []),
    'Queue',
    'Created',
    'Took',
    'Error',
  ];
  const rows = jobs.map(
    (
      job,
    ) => html`<tr><td class="wide"><a href="/jobs/${job.id}">${job.name}</a> <span class="soft">${job.key ?? job.id}</span></td>
<td>${status(job.status)}</td>${viewer.tenant === null && html`<td class="wide">${job.tenant}</td>`}<td>${job.queue}</td><td>${time(job.createdAt)}</td>
<td>${duration(job.startedAt, job.finishedAt)}</td><td class="wide">${job.error !== null && html`<code>${job.error.code}</code> ${job.error.message.slice(0, 160)}`}</td></tr>`,
  );
  return table('Jobs, newest first', headings, rows);
}

function queryOf(fields: Record<string, string | undefined>): string {
  const given = Object.entries(fields).filter((entry): entry is [string, string] => entry[1] !== undefined);
  return `?${new URLSearchParams(given).toString()}`;
}
