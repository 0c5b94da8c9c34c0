/** What a person does to jobs: each is asked again, and noted in `audit_log`. */
import type { FastifyInstance } from 'fastify';
import type { RedriveManyOptions } from '../../client/types.ts';
import { OncefleetError } from '../../errors.ts';
import { parseOptions } from '../../options.ts';
import { redriveManyBody } from '../schemas.ts';
import { type ConsoleContext, entryOf, fieldsOf, findOwn, requireScope } from './context.ts';
import { html } from './html.ts';
import { facts, table } from './layout.ts';
import type { Viewer } from './session.ts';

/** Proxies cut off requests that take much longer. */
const CANARY_TIMEOUT_MS = 50_000;
const HOUR_MS = 3_600_000;

export async function actionRoutes(app: FastifyInstance, context: ConsoleContext): Promise<void> {
  await app.register(async (one) => jobActions(one, context));
  await app.register(async (many) => redriveMany(many, context));
}

async function jobActions(app: FastifyInstance, context: ConsoleContext): Promise<void> {
  const { client, show } = context;
  const actions = {
    cancel: {
      scope: 'enqueue',
      title: 'Cancel this job?',
      about: 'What waits is cancelled at once; what runs is told, and ends when it has heard. It is not undone.',
      run: async (id: string, tenant: string) => (await client.cancel(id, { tenant })).outcome,
    },
    redrive: {
      scope: 'admin',
      title: 'Run this failed job again?',
      about: 'It runs again from its checkpoint or from the start, with its counters at 0.',
      run: async (id: string, tenant: string) => {
        await client.redrive(id, { tenant });
        return 'redriven';
      },
    },
  } as const;
  for (const [action, { scope, title, about, run }] of Object.entries(actions)) {
    const path = `/jobs/:id/${action}`;
    app.get(path, { schema: { hide: true } }, async (request, reply) => {
      const { id, tenant } = await findOwn(context, request);
      requireScope(request, scope);
      const job = await client.get(id, { tenant, maxBytes: 0 });
      const main = html`<h1>${title}</h1>
${facts([
  ['Job', job?.name],
  ['Key', job?.key],
  ['Tenant', tenant],
  ['Status', job?.status],
  ['Id', id],
])}
<p>${about}</p>
<form method="post" action="/jobs/${id}/${action}" class="row"><button class="danger" autofocus>${action === 'cancel' ? 'Cancel the job' : 'Redrive'}</button>
<a class="button plain" href="/jobs/${id}">Leave it as it is</a></form>`;
      return show(request, reply, { title, here: 'jobs', main });
    });
    app.post(path, { schema: { hide: true } }, async (request, reply) => {
      const { id, tenant } = await findOwn(context, request);
      requireScope(request, scope);
      const entry = entryOf(request, { action: action as 'cancel', jobId: id, tenant, details: {} });
      await client.inspector.act(entry, () => run(id, tenant), String);
      return reply.redirect(`/jobs/${id}`, 303);
    });
  }
}

async function redriveMany(app: FastifyInstance, context: ConsoleContext): Promise<void> {
  const { client, show, streams } = context;
  app.get('/redrive', { schema: { hide: true } }, async (request, reply) => {
    requireScope(request, 'admin');
    const viewer = request.viewer as Viewer;
    const fields = fieldsOf(request.query);
    const input = (name: string, text: string, more: { type?: string; value?: string; required?: boolean } = {}) =>
      html`<p><label for="r-${name}">${text}</label><input id="r-${name}" name="${name}" type="${more.type ?? 'text'}" value="${fields[name] ?? more.value ?? ''}"${more.required === true && html` required`}></p>`;
    const main = html`<h1>Redrive failed jobs</h1>
<p>Failed jobs that match run again, longest failed first. Some go first as canaries: the rest runs only if all of them complete.</p>
<form method="post" action="/redrive" class="panel narrow">
${viewer.tenant === null && input('tenant', 'Tenant', { required: true })}
${input('name', 'Name (empty: any)')}${input('code', 'Error code (empty: any)')}
${input('hours', 'Failed in the last hours (empty: ever)', { type: 'number' })}
${input('limit', 'At most', { type: 'number', value: '100' })}${input('canary', 'Canaries', { type: 'number', value: '1' })}
<p><label><input type="checkbox" name="sure" value="yes" required> Yes, run them again</label></p>
<div class="row"><button class="danger">Redrive</button><a class="button plain" href="/">Leave them as they are</a></div></form>`;
    return show(request, reply, { title: 'Redrive failed jobs', here: 'jobs', main });
  });

  app.post('/redrive', { schema: { hide: true } }, async (request, reply) => {
    requireScope(request, 'admin');
    const { tenant: named, sure, hours, ...fields } = fieldsOf(request.body);
    const tenant = (request.viewer as Viewer).tenant ?? named;
    if (sure !== 'yes' || tenant === undefined)
      throw new OncefleetError('INPUT_INVALID', 'Name the tenant, and say that you are sure');
    const { name, code } = fields;
    const options = parseOptions('Redrive', redriveManyBody, {
      name,
      code,
      ...(hours === undefined ? {} : { withinMs: Math.round(Number(hours) * HOUR_MS) }),
      limit: Number(fields['limit'] ?? 100),
      canary: Number(fields['canary'] ?? 0),
    });
    const left = new AbortController();
    const onClose = () => left.abort();
    reply.raw.once('close', onClose);
    const signal = AbortSignal.any([left.signal, streams.drainSignal]);
    const entry = entryOf(request, { action: 'redrive-many', jobId: null, tenant, details: options });
    const run = () =>
      client.redriveMany({ canaryTimeoutMs: CANARY_TIMEOUT_MS, ...(options as RedriveManyOptions), tenant, signal });
    const result = await client.inspector
      .act(
        entry,
        run,
        (done) => `${done.redriven} of ${done.matched} redriven, ${done.failedCanaries.length} canaries failed`,
      )
      .finally(() => reply.raw.off('close', onClose));
    const { matched, redriven, failedCanaries } = result;
    const rows = failedCanaries.map(
      (canary) =>
        html`<tr><td><a href="/jobs/${canary.id}">${canary.id}</a></td><td class="wide"><code>${canary.code}</code> ${canary.message}</td></tr>`,
    );
    const main = html`<h1>${redriven} of ${matched} failed jobs run again</h1>
${rows.length > 0 && html`<div class="panel problem"><p>Canaries did not complete, so the rest was left as it is.</p></div>${table('Canaries', ['Job', 'Error'], rows)}`}
<p><a href="/?status=failed">Failed jobs</a></p>`;
    return show(request, reply, { title: 'Redriven', here: 'jobs', main });
  });
}
