/** Thousands of readers on one web process, which is a process of its own so that only it is measured. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { Redis } from 'ioredis';
import { expect, it, onTestFinished } from 'vitest';
import { appendBatches, type EventBatch } from '../../src/db/streams/segments.ts';
import { streamChannel } from '../../src/journal/channel.ts';
import { encodeBatchMessage } from '../../src/journal/message.ts';
import { LiveKey, sealBatch } from '../../src/journal/seal.ts';
import { claimFree, insertJob, useDatabase } from '../helpers/fixtures.ts';
import { testRedisUrl, uniquePrefix } from '../helpers/services.ts';
import type { Measure } from './web-process.ts';

const READERS = 2_000;
/** Sockets that are being opened at once: the backlog of a listening socket is 511. */
const AT_ONCE = 200;
/** What one quiet reader may cost the process, bytes. */
const MAX_PER_READER = 64 * 1024;

const file = useDatabase();

it('2,000 readers, half of them on one stream, get what is said at once, for little memory each, and leave nothing behind', async () => {
  const prefix = uniquePrefix();
  const publisher = new Redis(testRedisUrl());
  onTestFinished(() => publisher.disconnect());
  const streams = await Promise.all(
    Array.from({ length: READERS / 2 + 1 }, async () => {
      const id = await insertJob(file.db);
      await claimFree(file.db, id);
      return id;
    }),
  );
  const whom = Array.from({ length: READERS }, (_, n) => streams[n % 2 === 0 ? 0 : (n + 1) / 2] as string);
  const web = await startWeb(prefix);

  // What the first readers of a process leave behind (code, pools, caches) is not theirs.
  await closeReaders(await openReaders(web.port, whom));
  await expect.poll(async () => (await web.measure()).sockets).toBeLessThan(AT_ONCE);
  const before = await web.measure();

  const key = await new LiveKey(file.db).load();
  const readers = await openReaders(web.port, whom);
  const during = await web.measure();
  expect(during.sockets - before.sockets).toBe(READERS);
  expect((during.heap - before.heap) / READERS).toBeLessThan(MAX_PER_READER);

  for (let at = 0; at < streams.length; at += AT_ONCE) {
    const batches: EventBatch[] = streams
      .slice(at, at + AT_ONCE)
      .map((streamId) => ({ streamId, fence: 1, firstSeq: 0, events: ['{"type":"delta","text":"hello"}'] }));
    expect((await appendBatches(file.db, batches)).size).toBe(batches.length);
    await Promise.all(
      batches.map((batch) => {
        const channel = streamChannel(prefix, batch.streamId);
        return publisher.publish(channel, sealBatch(key, channel, encodeBatchMessage(batch, false)));
      }),
    );
  }
  const told = () =>
    readers.filter(({ text }) => text.endsWith('data: {"type":"delta","text":"hello"}\n\n\r\n')).length;
  await expect.poll(told, { timeout: 30_000 }).toBe(READERS);

  await closeReaders(readers);
  await expect.poll(async () => (await web.measure()).sockets, { timeout: 30_000 }).toBeLessThanOrEqual(before.sockets);
  const subscriptions = async () => (await publisher.pubsub('CHANNELS', `${prefix}:stream:*`)).length;
  await expect.poll(subscriptions).toBe(0);
  await expect.poll(async () => (await web.measure()).timers).toBeLessThanOrEqual(before.timers + 5);
  const after = await web.measure();
  expect((after.heap - before.heap) / READERS).toBeLessThan(1024);
}, 120_000);

interface Reader {
  socket: Socket;
  text: string;
}

async function openReaders(port: number, streams: readonly string[]): Promise<Reader[]> {
  const readers: Reader[] = [];
  for (let at = 0; at < streams.length; at += AT_ONCE)
    readers.push(...(await Promise.all(streams.slice(at, at + AT_ONCE).map((id) => openReader(port, id)))));
  return readers;
}

/** Resolves when the response has begun. */
function openReader(port: number, id: string): Promise<Reader> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1');
    const reader = { socket, text: '' };
    socket.setEncoding('utf8');
    socket.on('error', reject);
    socket.on('data', (text: string) => {
      reader.text += text;
      if (reader.text.includes('retry: 1000')) resolve(reader);
    });
    socket.write(`GET /v1/jobs/${id}/events HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n`);
  });
}

async function closeReaders(readers: readonly Reader[]): Promise<void> {
  await Promise.all(
    readers.map(async ({ socket }) => {
      socket.destroy();
      if (!socket.closed) await once(socket, 'close');
    }),
  );
}

async function startWeb(prefix: string) {
  const options = { databaseUrl: file.url, redisUrl: testRedisUrl(), prefix };
  const child: ChildProcess = fork(
    fileURLToPath(new URL('web-process.ts', import.meta.url)),
    [JSON.stringify(options)],
    {
      execArgv: ['--expose-gc', '--conditions=oncefleet-source', '--disable-warning=ExperimentalWarning'],
    },
  );
  onTestFinished(async () => {
    if (child.exitCode !== null) return;
    const exited = once(child, 'exit');
    child.send('close');
    const late = setTimeout(() => child.kill('SIGKILL'), 10_000);
    await exited;
    clearTimeout(late);
  });
  const [{ port }] = (await once(child, 'message')) as [{ port: number }];
  return {
    port,
    async measure(): Promise<Measure> {
      const answer = once(child, 'message');
      child.send('measure');
      return (await answer)[0] as Measure;
    },
  };
}
