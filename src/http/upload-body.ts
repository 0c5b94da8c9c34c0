/** Bodies that are documents: raw bytes, or a form of several files, read as fast as they can be stored and no faster. */
import type { IncomingHttpHeaders } from 'node:http';
import type { Readable } from 'node:stream';
import { Busboy, type BusboyFileStream, type BusboyInstance } from '@fastify/busboy';
import type { NewDocument } from '../client/add-documents.ts';
import { InputInvalidError, OncefleetError } from '../errors.ts';
import { within } from '../util/with-timeout.ts';

/** What a slow link brings at the least, bytes in a second, after the first minute. */
const SLOWEST_BYTES_PER_S = 16 * 1024;
const GRACE_MS = 60_000;
/** Parts of a form; as many documents as a job takes. */
const MAX_PARTS = 10_000;
const MAX_HEADER_BYTES = 16 * 1024;

/**
 * The chunks of a body. The times are those in which it was waited for, not those in which a chunk was stored.
 *
 * @throws OncefleetError REQUEST_STALLED, BODY_INVALID it broke off
 */
export async function* readChunks(body: Readable, stallMs: number): AsyncGenerator<Buffer, void, undefined> {
  // An answer must still go out on the socket of a body that is refused.
  const chunks = body.iterator({ destroyOnReturn: false });
  let [received, waitedMs] = [0, 0];
  for (;;) {
    const since = performance.now();
    const next = (await within(stallMs, chunks.next().catch(brokeOff), () => {
      throw stalled(`No more of the body came for ${stallMs} ms`);
    })) as IteratorResult<Buffer, undefined>;
    if (next.done === true) return;
    waitedMs += performance.now() - since;
    received += next.value.length;
    if (waitedMs > GRACE_MS + (received / SLOWEST_BYTES_PER_S) * 1_000)
      throw stalled(`The body comes at less than ${SLOWEST_BYTES_PER_S} bytes a second`);
    yield next.value;
  }
}

/**
 * The files of a multipart form, one after another; each is to be read to its end before the next is asked for.
 *
 * @throws InputInvalidError a part is no file; OncefleetError BODY_INVALID
 */
export async function* readForm(
  chunks: AsyncIterable<Buffer>,
  headers: IncomingHttpHeaders,
): AsyncGenerator<NewDocument, void, undefined> {
  const form = new Form(headers);
  const feeding = form.feed(chunks);
  try {
    for (;;) {
      const file = await form.next();
      if (file === undefined) return;
      yield file;
    }
  } finally {
    form.stop();
    await feeding;
  }
}

class Form {
  readonly #parser: BusboyInstance;
  readonly #files: (NewDocument & { stream: BusboyFileStream })[] = [];
  readonly #stopped = Promise.withResolvers<void>();
  #reading: BusboyFileStream | undefined;
  #error: Error | undefined;
  #ended = false;
  #isStopped = false;
  #wake: () => void = () => undefined;

  /** @throws OncefleetError BODY_INVALID no boundary */
  constructor(headers: IncomingHttpHeaders) {
    try {
      this.#parser = new Busboy({
        headers: { ...headers, 'content-type': headers['content-type'] ?? '' },
        preservePath: true,
        limits: { fields: 1, fieldSize: 1_024, parts: MAX_PARTS + 1, headerPairs: 100, headerSize: MAX_HEADER_BYTES },
      });
    } catch (cause) {
      throw new OncefleetError('BODY_INVALID', `The body is no form: ${(cause as Error).message}`, { cause });
    }
    this.#parser
      .on('file', (_field, stream, filename, _encoding, contentType) => {
        // What its reader does not hear, because it is not reading, `feed` has.
        stream.on('error', () => undefined);
        this.#files.push({ path: filename, contentType, stream, body: stream });
        this.#wake();
      })
      .on('field', (name) => this.#fail(notAFile(name)))
      .on('partsLimit', () => this.#fail(tooMany()))
      .on('error', (error) => this.#fail(brokenForm(error)))
      .on('finish', () => {
        this.#ended = true;
        this.#wake();
      });
  }

  async feed(chunks: AsyncIterable<Buffer>): Promise<void> {
    try {
      for await (const chunk of chunks) {
        if (this.#isStopped || this.#error !== undefined) return;
        const taken = Promise.withResolvers<void>();
        this.#parser.write(chunk, () => taken.resolve());
        await Promise.race([taken.promise, this.#stopped.promise]);
      }
      this.#parser.end();
    } catch (error) {
      this.#fail(error as Error);
    }
  }

  async next(): Promise<NewDocument | undefined> {
    for (;;) {
      if (this.#error !== undefined) throw this.#error;
      const file = this.#files.shift();
      if (file !== undefined) {
        this.#reading = file.stream;
        return file;
      }
      if (this.#ended) return undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  stop(): void {
    this.#isStopped = true;
    this.#stopped.resolve();
  }

  #fail(error: Error): void {
    this.#error ??= error;
    this.#reading?.destroy(this.#error);
    this.stop();
    this.#wake();
  }
}

function notAFile(name: string): InputInvalidError {
  const message = 'is no file: give each part of the form a file name, which is the path of the document';
  return new InputInvalidError('Form', [{ path: String(name).slice(0, 100), message }]);
}

function tooMany(): InputInvalidError {
  return new InputInvalidError('Form', [{ path: '', message: `has more than ${MAX_PARTS} parts; send several forms` }]);
}

function brokenForm(cause: unknown): OncefleetError {
  return new OncefleetError('BODY_INVALID', 'The form breaks off, or is none of multipart/form-data', { cause });
}

function brokeOff(cause: unknown): never {
  throw new OncefleetError('BODY_INVALID', 'The body could not be read to its end', { cause });
}

function stalled(why: string): OncefleetError {
  return new OncefleetError('REQUEST_STALLED', `${why}; send it again`);
}
