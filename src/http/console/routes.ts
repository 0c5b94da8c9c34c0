/** The console: pages for people, at `/`. */
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { CONTROL_BODY_BYTES } from '../body.ts';
import { createRoomCheck } from '../counted-bytes.ts';
import { createOriginCheck } from '../origins.ts';
import { sendProblem, toProblem } from '../problem.ts';
import { actionRoutes } from './action-routes.ts';
import { assetRoutes } from './assets.ts';
import type { ConsoleContext, ConsoleOptions } from './context.ts';
import { fleetRoute } from './fleet-page.ts';
import { html } from './html.ts';
import { jobRoutes } from './job-routes.ts';
import { page } from './layout.ts';
import { askToLogIn, loginRoutes } from './login-routes.ts';
import { playgroundRoutes } from './playground-routes.ts';
import { Sessions } from './session.ts';

/** Styles and scripts are files of this server: what is put into a page as text runs nowhere. */
const CONTENT_SECURITY_POLICY =
  "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

export async function consoleRoutes(app: FastifyInstance, options: ConsoleOptions): Promise<void> {
  const sessions = new Sessions(options.config, options.client);
  const show: ConsoleContext['show'] = (request, reply, { title, here, main }) => {
    const { viewer } = request;
    const board = options.board && viewer?.tenant === null;
    const text = page({ title, viewer, board, main, ...(here === undefined ? {} : { here }) }).toString();
    return reply.type('text/html; charset=utf-8').send(Buffer.from(text));
  };
  const context = { ...options, sessions, show };
  app.addHook('onClose', async () => sessions.stop());
  app.decorateRequest('viewer', undefined);
  // A browser adds the cookie to whatever a page asks of it.
  app.addHook('onRequest', createOriginCheck([]));
  app.addHook('onRequest', async (_request, reply) => {
    reply.headers({
      'content-security-policy': CONTENT_SECURITY_POLICY,
      'referrer-policy': 'same-origin',
      'cache-control': 'no-store',
    });
  });
  app.setErrorHandler((error, request, reply) => sendProblemPage(context, error as FastifyError, request, reply));
  app.addContentTypeParser(
    'application/x-www-form-urlencoded',
    { parseAs: 'string', bodyLimit: CONTROL_BODY_BYTES },
    (_request, body, done) => done(null, Object.fromEntries(new URLSearchParams(body as string))),
  );
  await app.register(assetRoutes);
  await app.register(async (open) => loginRoutes(open, context));
  await app.register(async (pages) => {
    pages.addHook('onRequest', async (request, reply) => {
      request.viewer = await sessions.find(request);
      if (request.viewer === undefined) return askToLogIn(request, reply);
      request.tenant = request.viewer.tenant ?? '';
      if (request.viewer.sessionId === null) return undefined;
      request.caller = `session ${request.viewer.sessionId}`;
      sessions.watch(request, reply);
      return undefined;
    });
    pages.addHook('onRequest', createRoomCheck(options.budget, { tenants: false }));
    await jobRoutes(pages, context);
    await actionRoutes(pages, context);
    await fleetRoute(pages, context);
    await playgroundRoutes(pages, context);
  });
}

function sendProblemPage(
  { show }: ConsoleContext,
  error: FastifyError,
  request: FastifyRequest,
  reply: FastifyReply,
): void {
  if (request.headers.accept?.includes('text/html') !== true) {
    sendProblem(error, request, reply);
    return;
  }
  const { title, detail, code, status, requestId } = toProblem(error, request.id);
  if (status >= 500) request.log.warn({ code }, 'page not shown');
  if (status === 503) reply.header('retry-after', 5);
  show(request, reply.code(status), {
    title: code,
    main: html`<h1>${title}</h1><div class="panel problem" role="alert"><p>${detail}</p>
<p class="soft">${code} · request <code>${requestId}</code></p></div><p><a href="/">All jobs</a></p>`,
  });
}
