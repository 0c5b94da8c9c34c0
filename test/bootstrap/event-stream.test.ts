import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import fc from 'fast-check';
import { afterEach, expect, test } from 'vitest';
import { type Frame, parseFrames, Reader } from '../../scripts/demo/event-stream.ts';

const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (let close = closers.pop(); close !== undefined; close = closers.pop()) await close();
});

async function parse(...chunks: string[]): Promise<Frame[]> {
  async function* each() {
    yield* chunks;
  }
  return collect(parseFrames(each()));
}

test('frames are read with every kind of line end, comments and unknown fields left out', async () => {
  const text =
    'retry: 1000\n\n: keepalive\n\nid: 0\r\nevent: delta\r\ndata: {"a":1}\r\n\r\nid:1\revent:end\rdata:x\rdata: y\r\rother: z\ndata\n\n';
  expect(await parse(text)).toEqual([
    { id: '0', type: 'delta', data: '{"a":1}' },
    { id: '1', type: 'end', data: 'x\ny' },
    { id: undefined, type: 'message', data: '' },
  ]);
});

test('where the network cuts the text makes no difference', async () => {
  const text = 'id: 0\r\nevent: delta\r\ndata: one\r\n\r\nid: 1\ndata: two\ndata: three\n\n: end\n\n';
  const whole = await parse(text);
  await fc.assert(
    fc.asyncProperty(fc.array(fc.nat(text.length), { maxLength: 12 }), async (cuts) => {
      const places = [0, ...cuts.sort((a, b) => a - b), text.length];
      const chunks = places.slice(1).map((end, i) => text.slice(places[i], end));
      expect(await parse(...chunks)).toEqual(whole);
    }),
  );
});

test('a reader whose connection breaks comes back with Last-Event-ID and misses nothing', async () => {
  const asked: (string | undefined)[] = [];
  const url = await serve((request, response) => {
    const last = request.headers['last-event-id'] as string | undefined;
    asked.push(last);
    const from = last === undefined ? 0 : Number(last) + 1;
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    for (let seq = from; seq < Math.min(from + 2, 5); seq++) response.write(frame(seq, seq === 4 ? 'end' : 'delta'));
    // The first by a reset, the next by a clean end before the terminal event.
    if (asked.length === 1) setImmediate(() => response.destroy());
    else response.end();
  });
  const reader = new Reader(url, AbortSignal.timeout(20_000));
  const seqs = (await collect(reader.events())).map(({ seq }) => seq);
  expect(seqs).toEqual([0, 1, 2, 3, 4]);
  expect(asked).toEqual([undefined, '1', '3']);
  expect(reader.connections).toBe(3);
});

test.each([
  ['a gap', [0, 2], 'the stream gave seq 2 where 1 was due'],
  ['an event given twice', [0, 0], 'the stream gave seq 0 where 1 was due'],
])('%s in the story is an error', async (_, seqs, message) => {
  const url = await serve((_request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    for (const seq of seqs) response.write(frame(seq, 'delta'));
  });
  await expect(collect(new Reader(url, AbortSignal.timeout(20_000)).events())).rejects.toThrow(message);
});

test('a refusal is an error, not a reason to ask again', async () => {
  const url = await serve((_request, response) => response.writeHead(404).end('{"code":"JOB_NOT_FOUND"}'));
  await expect(collect(new Reader(url, AbortSignal.timeout(20_000)).events())).rejects.toThrow(
    'answered 404: {"code":"JOB_NOT_FOUND"}',
  );
});

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

function frame(seq: number, type: string): string {
  return `id: ${seq}\nevent: ${type}\ndata: {"type":"${type}"}\n\n`;
}

async function serve(handle: (request: IncomingMessage, response: ServerResponse) => void): Promise<string> {
  const server = createServer(handle);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  closers.push(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}
