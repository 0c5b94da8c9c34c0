/** What is ingested: texts of this repository, in six languages, as often as it takes. */
import { createHash } from 'node:crypto';
import { glob, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ROOT } from '../../scripts/root.ts';

export interface BenchDocument {
  path: string;
  text: string;
  bytes: Buffer;
  sha256: string;
}

/** Not docs/benchmarks: it would grow with what is written of this bench. */
const SOURCES = ['docs/{guides,internals,reference,start}/**/*.md', 'bench/retrieval/texts/**/*.md'];

/** In the same order each time; each ends with a line of its own, so that no two have one hash. */
export async function makeDocuments(count: number): Promise<BenchDocument[]> {
  const files = (await Array.fromAsync(glob(SOURCES, { cwd: ROOT }))).sort();
  const texts = await Promise.all(files.map(async (file) => [file, await readFile(join(ROOT, file), 'utf8')] as const));
  return Array.from({ length: count }, (_, n) => {
    const [file, original] = texts[n % texts.length] as (typeof texts)[number];
    const copy = Math.floor(n / texts.length);
    const text = `${original}\nCopy ${copy}.\n`;
    const bytes = Buffer.from(text);
    return { path: `${copy}/${file}`, text, bytes, sha256: createHash('sha256').update(bytes).digest('hex') };
  });
}
