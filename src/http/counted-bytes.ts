/** Counts what each request holds (`ByteBudget`), from its first byte until its answer has been handed to the kernel. */
import type { FastifyInstance, FastifyRequest, onRequestHookHandler } from 'fastify';
import type { ByteBudget, Hold } from './byte-budget.ts';

/** Before any other hook: whatever refuses a request, its answer is counted. Its client's address pays until it has a tenant. */
export function countRequests(app: FastifyInstance, budget: ByteBudget): void {
  app.decorateRequest('hold');
  app.addHook('onRequest', (request, reply, done) => {
    request.hold = budget.open(`address ${request.ip}`);
    // Its answer has been handed to the kernel, or its connection is gone.
    reply.raw.once('close', () => request.hold?.close());
    done();
  });
  const count = (hold: Hold | undefined, bytes: number) => {
    if (hold === undefined) return;
    hold.set(bytes);
    budget.made(hold.account, bytes);
  };
  app.addHook('onSend', (request, _reply, payload, done) => {
    // Shared ones are made once for all.
    if (request.routeOptions.config.sharedAnswer === true) request.hold?.set(0);
    else if (typeof payload === 'string') count(request.hold, Buffer.byteLength(payload));
    else if (Buffer.isBuffer(payload)) count(request.hold, payload.length);
    done(null, payload);
  });
}

/**
 * Refuses requests for which there is no room, before their bodies are read. With tokens a tenant pays for its own,
 * wherever they come from; without, all have one tenant, and their addresses tell them apart.
 */
export function createRoomCheck(budget: ByteBudget, { tenants }: { tenants: boolean }): onRequestHookHandler {
  return (request, _reply, done) => {
    if (tenants) request.hold = budget.open(`tenant ${request.tenant}`);
    try {
      if (request.routeOptions.config.waitsForRoom !== true) request.hold?.requireRoom();
      done();
    } catch (error) {
      done(error as Error);
    }
  };
}

/** Of a request that has passed the hooks. */
export function holdOf(request: FastifyRequest): Hold {
  if (request.hold === undefined) throw new Error('This request is not counted');
  return request.hold;
}

/** Reads from Postgres what may be large or take long: few at once of an account. @throws OncefleetError BUSY */
export function reading<R extends FastifyRequest, T>(
  budget: ByteBudget,
  request: R,
  task: (request: R) => Promise<T>,
): Promise<T> {
  return budget.read(holdOf(request), () => task(request));
}

declare module 'fastify' {
  interface FastifyRequest {
    /** What the request holds. Undefined before the first hook. */
    hold: Hold | undefined;
  }
  interface FastifyContextConfig {
    /** It reads where there is room, and is not refused where there is none. */
    waitsForRoom?: boolean;
    /** Its answer is made once, for all requests. */
    sharedAnswer?: boolean;
  }
}
