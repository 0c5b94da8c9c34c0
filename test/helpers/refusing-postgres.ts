/** A front of a Postgres that can refuse logins, as a server does that fails over, restarts or is being set up. */
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { onTestFinished } from 'vitest';

/** A SQLSTATE, or what happens to the connection: `reset`, `close`, `garbage`. */
export type Refusal = string;

/** What a Postgres that cannot be used for now answers a login with. */
export const REFUSALS: readonly Refusal[] = [
  '28P01', // wrong password
  '28000', // no entry in pg_hba.conf, no such role
  '3D000', // no such database
  '42501', // no CONNECT on the database
  '0A000', // unsupported protocol or frontend
  '22023', // a setting of the role or the startup packet is refused
  '42704', // the same, of a setting that is not there
  '53300', // too many connections
  '53200', // out of memory
  '53100', // disk full
  '55000', // database is not accepting connections
  '57P03', // starting up, shutting down, in recovery
  '57P01', // ended by an administrator
  '57P04', // database dropped
  '58P01', // a file of the database is missing
  '58000', // system error
  '08P01', // protocol violation (and what PgBouncer says of a login that failed)
  '08006', // connection failure
  'XX000', // internal error
  'XX001', // data corrupted
  'P0001', // raised by a login event trigger
  'reset',
  'close',
  'garbage',
];

export interface RefusingPostgres {
  /** The database of the given URL, through this front. */
  readonly url: string;
  /** How many logins were refused. */
  readonly refused: number;
  /** Cuts what is open, and refuses logins with each of these in turn. */
  refuse(refusals: readonly Refusal[]): void;
  accept(): void;
}

/** Closed when the test ends. */
export async function refusingPostgres(databaseUrl: string): Promise<RefusingPostgres> {
  const target = new URL(databaseUrl);
  const open = new Set<Socket>();
  let refusals: readonly Refusal[] = [];
  let refused = 0;
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    open.add(socket);
    socket.on('close', () => open.delete(socket));
    if (refusals.length > 0) {
      refuse(socket, refusals[refused++ % refusals.length] as Refusal);
      return;
    }
    const upstream = connect(Number(target.port), target.hostname);
    upstream.on('error', () => socket.destroy());
    upstream.on('close', () => socket.destroy());
    socket.on('close', () => upstream.destroy());
    socket.pipe(upstream).pipe(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => {
    for (const socket of open) socket.destroy();
    server.close();
  });
  const url = new URL(databaseUrl);
  url.host = `127.0.0.1:${(server.address() as { port: number }).port}`;
  return {
    url: url.href,
    get refused() {
      return refused;
    },
    refuse(given) {
      refusals = given;
      refused = 0;
      for (const socket of open) socket.destroy();
    },
    accept() {
      refusals = [];
    },
  };
}

function refuse(socket: Socket, refusal: Refusal): void {
  socket.once('data', () => {
    if (refusal === 'reset') socket.resetAndDestroy();
    else if (refusal === 'close') socket.end();
    else if (refusal === 'garbage') socket.end('HTTP/1.1 400 Bad Request\r\n\r\n');
    else socket.end(errorResponse(refusal));
  });
}

/** @see https://www.postgresql.org/docs/current/protocol-message-formats.html (ErrorResponse) */
function errorResponse(code: string): Buffer {
  const fields = Buffer.from(`SFATAL\0VFATAL\0C${code}\0Mrefused by a test with ${code}\0\0`);
  const head = Buffer.alloc(5);
  head.write('E');
  head.writeInt32BE(fields.length + 4, 1);
  return Buffer.concat([head, fields]);
}
