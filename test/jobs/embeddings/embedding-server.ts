/** A real HTTP server that speaks OpenAI's embeddings, and does as a test says. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface EmbeddingRequest {
  headers: IncomingMessage['headers'];
  texts: string[];
  model: string;
  response: ServerResponse;
  /** A vector for each text, by what it is about. */
  answer(vectors?: readonly (readonly unknown[])[]): void;
  status(code: number, body: unknown, headers?: Record<string, string>): void;
}

export interface EmbeddingServer {
  baseUrl: string;
  requests: EmbeddingRequest[];
  /** Every text that was answered with a vector, as often as it was. */
  answered: string[];
  close(): Promise<void>;
}

/** Words of one line mean the same. */
const MEANINGS = [
  /\b(?:car|automobile|vehicle)s?\b/i,
  /\b(?:doctor|physician|surgeon)s?\b/i,
  /\b(?:soup|broth|bouillon)s?\b/i,
  /\b(?:rain|drizzle|downpour)s?\b/i,
];

/** One dimension a meaning, and one for what has none. */
export function meaningOf(text: string): number[] {
  const values = MEANINGS.map((pattern) => (pattern.test(text) ? 1 : 0));
  return [...values, values.includes(1) ? 0 : 1];
}

export async function startEmbeddingServer(
  handle: (request: EmbeddingRequest, n: number) => void | Promise<void> = (request) => request.answer(),
): Promise<EmbeddingServer> {
  const requests: EmbeddingRequest[] = [];
  const answered: string[] = [];
  const server = createServer(async (incoming, response) => {
    const parts: Buffer[] = [];
    for await (const part of incoming) parts.push(part as Buffer);
    const { input, model } = JSON.parse(Buffer.concat(parts).toString()) as { input: string[]; model: string };
    const texts = typeof input === 'string' ? [input] : input;
    const request: EmbeddingRequest = {
      headers: incoming.headers,
      texts,
      model,
      response,
      answer(vectors = texts.map(meaningOf)) {
        answered.push(...texts);
        const data = vectors.map((embedding, index) => ({ object: 'embedding', index, embedding }));
        this.status(200, { object: 'list', data, model, usage: { prompt_tokens: 3, total_tokens: 3 } });
      },
      status(code, body, headers = {}) {
        response.writeHead(code, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));
      },
    };
    requests.push(request);
    await handle(request, requests.length);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    baseUrl: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    requests,
    answered,
    async close() {
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}
