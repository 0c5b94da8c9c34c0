/** COPY over a connection of `pg`, which speaks it but offers no call for it. */
import pg from 'pg';

/** Far below what a message may have, and more than a socket takes at once. */
const PIECE_BYTES = 1024 * 1024;

/** What `pg` has of COPY, and its types leave out. */
interface CopyConnection {
  query(text: string): void;
  sendCopyFromChunk(piece: Buffer): void;
  endCopyFrom(): void;
}

/** `client.query` takes anything that has these calls. */
class Copy {
  readonly #statement: string;
  readonly #given: Buffer | undefined;
  readonly #pieces: Buffer[] = [];
  readonly #done = Promise.withResolvers<Buffer>();

  constructor(statement: string, given?: Buffer) {
    this.#statement = statement;
    this.#given = given;
  }

  get done(): Promise<Buffer> {
    return this.#done.promise;
  }

  submit(connection: CopyConnection): void {
    connection.query(this.#statement);
  }

  handleCopyInResponse(connection: CopyConnection): void {
    const given = this.#given ?? Buffer.alloc(0);
    for (let from = 0; from < given.length; from += PIECE_BYTES)
      connection.sendCopyFromChunk(given.subarray(from, from + PIECE_BYTES));
    connection.endCopyFrom();
  }

  handleCopyData({ chunk }: { chunk: Buffer }): void {
    this.#pieces.push(Buffer.from(chunk));
  }

  handleCommandComplete(): void {}

  handleReadyForQuery(): void {
    this.#done.resolve(Buffer.concat(this.#pieces));
  }

  handleError(error: Error): void {
    this.#done.reject(error);
  }
}

export type Client = pg.Client;

export async function withClient<T>(databaseUrl: string, use: (client: Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: databaseUrl });
  client.on('error', () => {});
  await client.connect();
  try {
    return await use(client);
  } finally {
    await client.end();
  }
}

/** All of it, in Postgres's binary format. @param source a table, or a query in brackets */
export const copyOut = (client: Client, source: string): Promise<Buffer> =>
  run(client, new Copy(`copy ${source} to stdout (format binary)`));

/** @param rows in Postgres's binary format */
export async function copyIn(client: Client, table: string, rows: Buffer): Promise<void> {
  await run(client, new Copy(`copy ${table} from stdin (format binary)`, rows));
}

function run(client: Client, copy: Copy): Promise<Buffer> {
  client.query(copy as unknown as pg.Submittable);
  return copy.done;
}
