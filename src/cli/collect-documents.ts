/**
 * Files and folders as documents to ingest. The CLI reads them and sends their text, so
 * that no worker ever opens a path that a request names.
 */
import { createHash } from 'node:crypto';
import { readdir, readFile, realpath, stat } from 'node:fs/promises';
import { extname, isAbsolute, join, relative, resolve, sep } from 'node:path';
import { type ErrorCode, OncefleetError } from '../errors.ts';
import { decodeText, describeFileError } from './text.ts';

const DOCUMENT_EXTENSIONS: ReadonlySet<string> = new Set(['.md', '.markdown', '.txt']);

/** A job's input is one row and one message; its documents are sent in parts of about this size, in bytes of content. */
export const MAX_PART_BYTES = 4 * 1024 * 1024;

/** What the ingest job takes at most; a dump that is named .txt should not fill the memory first. */
const MAX_FILE_BYTES = 16 * 1024 * 1024;

/** How many problems an error names; the rest are counted. */
const MAX_NAMED_PROBLEMS = 5;

export interface CollectedDocument {
  /** Relative to the root with `/` between, or absolute when it lies outside. */
  path: string;
  content: string;
  bytes: number;
}

export interface FileProblem {
  code: Extract<ErrorCode, 'FILE_UNREADABLE' | 'FILE_EMPTY'>;
  path: string;
  message: string;
}

export interface CollectOptions {
  /** What relative paths start from. */
  cwd: string;
  /** What document paths are relative to; `cwd` unless told. */
  root?: string;
  /** Leaves bad files out and reports them instead of throwing. */
  skipBad?: boolean;
}

export interface Collected {
  /** By path, each file once. */
  documents: CollectedDocument[];
  /** What `skipBad` left out. */
  skipped: FileProblem[];
}

/**
 * Reads every document below `paths`: named files, and in folders, at any depth, files with
 * a known extension. Dot files, dot folders and `node_modules` are left out unless named.
 *
 * @throws OncefleetError FILE_UNREADABLE, FILE_EMPTY (each bad file is named), NOTHING_TO_INGEST
 */
export async function collectDocuments(paths: readonly string[], options: CollectOptions): Promise<Collected> {
  const walk = new Walk(resolve(options.cwd, options.root ?? '.'));
  for (const path of paths) await walk.visitNamed(resolve(options.cwd, path));
  const documents: CollectedDocument[] = [];
  for (const file of walk.files) {
    const read = await readDocument(file, walk.nameOf(file));
    if ('code' in read) walk.problems.push(read);
    else documents.push(read);
  }
  if (walk.problems.length > 0 && options.skipBad !== true) throw toError(walk.problems);
  if (documents.length === 0) {
    throw new OncefleetError(
      'NOTHING_TO_INGEST',
      `No document in ${paths.join(', ')}: looked for ${[...DOCUMENT_EXTENSIONS].join(', ')} files`,
      {
        details: { paths, skipped: walk.problems },
      },
    );
  }
  documents.sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));
  return { documents, skipped: walk.problems };
}

/** Documents in parts of at most `MAX_PART_BYTES`; a larger document is a part by itself. */
export function splitIntoParts(
  documents: readonly CollectedDocument[],
  maxBytes = MAX_PART_BYTES,
): CollectedDocument[][] {
  const parts: CollectedDocument[][] = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const document of documents) {
    if (bytes + document.bytes > maxBytes) {
      parts.push([]);
      bytes = 0;
    }
    (parts.at(-1) as CollectedDocument[]).push(document);
    bytes += document.bytes;
  }
  return parts;
}

/**
 * The idempotency key of a part: the same collection, paths and contents give the same key,
 * so that the same command, given twice, makes one job.
 */
export function ingestKey(collection: string, documents: readonly CollectedDocument[], settings: unknown = {}): string {
  const hash = createHash('sha256');
  hash.update(JSON.stringify([collection, settings]));
  for (const { path, content } of documents) {
    hash.update(JSON.stringify([path, createHash('sha256').update(content).digest('hex')]));
  }
  return `ingest:${hash.digest('hex')}`;
}

