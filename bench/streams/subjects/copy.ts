import { once } from 'node:events';
import pg from 'pg';
import { uuidV7 } from '../../../src/util/uuid.ts';
import { ROWS, rowsTemplate } from './rows.ts';
import type { Subject } from './subject.ts';

const CHUNK_LENGTH = 64 * 1024;

/** One COPY for all streams on one connection, one row an event: one commit, and nothing is published. */
export const copy: Subject = {
  name: 'copy',
  title: 'raw COPY, a row per event',
  template: rowsTemplate,
  tables: [ROWS],
  events: () => 600_000,
  async write({ databaseUrl }) {
    const client = new pg.Client({ connectionString: databaseUrl });
    await client.connect();
    const seqs = new Map<string, number>();
    let rows = '';
    let running: CopyIn | undefined;
    return {
      async open(count) {
        return Array.from({ length: count }, () => uuidV7());
      },
      async emit(streamId, event) {
        const seq = seqs.get(streamId) ?? 0;
        seqs.set(streamId, seq + 1);
        const json = JSON.stringify(event);
        rows += `${streamId}\t${seq}\t${json.includes('\\') ? json.replaceAll('\\', '\\\\') : json}\n`;
        running ??= client.query(new CopyIn(`copy ${ROWS} (stream_id, seq, event) from stdin`));
        if (rows.length < CHUNK_LENGTH) return;
        const chunk = rows;
        rows = '';
        await running.write(chunk);
      },
      async settle() {
        await running?.write(rows);
        await running?.end();
        rows = '';
        running = undefined;
      },
      close: () => client.end(),
    };
  },
};

/** What pg's connection has for COPY, which its types leave out. */
interface CopyConnection extends pg.Connection {
  sendCopyFromChunk(chunk: Buffer): void;
  endCopyFrom(): void;
  sendCopyFail(message: string): void;
}

/** A COPY FROM STDIN on a pg client: pg speaks the protocol, but has no query that uses it. */
class CopyIn implements pg.Submittable {
  readonly #text: string;
  readonly #started = Promise.withResolvers<CopyConnection>();
  readonly #done = Promise.withResolvers<void>();
  #room: Promise<void> | undefined;

  constructor(text: string) {
    this.#text = text;
    // Whoever writes next, or ends, is told.
    this.#done.promise.catch(() => {});
    this.#started.promise.catch(() => {});
  }

  /** Resolves when the socket has room again. */
  async write(chunk: string): Promise<void> {
    const connection = await this.#started.promise;
    connection.sendCopyFromChunk(Buffer.from(chunk));
    if (!connection.stream.writableNeedDrain) return;
    this.#room ??= once(connection.stream, 'drain').then(() => {
      this.#room = undefined;
    });
    await Promise.race([this.#room, this.#done.promise]);
  }

  /** Resolves when it is committed. */
  async end(): Promise<void> {
    (await this.#started.promise).endCopyFrom();
    await this.#done.promise;
  }

  submit(connection: pg.Connection): void {
    connection.query(this.#text);
  }

  handleCopyInResponse(connection: CopyConnection): void {
    this.#started.resolve(connection);
  }

  handleCommandComplete(): void {}

  handleReadyForQuery(): void {
    this.#done.resolve();
  }

  handleError(error: Error): void {
    this.#started.reject(error);
    this.#done.reject(error);
  }
}
