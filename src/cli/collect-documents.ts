/**
 * Files and folders as documents to ingest. The CLI reads them and sends their bytes, so
 * that no worker ever opens a path that a request names.
 *
 * Each is read twice, a piece at a time: for the hash that tells whether it has been ingested before, and to send it.
 */
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, glob, open, readdir, realpath, stat } from 'node:fs/promises';
import { isAbsolute, join, relative, resolve, sep } from 'node:path';
import { type DocumentErrorCode, OncefleetError } from '../errors.ts';
import { extensionOf, kindOfName } from '../jobs/ingest/parse/kinds.ts';
import { MAX_DOCUMENT_BYTES } from '../options.ts';
import { describeFileError } from './text.ts';

/** Documents of one job: so many bytes, and so many of them. Jobs run beside each other. */
const MAX_PART_BYTES = 16 * 1024 * 1024;
const MAX_PART_DOCUMENTS = 1_000;

/** The argument that means standard input. */
export const STDIN = '-';

/** A larger file is not looked at for blanks. */
const MAX_BLANK_BYTES = 4_096;
const READ_BYTES = 256 * 1024;

/** How many problems an error names; the rest are counted. */
const MAX_NAMED_PROBLEMS = 5;
/** How many kinds of files that were left out are named. */
const MAX_NAMED_KINDS = 10;

export interface CollectedDocument {
  /** Relative to the root with `/` between, or absolute when it lies outside. */
  path: string;
  bytes: number;
  /** SHA-256, hexadecimal. */
  sha256: string;
  /** Its bytes, a piece at a time. @throws OncefleetError FILE_UNREADABLE */
  read(): AsyncIterable<Uint8Array>;
}

interface FileProblem {
  code: DocumentErrorCode;
  path: string;
  message: string;
}

interface CollectOptions {
  /** Stands for `-`. */
  stdin?: { name: string; bytes: AsyncIterable<Uint8Array> };
  /** What relative paths start from. */
  cwd: string;
  /** What document paths are relative to; default `cwd`. */
  root?: string;
  /** Also reads what links in a named folder lead to outside of it. */
  followLinks?: boolean;
  /** Leaves files that cannot be opened out and reports them instead of throwing. */
  skipBad?: boolean;
}

interface Collected {
  /** By path, each file once. */
  documents: CollectedDocument[];
  /** Links out of the named folders, and what `skipBad` left out. */
  skipped: FileProblem[];
  /** Files that could be opened and are empty. */
  failed: FileProblem[];
  /** How many files of named folders are of no kind that is taken, by extension (or name, without one). */
  leftOut: ReadonlyMap<string, number>;
}

/**
 * Finds every document of `paths`: named files, files that a pattern (`docs/*.pdf`) matches, and in folders, at any depth,
 * files of a kind that is taken. Source code is taken where it is named or matched. Dot files, dot folders and `node_modules` are
 * left out unless named, and so is what a link in a named folder leads to outside of all that was named.
 *
 * @throws OncefleetError FILE_UNREADABLE a file cannot be opened (each is named); NOTHING_TO_INGEST; where no file is a
 *   document, the code of the first
 */
export async function collectDocuments(paths: readonly string[], options: CollectOptions): Promise<Collected> {
  const files = paths.filter((path) => path !== STDIN);
  const named = await Promise.all(files.map((path) => readArgument(path, options.cwd)));
  // One that is not there is told of when it is visited.
  const real = await Promise.all(named.map(({ path }) => realpath(path).catch(() => path)));
  const walk = new Walk(resolve(options.cwd, options.root ?? '.'), options.followLinks === true ? undefined : real);
  for (const { path, pattern } of named)
    await (pattern === undefined ? walk.visitNamed(path) : walk.visitMatched(path, pattern));
  const documents: CollectedDocument[] = [];
  const failed: FileProblem[] = [];
  if (files.length < paths.length && options.stdin !== undefined) {
    const read = await readStdin(options.stdin);
    if ('code' in read) failed.push(read);
    else documents.push(read);
  }
  for (const { path, real } of walk.files) {
    const read = await readDocument(real, walk.nameOf(path));
    if (!('code' in read)) documents.push(read);
    else if (read.code === 'FILE_UNREADABLE') walk.problems.push(read);
    else failed.push(read);
  }
  if (walk.problems.length > 0 && options.skipBad !== true) throw toError(walk.problems);
  const skipped = [...walk.left, ...walk.problems];
  if (documents.length === 0) {
    if (failed.length > 0) throw toError(failed);
    const others = [...(walk.leftOut.size === 0 ? [] : [describeLeftOut(walk.leftOut)]), ...walk.left.map(sentenceOf)];
    throw new OncefleetError(
      'NOTHING_TO_INGEST',
      `No document in ${paths.join(', ')}${others.length === 0 ? '' : `: ${others.slice(0, MAX_NAMED_PROBLEMS).join('; ')}`}`,
      { details: { paths, skipped } },
    );
  }
  documents.sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));
  return { documents, skipped, failed, leftOut: walk.leftOut };
}

