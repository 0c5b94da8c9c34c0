/** The route of OpenAI's Chat Completions API. */
import type { FastifyInstance } from 'fastify';
import { z } from 'zod';
import { ChatCompletionDialect } from '../dialects/chat-completions.ts';
import { type StreamRoutesOptions, streamEvents } from '../event-stream.ts';
import { type AskedChat, ask, readBody } from './ask.ts';
import { chatMessages, flag, metadata } from './messages.ts';
import { projectToEnd, scanJournal } from './project.ts';

const body = z.looseObject({
  model: z.string('expected the name of a model, as GET /v1/models lists them').min(1).max(200),
  messages: chatMessages,
  stream: flag,
  stream_options: z.looseObject({ include_usage: flag }).nullish(),
  n: z.literal(1, 'expected 1: there is one answer').nullish(),
  metadata,
  temperature: z.number().nullish(),
  top_p: z.number().nullish(),
});

export async function completionsRoutes(app: FastifyInstance, options: StreamRoutesOptions): Promise<void> {
  const { client } = options;
  app.post(
    '/chat/completions',
    {
      config: { errors: 'openai' as const },
      schema: {
        summary: "Ask a model, in the words of OpenAI's Chat Completions API",
        description: 'Disconnecting never cancels: the same request under its key attaches to the answer.',
        tags: ['openai'],
        body: z.unknown(),
        response: {
          200: z.looseObject({ id: z.string(), object: z.literal('chat.completion') }),
          500: z.looseObject({ error: z.looseObject({ message: z.string() }) }),
        },
      },
    },
    async (request, reply) => {
      const { model, messages, stream, metadata: pairs, ...others } = readBody(body, request.body);
      const asked: AskedChat = {
        model,
        messages,
        earlier: 0,
        instructions: null,
        metadata: pairs,
        own: { temperature: others.temperature ?? null, topP: others.top_p ?? null },
      };
      const { handle, record } = await ask(client, { api: 'completions', asked, field: 'messages', request, reply });
      const head = {
        jobId: handle.id,
        createdAt: Math.floor(record.createdAt / 1_000),
        model,
        includeUsage: others.stream_options?.include_usage ?? false,
      };
      const whole = () => new ChatCompletionDialect({ ...head, from: Number.POSITIVE_INFINITY });
      if (stream) {
        // What was taken back before this reader came is not sent to it: it would be cut off each time it comes.
        const before = whole();
        await scanJournal(options, handle.id, before, request);
        const dialect = new ChatCompletionDialect({ ...head, from: before.startedOver });
        return streamEvents(options, { id: handle.id, after: -1, dialect, request, reply });
      }
      const ended = (await projectToEnd(options, handle.id, whole, { request, reply })) as ChatCompletionDialect;
      if (ended.error === undefined) return reply.send(ended.completion());
      // Under its key it would be the same again.
      return reply.code(500).header('x-should-retry', 'false').send(ended.error);
    },
  );
}
