/** Fastify's overloads confuse the linter's types of promises; here each call has one signature. */
import type { AddressInfo } from 'node:net';
import type { FastifyInstance, InjectOptions, LightMyRequestResponse } from 'fastify';

/** A request without a socket. */
export async function inject(app: FastifyInstance, request: string | InjectOptions): Promise<LightMyRequestResponse> {
  return app.inject(request);
}

/** Listens on a port of this machine, a free one unless told, and returns it. */
export async function listenLocally(app: FastifyInstance, port = 0): Promise<number> {
  const listening: Promise<string> = app.listen({ port, host: '127.0.0.1' });
  await listening;
  return (app.server.address() as AddressInfo).port;
}