/** `3 .png and 2 .zip files are of no kind that is taken from a folder`, those with most files first. */
export function describeLeftOut(leftOut: ReadonlyMap<string, number>): string {
  const sorted = [...leftOut].toSorted(([, a], [, b]) => b - a);
  const named = sorted.slice(0, MAX_NAMED_KINDS).map(([kind, count]) => `${count} ${kind}`);
  const total = sorted.slice(MAX_NAMED_KINDS).reduce((sum, [, count]) => sum + count, 0);
  return `${[...named, ...(total === 0 ? [] : [`${total} other`])].join(', ')}: of no kind that is taken from a folder`;
}

/** Documents in parts of at most `maxBytes` and `maxDocuments`; a larger document is a part by itself. */
export function splitIntoParts(
  documents: readonly CollectedDocument[],
  { maxBytes = MAX_PART_BYTES, maxDocuments = MAX_PART_DOCUMENTS } = {},
): CollectedDocument[][] {
  const parts: CollectedDocument[][] = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const document of documents) {
    if (bytes + document.bytes > maxBytes || parts.at(-1)?.length === maxDocuments) {
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
  for (const { path, sha256 } of documents) hash.update(JSON.stringify([path, sha256]));
  return `ingest:${hash.digest('hex')}`;
}

interface Argument {
  /** Absolute; of a pattern the folder before its first part that matches. */
  path: string;
  /** Relative to that folder. */
  pattern?: string;
}

/** What exists is named, whatever characters are in it. */
async function readArgument(given: string, cwd: string): Promise<Argument> {
  const path = resolve(cwd, given);
  const parts = given.split(/[\\/]/);
  const first = parts.findIndex((part) => /[*?[{]/.test(part));
  if (
    first === -1 ||
    (await stat(path).then(
      () => true,
      () => false,
    ))
  )
    return { path };
  return {
    path: resolve(cwd, parts.slice(0, first).join('/') || (isAbsolute(given) ? '/' : '.')),
    pattern: parts.slice(first).join('/'),
  };
}

/** A document's file: what it is named by, and what it is once every link is resolved. */
interface Found {
  path: string;
  real: string;
}

class Walk {
  readonly files: Found[] = [];
  readonly problems: FileProblem[] = [];
  /** Links that lead out of what was named. */
  readonly left: FileProblem[] = [];
  readonly leftOut = new Map<string, number>();
  readonly #root: string;
  /** Real paths below which links may lead; `undefined`: anywhere. */
  readonly #named: readonly string[] | undefined;
  /** Real paths seen: a file reached twice is one document, a loop of links ends. */
  readonly #seen = new Set<string>();

  constructor(root: string, named: readonly string[] | undefined) {
    this.#root = root;
    this.#named = named;
  }

  nameOf(path: string): string {
    const inside = relative(this.#root, path);
    return (leadsOut(inside) ? path : inside).split(sep).join('/');
  }

  async visitNamed(path: string): Promise<void> {
    const found = await this.#look(path);
    if (found === undefined) return;
    if (found.kind === 'folder') await this.#visitFolder(path);
    else if (found.kind === 'other') this.#refuse(path, 'is neither a file nor a folder');
    else this.files.push({ path, real: found.real });
  }

  /** @param pattern relative to the folder, whose links lead no further than those of a named one */
  async visitMatched(folder: string, pattern: string): Promise<void> {
    const matches: string[] = [];
    for await (const match of glob(pattern, { cwd: folder }))
      if (!match.split(sep).some(isLeftOut)) matches.push(match);
    if (matches.length === 0) this.#refuse(join(folder, pattern), 'matches no file');
    for (const match of matches.sort()) {
      const path = join(folder, match);
      const found = await this.#look(path, true, true);
      if (found?.kind === 'folder') await this.#visitFolder(path);
      else if (found?.kind === 'file') this.files.push({ path, real: found.real });
    }
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
      if (isLeftOut(name)) continue;
      const path = join(folder, name);
      const isTaken = isTakenFromFolders(name);
      const found = await this.#look(path, isTaken, true);
      if (found?.kind === 'folder') await this.#visitFolder(path);
      else if (found?.kind === 'file' && isTaken) this.files.push({ path, real: found.real });
      else if (found?.kind === 'file') {
        const kind = extensionOf(name) || name;
        this.leftOut.set(kind, (this.leftOut.get(kind) ?? 0) + 1);
      }
    }
  }

  /** `undefined`: seen before, outside of what was named, or a problem (told unless `report` is false). */
  async #look(
    path: string,
    report = true,
    confined = false,
  ): Promise<{ kind: 'file' | 'folder' | 'other'; real: string } | undefined> {
    try {
      const real = await realpath(path);
      const stats = await stat(real);
      if (this.#seen.has(real)) return undefined;
      // Only what will be used counts as seen: a link without the extension must not hide the file behind it.
      const used = stats.isDirectory() || (stats.isFile() && report);
      if (used && confined && !this.#isInside(real)) {
        const what = `is a link out of the named folder${this.#named?.length === 1 ? '' : 's'}`;
        this.left.push({
          code: 'FILE_UNREADABLE',
          path: this.nameOf(path),
          message: `${what} (--follow-links reads it)`,
        });
        return undefined;
      }
      if (used) this.#seen.add(real);
      return { kind: stats.isDirectory() ? 'folder' : stats.isFile() ? 'file' : 'other', real };
    } catch (error) {
      if (report) this.#refuse(path, describeFileError(error));
      return undefined;
    }
  }

  /** Also not in a part of a named folder that is left out: a link must not bring in a dot file. */
  #isInside(real: string): boolean {
    if (this.#named === undefined) return true;
    return this.#named.some((named) => {
      const inside = relative(named, real);
      return !leadsOut(inside) && !inside.split(sep).some(isLeftOut);
    });
  }

  #refuse(path: string, message: string): void {
    this.problems.push({ code: 'FILE_UNREADABLE', path: this.nameOf(path), message });
  }
}