class Walk {
  readonly files: string[] = [];
  readonly problems: FileProblem[] = [];
  readonly #root: string;
  /** Real paths seen: a file reached twice is one document, a loop of links ends. */
  readonly #seen = new Set<string>();

  constructor(root: string) {
    this.#root = root;
  }

  nameOf(path: string): string {
    const inside = relative(this.#root, path);
    const outside = inside === '..' || inside.startsWith(`..${sep}`) || isAbsolute(inside);
    return (outside ? path : inside).split(sep).join('/');
  }

  async visitNamed(path: string): Promise<void> {
    const kind = await this.#kindOf(path);
    if (kind === 'folder') await this.#visitFolder(path);
    else if (kind === 'other') this.#refuse(path, 'is neither a file nor a folder');
    else if (kind === 'file' && !hasDocumentExtension(path)) {
      this.#refuse(path, `is not of a kind that is read (${[...DOCUMENT_EXTENSIONS].join(', ')})`);
    } else if (kind === 'file') this.files.push(path);
  }

  async #visitFolder(folder: string): Promise<void> {
    let names: string[];
    try {
      names = await readdir(folder);
    } catch (error) {
      this.#refuse(folder, describeFileError(error));
      return;
    }
    for (const name of names.sort()) {
      if (name.startsWith('.') || name === 'node_modules') continue;
      const path = join(folder, name);
      const kind = await this.#kindOf(path, hasDocumentExtension(name));
      if (kind === 'folder') await this.#visitFolder(path);
      else if (kind === 'file' && hasDocumentExtension(name)) this.files.push(path);
    }
  }

  /** `undefined`: seen before, or a problem (told unless `report` is false). Links are followed. */
  async #kindOf(path: string, report = true): Promise<'file' | 'folder' | 'other' | undefined> {
    try {
      const real = await realpath(path);
      const stats = await stat(real);
      if (this.#seen.has(real)) return undefined;
      // Only what will be used counts as seen: a link without the extension must not hide the file behind it.
      if (stats.isDirectory() || (stats.isFile() && report)) this.#seen.add(real);
      return stats.isDirectory() ? 'folder' : stats.isFile() ? 'file' : 'other';
    } catch (error) {
      if (report) this.#refuse(path, describeFileError(error));
      return undefined;
    }
  }

  #refuse(path: string, message: string): void {
    this.problems.push({ code: 'FILE_UNREADABLE', path: this.nameOf(path), message });
  }
}

async function readDocument(file: string, path: string): Promise<CollectedDocument | FileProblem> {
  let bytes: Uint8Array;
  try {
    const { size } = await stat(file);
    if (size > MAX_FILE_BYTES) {
      return { code: 'FILE_UNREADABLE', path, message: `has ${size} bytes; the limit is ${MAX_FILE_BYTES}` };
    }
    bytes = await readFile(file);
  } catch (error) {
    return { code: 'FILE_UNREADABLE', path, message: describeFileError(error) };
  }
  const decoded = decodeText(bytes);
  if ('problem' in decoded) return { code: 'FILE_UNREADABLE', path, message: decoded.problem };
  if (decoded.text.trim() === '') return { code: 'FILE_EMPTY', path, message: 'has no text in it' };
  return { path, content: decoded.text, bytes: bytes.length };
}

function hasDocumentExtension(path: string): boolean {
  return DOCUMENT_EXTENSIONS.has(extname(path).toLowerCase());
}

function toError(problems: readonly FileProblem[]): OncefleetError {
  const named = problems.slice(0, MAX_NAMED_PROBLEMS).map(({ path, message }) => `${path} ${message}`);
  const more = problems.length > named.length ? [`and ${problems.length - named.length} more`] : [];
  const [first] = problems as [FileProblem];
  return new OncefleetError(first.code, [...named, ...more].join('; '), { details: { files: problems } });
}
