/** The playground: upload documents, ask about them, and see where the answer has it from. */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { ChunkRecord, CollectionRecord } from '../../client/collections.ts';
import { OncefleetError } from '../../errors.ts';
import { isUuid } from '../../util/uuid.ts';
import { readChunks, readForm } from '../upload-body.ts';
import { type ConsoleContext, entryOf, fieldsOf, requireScope } from './context.ts';
import { type Html, html } from './html.ts';
import { can, type Viewer } from './session.ts';

/** Chunks around the one that a source points to. */
const CHUNKS = 20;

export async function playgroundRoutes(app: FastifyInstance, context: ConsoleContext): Promise<void> {
  const { client, config, show } = context;
  const tenantOf = (request: FastifyRequest, named?: string) => tenantIn(context, request, named);

  app.get('/playground', { schema: { hide: true } }, async (request, reply) => {
    const viewer = request.viewer as Viewer;
    const fields = fieldsOf(request.query);
    const tenant = tenantOf(request, fields['tenant']);
    const { collections } = await client.collections.list({ tenant, limit: 100 });
    const answer = fields['answer'];
    const job = isUuid(answer) ? await client.get(answer, { tenant, maxBytes: 64 * 1024 }) : undefined;
    const main = html`<h1>Playground</h1>
<div class="split"><section>${can(viewer, 'enqueue') && uploadForm(collections, tenant)}${collectionList(collections)}</section>
<section>${can(viewer, 'enqueue') && askForm(collections, tenant, fields)}${job !== undefined && answerOf(job.id, job.input, tenant)}</section></div>`;
    return show(request, reply, { title: 'Playground', here: 'playground', main });
  });

  app.post('/playground/ask', { schema: { hide: true } }, async (request, reply) => {
    requireScope(request, 'enqueue');
    const { question, collection, tenant: named } = fieldsOf(request.body);
    const tenant = tenantOf(request, named);
    const entry = entryOf(request, { action: 'enqueue', jobId: null, tenant, details: { name: 'answer' } });
    const { id } = await client.inspector.act(
      entry,
      () => client.enqueue('answer', { question, collection }, { tenant }),
      (handle) => `job ${handle.id}`,
    );
    const back = new URLSearchParams({ answer: id, collection: collection ?? '', tenant });
    return reply.redirect(`/playground?${back.toString()}`, 303);
  });

  await app.register(async (upload) => {
    // The handler reads the body itself, as it comes.
    upload.removeAllContentTypeParsers();
    upload.addContentTypeParser('*', (_request, _payload, done) => done(null));
    upload.post('/playground/upload', { schema: { hide: true } }, async (request, reply) => {
      requireScope(request, 'enqueue');
      const { collection = '', tenant: named } = fieldsOf(request.query);
      const tenant = tenantOf(request, named);
      const entry = entryOf(request, { action: 'upload', jobId: null, tenant, details: { collection } });
      const files = readForm(readChunks(request.raw, context.stallMs), request.headers);
      const limits = {
        ...(config.uploadLimitBytes === undefined ? {} : { maxBytes: config.uploadLimitBytes }),
        ...(config.uploadStoreBytes === undefined ? {} : { maxStoredBytes: config.uploadStoreBytes }),
      };
      const { id } = await client.inspector.act(
        entry,
        () => client.collections.add(collection, files, { tenant, ...limits }),
        (handle) => `job ${handle.id}`,
      );
      return reply.redirect(`/jobs/${id}`, 303);
    });
  });

  await documentRoute(app, context);
}

/** The viewer's, or the one that an operator of all names. */
function tenantIn({ config }: ConsoleContext, { viewer }: FastifyRequest, named: string | undefined): string {
  return (viewer as Viewer).tenant ?? named ?? config.tenant;
}

