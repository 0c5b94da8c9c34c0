/**
 * The readers of tests, benches, chaos and demo cost as much as there is to read, however it
 * comes. One that joins or searches all it has with each piece is as fast on a small stream and
 * does not end on a slow machine.
 */
import { createServer, type Socket } from 'node:net';
import { setImmediate as turn } from 'node:timers/promises';
import { expect, it, onTestFinished } from 'vitest';
import { SseClient } from '../../bench/lib/sse-client.ts';
import { parseFrames } from '../../scripts/demo/event-stream.ts';
import { Lines } from '../../scripts/demo/lines.ts';
import { createFakeClient } from '../http/fake-client.ts';
import { parseSse, RawRequest } from '../http/sse-reader.ts';
import { countWork } from './work.ts';

const PIECE = 1024;
/** Each byte may be decoded, searched, joined and so on, several times; not once for each piece. */
const MOST_PER_BYTE = 12;

const frame = (seq: number, length: number) => `id: ${seq}\nevent: delta\ndata: "${'x'.repeat(length)}"\n\n`;
const many = Array.from({ length: 1_000 }, (_, seq) => frame(seq, 1_000)).join('');
const long = frame(0, 1_000_000);

type Read = (text: string) => Promise<number>;
const readers: Record<string, Read> = {
  parseSse: async (text) => parseSse(text).length,
  async RawRequest(text) {
    const request = await new RawRequest(await serve(text), '/').closed();
    expect(request.body.complete).toBe(true);
    return request.events.length;
  },
  async parseFrames(text) {
    let frames = 0;
    for await (const _ of parseFrames(ReadableStream.from(inPieces(text)))) frames++;
    return frames;
  },
  async Lines(text) {
    const lines = new Lines();
    let frames = 0;
    for (const piece of inPieces(text)) frames += lines.push(piece).filter((line) => line === '').length;
    return frames;
  },
  async SseClient(text) {
    let frames = 0;
    const client = new SseClient({ port: await serve(text), path: '/', onEvent: () => frames++ });
    await client.closed;
    return frames;
  },
};

it.each([
  ['many events', 1_000, many],
  ['one long event', 1, long],
] as const)(
  'a reader looks at each byte of %s a few times, not once for each piece that comes',
  async (_, events, text) => {
    for (const [name, read] of Object.entries(readers)) {
      let found = 0;
      const work = await countWork(async () => {
        found = await read(text);
      });
      expect([name, found, Math.max(0, work - MOST_PER_BYTE * text.length)]).toEqual([name, events, 0]);
    }
  },
);

it('a fake client wakes each follower that waits once for each event, not once for each wait it ever began', async () => {
  const client = createFakeClient();
  const id = await client.newJob();
  const aborts = new AbortController();
  let listeners = 0;
  const { signal } = aborts;
  const { addEventListener, removeEventListener } = signal;
  signal.addEventListener = (...args: Parameters<typeof addEventListener>) => {
    listeners++;
    addEventListener.apply(signal, args);
  };
  signal.removeEventListener = (...args: Parameters<typeof removeEventListener>) => {
    listeners--;
    removeEventListener.apply(signal, args);
  };
  const events = client.follow(id, { signal })[Symbol.asyncIterator]();
  for (let n = 0; n < 100; n++) {
    const next = events.next();
    await turn();
    client.push(id, { type: 'delta' });
    await next;
  }
  expect(listeners).toBe(0);
});

function* inPieces(text: string): Generator<string> {
  for (let at = 0; at < text.length; at += PIECE) yield text.slice(at, at + PIECE);
}

/** A server that answers with one chunk, each piece of it in a write of its own. @returns its port */
async function serve(text: string): Promise<number> {
  const server = createServer((socket) => void answer(socket, text));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => void server.close());
  return (server.address() as { port: number }).port;
}

async function answer(socket: Socket, text: string): Promise<void> {
  socket.setNoDelay();
  const begin = 'retry: 1000\n\n';
  socket.write(`HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n${(begin.length + text.length).toString(16)}\r\n`);
  socket.write(begin);
  for (const piece of inPieces(text)) {
    socket.write(piece);
    await turn();
  }
  socket.end('\r\n0\r\n\r\n');
}
