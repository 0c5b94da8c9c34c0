/** Logging in with a token, and out. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { OncefleetError } from '../../errors.ts';
import { toProblem } from '../problem.ts';
import type { ConsoleContext } from './context.ts';
import { html } from './html.ts';

/** To the login and back, for pages; others are told. */
export function askToLogIn(request: FastifyRequest, reply: FastifyReply): FastifyReply {
  if (request.method !== 'GET' || request.headers.accept?.includes('text/html') !== true)
    throw new OncefleetError('UNAUTHORIZED', 'Log in at /login');
  return reply.redirect(`/login?next=${encodeURIComponent(request.raw.url ?? '/')}`, 303);
}

export async function loginRoutes(app: FastifyInstance, context: ConsoleContext): Promise<void> {
  const { sessions, show } = context;
  const login = (next: string, problem?: string) => html`<h1>Log in</h1>
${problem !== undefined && html`<div class="panel problem" role="alert"><p>${problem}</p></div>`}
<form class="panel narrow" method="post" action="/login">
<input type="hidden" name="next" value="${next}">
<p><label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus></p>
<p class="soft">The admin token shows the jobs of all tenants; a tenant's token, with the scope read, those of its own.</p>
<button>Log in</button>
</form>`;
  app.get('/login', { schema: { hide: true } }, async (request, reply) => {
    const next = pathIn((request.query as { next?: unknown }).next);
    if (!sessions.needed) return reply.redirect(next, 303);
    return show(request, reply, { title: 'Log in', main: login(next) });
  });
  app.post('/login', { schema: { hide: true } }, async (request, reply) => {
    const { token, next } = (request.body ?? {}) as { token?: unknown; next?: unknown };
    try {
      await sessions.open(typeof token === 'string' ? token.trim() : '', request, reply);
    } catch (error) {
      const { status, detail } = toProblem(error, request.id);
      if (status !== 401 && status !== 429) throw error;
      return show(request, reply.code(status), { title: 'Log in', main: login(pathIn(next), `${detail}.`) });
    }
    return reply.redirect(pathIn(next), 303);
  });
  app.post('/logout', { schema: { hide: true } }, async (request, reply) => {
    const viewer = await sessions.find(request);
    if (viewer !== undefined) await sessions.close(viewer, request, reply);
    return reply.redirect('/login', 303);
  });
}

/** A path of this server: no other place is a login to lead to. */
function pathIn(next: unknown): string {
  return typeof next === 'string' && /^\/(?![/\\])[\x21-\x7e]{0,2000}$/.test(next) ? next : '/';
}
