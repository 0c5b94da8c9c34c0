/** /openapi.json: every route with its schemas and error codes. */
import type { FastifyDynamicSwaggerOptions } from '@fastify/swagger';
import { z } from 'zod';
import { problemSchema } from './problem.ts';
import { enqueueAnswer, eventPage, jobAnswer } from './schemas.ts';

/** Shapes that several routes share, or that people look for by name. */
const COMPONENTS = { Problem: problemSchema, Job: jobAnswer, Enqueued: enqueueAnswer, EventPage: eventPage };

interface OpenApiOptions {
  version: string;
  /** Whether requests need a token. */
  secured: boolean;
}

/**
 * Options of @fastify/swagger. The conversion is ours, because the type provider's reads
 * zod's global registry, where the ids of users' own schemas may collide.
 */
export function openApiOptions({ version, secured }: OpenApiOptions): FastifyDynamicSwaggerOptions {
  return {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'Oncefleet',
        version,
        description:
          'Enqueue jobs that run once, and follow what they do. Errors are `application/problem+json` with a stable `code`.',
      },
      components: {
        schemas: Object.fromEntries(
          Object.entries(COMPONENTS).map(([name, schema]) => [name, toJsonSchema(schema, 'output')]),
        ),
        ...(secured ? { securitySchemes: { token: { type: 'http' as const, scheme: 'bearer' } } } : {}),
      },
    },
    transform: ({ schema, url }) => ({
      schema: describeRoute(schema as Record<string, unknown> | undefined, secured, url),
      url,
    }),
  };
}

function describeRoute(
  schema: Record<string, unknown> | undefined,
  secured: boolean,
  url: string,
): Record<string, unknown> {
  if (schema === undefined || schema.hide === true) return { hide: true };
  const described: Record<string, unknown> =
    secured && /^\/(v1|api\/chat)\b/.test(url) ? { security: [{ token: [] }] } : {};
  for (const [part, value] of Object.entries(schema)) {
    if (part === 'response') described.response = describeResponses(value as Record<string, unknown>);
    else described[part] = value instanceof z.ZodType ? toJsonSchema(value, 'input') : value;
  }
  return described;
}

function describeResponses(responses: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(responses).map(([status, response]) => {
      if (response instanceof z.ZodType) return [status, describeAnswer(response)];
      const { description, content } = response as {
        description: string;
        content: Record<string, { schema: z.ZodType }>;
      };
      const described = Object.entries(content).map(([type, { schema }]) => [type, { schema: reference(schema) }]);
      return [status, { description, content: Object.fromEntries(described) }];
    }),
  );
}

function describeAnswer(schema: z.ZodType): Record<string, unknown> {
  const description = schema.description ?? 'Done.';
  if (schema instanceof z.ZodUndefined) return { description, type: 'null' };
  return { description, content: { 'application/json': { schema: reference(schema) } } };
}

function reference(schema: z.ZodType): Record<string, unknown> {
  // `describe()` makes a new schema of the same shape.
  const known = Object.entries(COMPONENTS).find(
    ([, component]) => component === schema || sameShape(component, schema),
  );
  return known === undefined ? toJsonSchema(schema, 'output') : { $ref: `#/components/schemas/${known[0]}` };
}

function sameShape(a: z.ZodType, b: z.ZodType): boolean {
  return a instanceof z.ZodObject && b instanceof z.ZodObject && a.def.shape === b.def.shape;
}

function toJsonSchema(schema: z.ZodType, io: 'input' | 'output'): Record<string, unknown> {
  const { $schema: _, ...json } = z.toJSONSchema(schema, { io, unrepresentable: 'any' });
  return json;
}
