/** The process of the readers: many sockets that count what they get, to its end. */
import { connect, type Socket } from 'node:net';
import { serve } from '../lib/child.ts';
import type { TalkInput } from '../lib/fleet-processes.ts';
import { type DialectName, MARKERS, type ReaderRequest, requestFor } from './requests.ts';

/** Connections are made so many at a time: a full backlog would make some of them wait for seconds. */
const AT_ONCE = 25;
/** Ends a body of chunks. */
const LAST_CHUNK = '\r\n0\r\n\r\n';

interface Reader {
  socket: Socket;
  /** Resolves with the first bytes. @throws Error it is refused */
  opened: Promise<void>;
  /** Resolves when its body has ended. @returns events in it, and its bytes @throws Error it broke off */
  ended: Promise<{ events: number; bytes: number }>;
}

let readers: Reader[] = [];

export const commands = {
  /** Opens so many readers, on one stream after the other in turn; nothing has to run the jobs yet. */
  async connect(order: {
    port: number;
    dialect: DialectName;
    run: string;
    streams: number;
    count: number;
    input: TalkInput;
  }): Promise<void> {
    const { port, dialect, run, streams, count, input } = order;
    readers = [];
    while (readers.length < count) {
      const batch = Array.from({ length: Math.min(AT_ONCE, count - readers.length) }, async (_, i) => {
        const key = `${run}-${(readers.length + i) % streams}`;
        return read(port, await requestFor(dialect, { port, key, input }), MARKERS[dialect]);
      });
      const opening = await Promise.all(batch);
      readers.push(...opening);
      await Promise.all(opening.map(({ opened }) => opened));
    }
  },

  /** Resolves when all bodies have ended. @throws Error one has not so many events */
  async ended(events: number): Promise<{ bytes: number }> {
    const all = await Promise.all(readers.map(({ ended }) => ended));
    const wrong = all.find((one) => one.events !== events);
    if (wrong !== undefined) throw new Error(`a reader got ${wrong.events} events of ${events}`);
    return { bytes: all.reduce((sum, one) => sum + one.bytes, 0) };
  },
};

function read(port: number, { method, path, headers, body }: ReaderRequest, marker: string): Reader {
  const opened = Promise.withResolvers<void>();
  const ended = Promise.withResolvers<{ events: number; bytes: number }>();
  ended.promise.catch(() => {});
  const socket = connect({ host: '127.0.0.1', port, noDelay: true });
  socket.setEncoding('latin1');
  const lines = Object.entries({ host: '127.0.0.1', 'content-length': String(Buffer.byteLength(body)), ...headers });
  socket.write(
    `${method} ${path} HTTP/1.1\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n${body}`,
  );
  let [rest, bytes, events] = ['', 0, 0];
  const keep = Math.max(marker.length, LAST_CHUNK.length) - 1;
  socket.on('data', (text: string) => {
    if (bytes === 0 && !text.startsWith('HTTP/1.1 200')) opened.reject(new Error(`the server answered ${text}`));
    opened.resolve();
    bytes += text.length;
    const all = rest + text;
    // One that has been counted is whole before the new bytes: it does not end in them.
    for (let at = all.indexOf(marker); at >= 0; at = all.indexOf(marker, at + marker.length))
      if (at + marker.length > rest.length) events++;
    rest = all.slice(-keep);
    if (!all.endsWith(LAST_CHUNK)) return;
    ended.resolve({ events, bytes });
    socket.destroy();
  });
  socket.on('error', () => {});
  socket.once('close', () => {
    opened.reject(new Error('the connection closed before an answer'));
    ended.reject(new Error(`a reader was cut off after ${events} events`));
  });
  return { socket, opened: opened.promise, ended: ended.promise };
}

serve(commands);
