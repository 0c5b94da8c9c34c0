/** Fastify's overloads confuse the linter's types of promises; here each call has one signature. */
import type { AddressInfo } from 'node:net';
import type { FastifyInstance, InjectOptions, LightMyRequestResponse } from 'fastify';

/** A request without a socket. */
export async function inject(app: FastifyInstance, request: string | InjectOptions): Promise<LightMyRequestResponse> {
  return app.inject(request);
}

/** Listens on a free port of this machine, which it returns. */
export async function listenLocally(app: FastifyInstance): Promise<number> {
  const listening: Promise<string> = app.listen({ port: 0, host: '127.0.0.1' });
  await listening;
  return (app.server.address() as AddressInfo).port;
}