async function readDocument(real: string, path: string): Promise<CollectedDocument | FileProblem> {
  const unreadable = (message: string): FileProblem => ({ code: 'FILE_UNREADABLE', path, message });
  const hash = createHash('sha256');
  let bytes = 0;
  let start = Buffer.alloc(0);
  try {
    for await (const piece of readFile(real)) {
      bytes += piece.length;
      if (bytes > MAX_DOCUMENT_BYTES) return unreadable(tooLarge());
      hash.update(piece);
      if (start.length <= MAX_BLANK_BYTES) start = Buffer.concat([start, piece.subarray(0, MAX_BLANK_BYTES + 1)]);
    }
  } catch (error) {
    return unreadable(error instanceof NoFileError ? error.message : describeFileError(error));
  }
  if (isBlank(start)) return { code: 'FILE_EMPTY', path, message: 'has no text in it' };
  return { path, bytes, sha256: hash.digest('hex'), read: () => readAgain(real, path) };
}

function isBlank(start: Buffer): boolean {
  return start.length <= MAX_BLANK_BYTES && /^[\s\uFEFF]*$/.test(start.toString());
}

/** Kept in memory: it cannot be read again. */
async function readStdin({
  name: path,
  bytes,
}: NonNullable<CollectOptions['stdin']>): Promise<CollectedDocument | FileProblem> {
  const pieces: Uint8Array[] = [];
  let length = 0;
  for await (const piece of bytes) {
    length += piece.length;
    if (length > MAX_DOCUMENT_BYTES) throw new OncefleetError('FILE_UNREADABLE', `Standard input ${tooLarge()}`);
    pieces.push(piece);
  }
  const whole = Buffer.concat(pieces);
  if (isBlank(whole)) return { code: 'FILE_EMPTY', path, message: 'has no text in it' };
  const sha256 = createHash('sha256').update(whole).digest('hex');
  return {
    path,
    bytes: length,
    sha256,
    read: () =>
      (async function* () {
        yield whole;
      })(),
  };
}

function tooLarge(): string {
  return `has more than ${MAX_DOCUMENT_BYTES} bytes, the limit of a document`;
}

class NoFileError extends Error {}

/** It may have become something else since it was found. */
async function* readFile(real: string): AsyncGenerator<Buffer, void, undefined> {
  await using file: FileHandle = await open(
    real,
    constants.O_RDONLY | (constants.O_NOFOLLOW ?? 0) | (constants.O_NONBLOCK ?? 0),
  );
  if (!(await file.stat()).isFile()) throw new NoFileError('is no file any more');
  const buffer = Buffer.allocUnsafe(READ_BYTES);
  for (;;) {
    const { bytesRead } = await file.read(buffer, 0, READ_BYTES);
    if (bytesRead === 0) return;
    // Whoever takes it is done with it before the next is read.
    yield buffer.subarray(0, bytesRead);
  }
}

async function* readAgain(real: string, path: string): AsyncGenerator<Buffer, void, undefined> {
  try {
    yield* readFile(real);
  } catch (error) {
    const message = error instanceof NoFileError ? error.message : describeFileError(error);
    throw new OncefleetError('FILE_UNREADABLE', `${path} ${message}`, { cause: error });
  }
}

/** Source code is more often what builds a manual than what it says. */
function isTakenFromFolders(name: string): boolean {
  const kind = kindOfName(name);
  return kind !== undefined && kind !== 'code';
}

function sentenceOf({ path, message }: FileProblem): string {
  return `${path} ${message}`;
}

function isLeftOut(name: string): boolean {
  return name.startsWith('.') || name === 'node_modules';
}

/** @param path relative */
function leadsOut(path: string): boolean {
  return path === '..' || path.startsWith(`..${sep}`) || isAbsolute(path);
}

function namesOf(problems: readonly FileProblem[]): string {
  const named = problems.slice(0, MAX_NAMED_PROBLEMS).map(sentenceOf);
  const more = problems.length > named.length ? [`and ${problems.length - named.length} more`] : [];
  return [...named, ...more].join('; ');
}

function toError(problems: readonly FileProblem[]): OncefleetError {
  const [first] = problems as [FileProblem];
  return new OncefleetError(first.code, namesOf(problems), { details: { files: problems } });
}
