/** Packages that only the service needs. An install may leave them out: `npm install --omit=optional`. */
import { createRequire } from 'node:module';
import { OncefleetError } from './errors.ts';

/** Those that are imported by name; the files of Bull Board's pages come with `@bull-board/fastify`. */
export const WEB_PACKAGES = ['fastify', '@fastify/swagger', '@bull-board/api', '@bull-board/fastify'];
export const METRICS_PACKAGES = ['prom-client'];
export const MODEL_PACKAGES = ['ai', '@ai-sdk/openai-compatible', 'eventsource-parser', 'tokenx'];

/**
 * @param what that needs them, as the message begins
 * @throws OncefleetError SERVICE_MISSING some are not installed; the message has the command that installs them
 */
export function requirePackages(what: string, names: readonly string[]): void {
  const missing = names.filter((name) => !isInstalled(name));
  if (missing.length === 0) return;
  throw new OncefleetError(
    'SERVICE_MISSING',
    `${what} needs packages that were left out (${missing.join(', ')}): run \`npm install --include=optional\``,
    { details: { missing } },
  );
}

function isInstalled(name: string): boolean {
  try {
    createRequire(import.meta.url).resolve(name);
    return true;
  } catch (error) {
    // Anything else is said of a package that is there, such as one without an entry for `require`.
    return (error as NodeJS.ErrnoException).code !== 'MODULE_NOT_FOUND';
  }
}
