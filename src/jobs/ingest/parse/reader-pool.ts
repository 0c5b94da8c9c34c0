/** A few threads that read documents, made when there is something to read and ended when they idle. */
import { Worker } from 'node:worker_threads';
import { DocumentError, type DocumentErrorCode, OncefleetError } from '../../../errors.ts';
import type { ParsedDocument } from '../blocks.ts';
import type { ReadAnswer, ReadTask } from './thread.ts';

/** A folder is read one document after the other; parsers need not be loaded for each. */
const IDLE_MS = 10_000;
/** How often the memory of a thread that reads is looked at: buffers are outside of the heap that V8 caps. */
const WATCH_MS = 100;

interface Waiting {
  start(): void;
}

/** A thread is idle, reads one document, or has ended; it is not used again after any trouble. */
export class ReaderPool {
  readonly #size: number;
  readonly #idle: Reader[] = [];
  readonly #waiting: Waiting[] = [];
  #busy = 0;

  constructor(size: number) {
    this.#size = size;
  }

  async read(task: ReadTask, signal?: AbortSignal): Promise<ParsedDocument> {
    await this.#turn(signal);
    const reader = this.#take(task.limits.memoryMb);
    try {
      const document = await reader.read(task, signal);
      return document;
    } finally {
      this.#busy--;
      if (reader.isUsable) {
        this.#idle.push(reader);
        reader.endWhenIdle(IDLE_MS, () => this.#idle.splice(this.#idle.indexOf(reader), 1));
      }
      this.#waiting.shift()?.start();
    }
  }

  /** In the order of calls. */
  async #turn(signal?: AbortSignal): Promise<void> {
    if (this.#busy < this.#size) {
      this.#busy++;
      return;
    }
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const waiting: Waiting = {
      start: () => {
        this.#busy++;
        resolve();
      },
    };
    const leave = (): void => {
      const at = this.#waiting.indexOf(waiting);
      if (at !== -1) this.#waiting.splice(at, 1);
      reject(signal?.reason);
    };
    this.#waiting.push(waiting);
    signal?.addEventListener('abort', leave, { once: true });
    try {
      await promise;
    } finally {
      signal?.removeEventListener('abort', leave);
    }
  }

  #take(memoryMb: number): Reader {
    const idle = this.#idle.pop();
    if (idle?.memoryMb === memoryMb) {
      idle.keep();
      return idle;
    }
    idle?.end();
    return new Reader(memoryMb);
  }
}

class Reader {
  readonly memoryMb: number;
  readonly #worker: Worker;
  #usable = true;
  #idleTimer: NodeJS.Timeout | undefined;

  constructor(memoryMb: number) {
    this.memoryMb = memoryMb;
    const file = import.meta.url.endsWith('.ts') ? './thread.ts' : './thread.js';
    this.#worker = new Worker(new URL(file, import.meta.url), {
      name: 'document-reader',
      // Of the environment a parser needs nothing, and parsers print warnings about documents.
      env: {},
      stdout: true,
      stderr: true,
      resourceLimits: { maxOldGenerationSizeMb: memoryMb, maxYoungGenerationSizeMb: Math.min(64, memoryMb / 4) },
    });
    this.#worker.stdout.resume();
    this.#worker.stderr.resume();
    // Told to the reading under way; a thread that idles and dies is not used again.
    this.#worker.on('error', () => {
      this.#usable = false;
    });
  }

  get isUsable(): boolean {
    return this.#usable;
  }

  async read(task: ReadTask, signal?: AbortSignal): Promise<ParsedDocument> {
    const { promise, resolve, reject } = Promise.withResolvers<ReadAnswer>();
    const tooCostly = (message: string, cause?: unknown) =>
      reject(new DocumentError('DOCUMENT_TOO_COSTLY', message, { cause }));
    const { timeoutMs, memoryMb } = task.limits;
    const tooMuch = `takes more than ${memoryMb} MiB of memory to read`;
    const onError = (error: Error & { code?: string }): void => {
      if (error.code === 'ERR_WORKER_OUT_OF_MEMORY') tooCostly(tooMuch, error);
      else reject(new DocumentError('DOCUMENT_DAMAGED', `cannot be read: ${error.message}`, { cause: error }));
    };
    const onExit = (): void => reject(new DocumentError('DOCUMENT_DAMAGED', 'cannot be read: its reader ended'));
    const onAbort = (): void => reject(signal?.reason);
    const timer = setTimeout(() => tooCostly(`takes longer than ${timeoutMs} ms to read`), timeoutMs);
    const watch = setInterval(() => void this.#watch(memoryMb * 1_048_576, () => tooCostly(tooMuch)), WATCH_MS);
    this.#worker.on('message', resolve).on('error', onError).on('exit', onExit);
    signal?.addEventListener('abort', onAbort, { once: true });
    if (signal?.aborted === true) onAbort();
    try {
      this.#worker.postMessage(task);
      const answer = await promise;
      // Garbage of this document would count against the next.
      if (answer.heapBytes > memoryMb * 0.4 * 1_048_576) this.end();
      return documentOf(answer);
    } catch (error) {
      if (!(error instanceof DocumentError) || error.details['answered'] !== true) this.end();
      throw error;
    } finally {
      clearTimeout(timer);
      clearInterval(watch);
      this.#worker.off('message', resolve).off('error', onError).off('exit', onExit);
      signal?.removeEventListener('abort', onAbort);
    }
  }

  /** Does not keep the process alive meanwhile. */
  endWhenIdle(ms: number, onEnd: () => void): void {
    this.#worker.unref();
    this.#idleTimer = setTimeout(() => {
      onEnd();
      this.end();
    }, ms).unref();
  }

  keep(): void {
    clearTimeout(this.#idleTimer);
    this.#worker.ref();
  }

  end(): void {
    this.#usable = false;
    clearTimeout(this.#idleTimer);
    void this.#worker.terminate();
  }

  async #watch(maxBytes: number, onExcess: () => void): Promise<void> {
    // Node 22.16 and 24 have it; before them the cap of the heap and that of the expansion have to do.
    const statistics = await this.#worker.getHeapStatistics?.().catch(() => undefined);
    if (statistics !== undefined && statistics.used_heap_size + statistics.external_memory > maxBytes) onExcess();
  }
}

function documentOf(answer: ReadAnswer): ParsedDocument {
  if ('document' in answer) return answer.document;
  const { code, message } = answer.failure;
  if (code === undefined)
    throw new DocumentError('DOCUMENT_DAMAGED', `cannot be read: ${message}`, { details: { answered: true } });
  if (code === 'FILE_EMPTY' || code === 'FILE_UNREADABLE' || code.startsWith('DOCUMENT_'))
    throw new DocumentError(code as DocumentErrorCode, message, { details: { answered: true } });
  throw new OncefleetError(code, message);
}
