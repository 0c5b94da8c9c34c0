import type { FastifyInstance } from 'fastify';
import { OncefleetError } from '../errors.ts';

/** Requests that meet no route are told which methods their path has, if it has any. Call it before there are routes. */
export function answerUnknownRoutes(app: FastifyInstance): void {
  const routes = new RouteTable();
  app.addHook('onRoute', ({ method, url }) => routes.add(method, url));
  app.setNotFoundHandler((request, reply) => {
    const path = (request.raw.url ?? '').split('?', 1)[0] as string;
    const allowed = routes.methodsOf(path);
    if (allowed.length === 0)
      throw new OncefleetError('ROUTE_NOT_FOUND', `No route ${request.method} ${path.slice(0, 200)}`);
    reply.header('allow', allowed.join(', '));
    throw new OncefleetError('METHOD_NOT_ALLOWED', `This path takes ${allowed.join(', ')}`);
  });
}

/** Which methods a path has, for 405. */
class RouteTable {
  readonly #routes: { pattern: RegExp; methods: Set<string> }[] = [];

  add(method: string | string[], url: string): void {
    const source = url
      .replace(/[.+^${}()|[\]\\]/g, '\\$&')
      .replace(/:[A-Za-z]+/g, '[^/]+')
      .replace(/\*/g, '.*');
    this.#routes.push({ pattern: new RegExp(`^${source}$`), methods: new Set([method].flat()) });
  }

  methodsOf(path: string): string[] {
    const methods = this.#routes.filter(({ pattern }) => pattern.test(path)).flatMap((route) => [...route.methods]);
    return [...new Set(methods)].sort();
  }
}
