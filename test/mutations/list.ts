/**
 * The mutations, put together by reading this folder: those of `src/db/jobs/claim.ts` are in
 * `test/mutations/src/db/jobs/claim.ts`. `npm run mutate` checks each.
 */
import { readdirSync } from 'node:fs';
import type { Change, Mutation } from './mutation.ts';

const FOLDER = new URL('./', import.meta.url);

async function read(path: string): Promise<Mutation[]> {
  const { default: changes } = (await import(new URL(path, FOLDER).href)) as { default: readonly Change[] };
  return changes.map((change) => ({ ...change, file: path }));
}

const paths = readdirSync(FOLDER, { recursive: true, encoding: 'utf8' })
  .map((path) => path.replaceAll('\\', '/'))
  .filter((path) => path.includes('/') && path.endsWith('.ts'))
  .toSorted();

export const mutations: readonly Mutation[] = (await Promise.all(paths.map(read))).flat();