async function documentRoute(app: FastifyInstance, context: ConsoleContext): Promise<void> {
  const { client, show } = context;
  app.get('/playground/documents/:collection/:document', { schema: { hide: true } }, async (request, reply) => {
    const { collection, document } = request.params as { collection: string; document: string };
    const { at = '0', tenant: named } = fieldsOf(request.query);
    const tenant = tenantIn(context, request, named);
    const first = Math.max(0, Math.floor(Number(at)) - 3);
    if (!Number.isSafeInteger(first)) throw new OncefleetError('INPUT_INVALID', 'at: expected the number of a chunk');
    const chunks: Awaited<ReturnType<typeof client.collections.chunk>>[] = [];
    for (let ordinal = first; ordinal < first + CHUNKS; ordinal++) {
      const chunk = await client.collections
        .chunk(collection, document, ordinal, { tenant })
        .catch((error: unknown) => {
          if (error instanceof OncefleetError && error.code === 'DOCUMENT_NOT_FOUND' && chunks.length > 0)
            return undefined;
          throw error;
        });
      if (chunk === undefined) break;
      chunks.push(chunk);
    }
    const main = html`<h1>${chunks[0]?.title}</h1><p class="soft">${chunks[0]?.path}, in ${collection}</p>${chunks.map(chunkOf)}`;
    return show(request, reply, { title: chunks[0]?.path ?? document, here: 'playground', main });
  });
}

function uploadForm(collections: readonly CollectionRecord[], tenant: string): Html {
  const name = collections[0]?.name ?? 'docs';
  return html`<h2>Put documents in</h2>
<form class="panel" method="post" enctype="multipart/form-data" action="/playground/upload?collection=${name}&amp;tenant=${encodeURIComponent(tenant)}" data-upload="${encodeURIComponent(tenant)}">
<p><label for="u-collection">Collection</label><input id="u-collection" value="${name}" required maxlength="100"></p>
<p><label for="u-files">Documents</label><input id="u-files" type="file" name="files" multiple required></p>
<button>Upload</button></form>`;
}

function askForm(collections: readonly CollectionRecord[], tenant: string, fields: Record<string, string>): Html {
  const option = ({ name }: CollectionRecord) =>
    html`<option value="${name}"${fields['collection'] === name && html` selected`}>${name}</option>`;
  return html`<h2>Ask</h2>
<form class="panel" method="post" action="/playground/ask"><input type="hidden" name="tenant" value="${tenant}">
<p><label for="a-collection">Collection</label><select id="a-collection" name="collection" required>${collections.map(option)}</select></p>
<p><label for="a-question">Question</label><textarea id="a-question" name="question" rows="3" maxlength="4000" required></textarea></p>
<button>Ask</button></form>`;
}

function collectionList(collections: readonly CollectionRecord[]): Html {
  if (collections.length === 0) return html`<p class="none">No documents yet.</p>`;
  return html`<h2>Collections</h2><ul>${collections.map(({ name, documents, chunks }) => html`<li>${name}: ${documents} documents, ${chunks} chunks</li>`)}</ul>`;
}

function answerOf(id: string, input: unknown, tenant: string): Html {
  const { question = '', collection = '' } = (input ?? {}) as { question?: string; collection?: string };
  return html`<h2>${question}</h2>
<div data-stream="/console/jobs/${id}/events" data-live="false" data-collection="${collection}" data-tenant="${tenant}">
<p class="soft"><span data-part="state" role="status">connecting</span> · <span data-part="count">0 events</span> · <a href="/jobs/${id}">the job</a></p>
<pre data-part="text" tabindex="0" aria-live="polite"></pre><ol class="sources" data-part="sources" aria-label="Sources"></ol></div>`;
}

function chunkOf({ ordinal, heading, content, page }: ChunkRecord): Html {
  const place = page === null ? '' : ` page ${page}`;
  return html`<section class="chunk" id="chunk-${ordinal}"><p class="soft">[${ordinal}]${place} ${heading}</p><pre>${content}</pre></section>`;
}
