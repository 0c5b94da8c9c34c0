/** What came is not even HTTP, or not in time: there is no request to answer within Fastify. */
import { randomUUID } from 'node:crypto';
import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import { OncefleetError } from '../errors.ts';
import type { Connections } from './connections.ts';
import { PROBLEM_CONTENT_TYPE, toProblem } from './problem.ts';

export function createClientErrorHandler(connections: Connections) {
  return (error: Error & { code?: string }, socket: Socket): void => {
    // In front of another answer it would be taken for that one.
    if (error.code === 'ECONNRESET' || !connections.canAnswer(socket)) {
      socket.destroy();
      return;
    }
    const stalled = error.code === 'ERR_HTTP_REQUEST_TIMEOUT';
    const problem = toProblem(
      stalled
        ? new OncefleetError('REQUEST_STALLED', 'The request did not arrive in time; send it again')
        : new OncefleetError('BODY_INVALID', 'This is not a valid HTTP request'),
      randomUUID(),
    );
    const status = error.code === 'HPE_HEADER_OVERFLOW' ? 431 : problem.status;
    const body = JSON.stringify({ ...problem, status });
    const head = [
      `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
      `Content-Type: ${PROBLEM_CONTENT_TYPE}`,
      `Content-Length: ${Buffer.byteLength(body)}`,
      `X-Request-Id: ${problem.requestId}`,
      'Connection: close',
    ];
    socket.end(`${head.join('\r\n')}\r\n\r\n${body}`, () => socket.destroy());
  };
}
