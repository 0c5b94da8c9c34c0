/** The style sheet and the script of the console, named by their content so that browsers keep them. */
import { createHash } from 'node:crypto';
import type { FastifyInstance } from 'fastify';
import { SCRIPT } from './script.ts';
import { STYLE } from './style.ts';

const ASSETS = {
  'style.css': { type: 'text/css; charset=utf-8', body: Buffer.from(STYLE) },
  'console.js': { type: 'text/javascript; charset=utf-8', body: Buffer.from(SCRIPT) },
} as const;

const VERSION = createHash('sha256').update(STYLE).update(SCRIPT).digest('hex').slice(0, 12);

export function assetPath(name: keyof typeof ASSETS): string {
  return `/console/${name}?v=${VERSION}`;
}

/** Needs no login: they are the same for all, and public. */
export async function assetRoutes(app: FastifyInstance): Promise<void> {
  for (const [name, { type, body }] of Object.entries(ASSETS))
    app.get(`/console/${name}`, { config: { quiet: true }, schema: { hide: true } }, async (_request, reply) =>
      reply.header('cache-control', 'public, max-age=31536000, immutable').type(type).send(body),
    );
}
