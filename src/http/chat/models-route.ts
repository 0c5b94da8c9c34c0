/** Which models there are, as OpenAI's clients ask for it. */
import type { FastifyInstance } from 'fastify';
import { z } from 'zod';
import type { JobClient } from '../../client/client.ts';
import { findModel, listModels } from './models.ts';

const model = z.object({ id: z.string(), object: z.literal('model'), created: z.int(), owned_by: z.string() });
const tags = ['openai'];
const errors = 'openai' as const;

export async function modelRoutes(app: FastifyInstance, { client }: { client: JobClient }): Promise<void> {
  app.get(
    '/models',
    {
      config: { errors },
      schema: {
        summary: 'Jobs that answer chat clients, and collections as `answer/<collection>`',
        tags,
        response: { 200: z.object({ object: z.literal('list'), data: z.array(model) }) },
      },
    },
    async (request) => ({ object: 'list', data: (await listModels(client, request.tenant)).map(describe) }),
  );

  app.get(
    '/models/:model',
    {
      config: { errors },
      schema: {
        summary: 'One of them',
        tags,
        params: z.object({ model: z.string().describe('Its name, percent-encoded.') }),
        response: { 200: model },
      },
    },
    async (request) => {
      const name = (request.params as { model: string }).model;
      findModel(client, name);
      return describe(name);
    },
  );
}

function describe(id: string): z.infer<typeof model> {
  return { id, object: 'model', created: 0, owned_by: 'oncefleet' };
}
