/** A real HTTP server that speaks OpenAI's chat completions as event stream, and does as a test says. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface ModelRequest {
  headers: IncomingMessage['headers'];
  // biome-ignore lint/suspicious/noExplicitAny: a test looks at what it wants.
  body: any;
  response: ServerResponse;
  /** Resolves once the client has cut the connection, or the response is done. */
  closed: Promise<void>;
  /** One chunk with this delta. */
  delta(text: string): void;
  /** The finish reason, the usage and `[DONE]`. */
  finish(reason?: string): void;
  send(data: unknown): void;
  status(code: number, body: unknown, headers?: Record<string, string>): void;
}

export interface ModelServer {
  baseUrl: string;
  requests: ModelRequest[];
  close(): Promise<void>;
}

export async function startModelServer(handle: (request: ModelRequest) => void | Promise<void>): Promise<ModelServer> {
  const requests: ModelRequest[] = [];
  const server = createServer(async (incoming, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of incoming) chunks.push(chunk as Buffer);
    const closed = new Promise<void>((resolve) => response.once('close', () => resolve()));
    const open = (): void => {
      if (!response.headersSent) response.writeHead(200, { 'content-type': 'text/event-stream' });
    };
    const send = (data: unknown): void => {
      open();
      response.write(`data: ${typeof data === 'string' ? data : JSON.stringify(data)}\n\n`);
    };
    const base = { id: 'c1', object: 'chat.completion.chunk', created: 1, model: 'test-model' };
    const request: ModelRequest = {
      headers: incoming.headers,
      body: JSON.parse(Buffer.concat(chunks).toString() || 'null'),
      response,
      closed,
      send,
      delta: (text) =>
        send({ ...base, choices: [{ index: 0, delta: { role: 'assistant', content: text }, finish_reason: null }] }),
      finish: (reason = 'stop') => {
        send({ ...base, choices: [{ index: 0, delta: {}, finish_reason: reason }] });
        send({ ...base, choices: [], usage: { prompt_tokens: 11, completion_tokens: 7, total_tokens: 18 } });
        send('[DONE]');
        response.end();
      },
      status: (code, body, headers = {}) => {
        response.writeHead(code, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));
      },
    };
    requests.push(request);
    await handle(request);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    baseUrl: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    requests,
    async close() {
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}
