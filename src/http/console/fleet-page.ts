/** The page of the fleet: queues, workers, the reconciler, and what the doctor finds. */
import type { FastifyInstance } from 'fastify';
import type { FleetView } from '../../client/inspector.ts';
import { OncefleetError } from '../../errors.ts';
import type { Diagnosis } from '../../maintenance/doctor/diagnosis.ts';
import { bareName } from '../hidden-hosts.ts';
import type { ConsoleContext } from './context.ts';
import { type Html, html } from './html.ts';
import { facts, formatMs, table, time } from './layout.ts';
import type { Viewer } from './session.ts';

export async function fleetRoute(app: FastifyInstance, { client, show, doctor, board }: ConsoleContext): Promise<void> {
  app.get('/fleet', { schema: { hide: true } }, async (request, reply) => {
    const { tenant } = request.viewer as Viewer;
    const fleet = await client.inspector.fleet(tenant);
    const main = html`<h1>Fleet</h1>${fleetPage(fleet, tenant, board && tenant === null)}
${
  tenant === null &&
  doctor !== undefined &&
  html`<h2>Doctor</h2><p>It looks for what Postgres and Redis disagree about, and for settings that will hurt. That takes some seconds, and changes nothing.</p>
<form method="post" action="/fleet/doctor"><button class="plain">Look now</button></form>`
}`;
    return show(request, reply, { title: 'Fleet', here: 'fleet', main });
  });
  app.post('/fleet/doctor', { schema: { hide: true } }, async (request, reply) => {
    if ((request.viewer as Viewer).tenant !== null || doctor === undefined)
      throw new OncefleetError('SCOPE_MISSING', 'This is for operators of all tenants');
    const main = html`<h1>Doctor</h1>${doctorFindings(await doctor())}<p><a href="/fleet">Fleet</a></p>`;
    return show(request, reply, { title: 'Doctor', here: 'fleet', main });
  });
}

function fleetPage({ backlog, queues, workers, lastRound }: FleetView, tenant: string | null, board: boolean): Html {
  const names = [...new Set([...queues.map(({ name }) => name), ...backlog.groups.map(({ queue }) => queue)])].sort();
  const queueRows = names.map((name) => {
    const groups = backlog.groups.filter(({ queue }) => queue === name);
    const jobsIn = (state: string) =>
      groups.filter((group) => group.state === state).reduce((sum, { jobs }) => sum + jobs, 0);
    const waiting = groups.filter(({ state }) => state === 'waiting').map(({ oldestS }) => oldestS);
    const queue = queues.find((one) => one.name === name);
    return html`<tr><td>${board ? html`<a href="/admin/queues/queue/${encodeURIComponent(name)}">${name}</a>` : name}${queue?.paused === true && html` <span class="status failed">paused</span>`}</td>
<td><a href="/?queue=${encodeURIComponent(name)}&amp;status=pending">${jobsIn('waiting')}</a></td><td><a href="/?queue=${encodeURIComponent(name)}&amp;status=running">${jobsIn('running')}</a></td>
<td>${jobsIn('abandoned') > 0 ? html`<span class="status failed">${jobsIn('abandoned')}</span>` : 0}</td><td>${waiting.length === 0 ? '' : formatMs(Math.max(...waiting) * 1_000)}</td><td>${queue?.workers ?? 'not known'}</td></tr>`;
  });
  const workerRows = workers.map(
    ({
      worker,
      jobs,
      held,
      sample,
    }) => html`<tr><td class="wide">${tenant === null ? worker : bareName(worker)}</td><td>${jobs}</td><td>${held}</td>
<td class="wide">${sample.map(({ id, name }) => html`<a href="/jobs/${id}">${name}</a> `)}${jobs > sample.length && html` and ${jobs - sample.length} more`}</td></tr>`,
  );
  const { delayed, outbox, alerts, uncounted } = backlog;
  return html`${table(`Queues, by what is due${uncounted > 0 ? `; ${uncounted} further due jobs are not counted here` : ''}`, ['Queue', 'Waiting', 'Running', 'Lease over', 'Oldest waits', 'Workers in BullMQ'], queueRows)}
${
  tenant === null &&
  facts([
    ['Not due yet', delayed],
    ['To be given to BullMQ', outbox],
    ['Poison alerts open', alerts],
    [
      'Reconciler',
      lastRound === undefined
        ? html`<span class="status failed">no round is known: is a worker running?</span>`
        : html`${lastRound.worker}, last round ${time(lastRound.at)}`,
    ],
  ])
}
<h2>Workers that run jobs</h2>${workerRows.length === 0 ? html`<p class="none">No job is running.</p>` : table('By their leases', ['Worker', 'Jobs', 'Leases held', 'Its jobs'], workerRows)}`;
}

function doctorFindings({ findings, looked, well }: Diagnosis): Html {
  const rows = findings.map(
    ({
      kind,
      message,
      remedy,
      jobs,
    }) => html`<tr><td><code>${kind}</code></td><td class="wide">${message}</td><td class="wide">${remedy}</td>
<td class="wide">${jobs.slice(0, 10).map(({ id }) => html`<a href="/jobs/${id}">${id.slice(0, 8)}</a> `)}</td></tr>`,
  );
  return html`<p role="status">${well ? 'All is well.' : `${findings.length} findings.`} <span class="soft">Looked at ${looked.rows} rows, ${looked.bullmqJobs} jobs of BullMQ and ${looked.streams} streams.</span></p>
${rows.length > 0 && table('Findings', ['Kind', 'What is wrong', 'What to do', 'Jobs'], rows)}`;
}
