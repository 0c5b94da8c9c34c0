import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { expect, it, onTestFinished } from 'vitest';
import { FaultProxy } from '../../chaos/proxy.ts';

/** A server that says everything twice as loud, behind a proxy. */
async function stage() {
  const received: string[] = [];
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.on('data', (bytes) => {
      received.push(bytes.toString());
      socket.write(bytes.toString().toUpperCase());
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const proxy = await FaultProxy.start({ host: '127.0.0.1', port: (server.address() as AddressInfo).port });
  onTestFinished(async () => {
    await proxy.close();
    server.close();
  });
  const dial = () => {
    const socket = connect(proxy.port, '127.0.0.1');
    const heard = { text: '', closed: false };
    socket.on('error', () => {});
    socket.on('data', (bytes) => {
      heard.text += bytes.toString();
    });
    socket.on('close', () => {
      heard.closed = true;
    });
    onTestFinished(() => void socket.destroy());
    return { socket, heard };
  };
  const exchange = async ({ socket, heard }: { socket: Socket; heard: { text: string } }, text: string) => {
    const before = heard.text.length;
    socket.write(text);
    await expect.poll(() => heard.text.slice(before)).toBe(text.toUpperCase());
  };
  return { proxy, received, dial, exchange };
}

it('passes on what is said, both ways', async () => {
  const { proxy, dial, exchange } = await stage();
  const client = dial();
  await exchange(client, 'hello');
  expect(proxy.connections).toBe(1);
  client.socket.end();
  await expect.poll(() => client.heard.closed).toBe(true);
  await expect.poll(() => proxy.connections).toBe(0);
});

it('cut: present and new connections are reset, until it is over', async () => {
  const { proxy, dial, exchange } = await stage();
  const client = dial();
  await exchange(client, 'hello');
  proxy.set({ kind: 'cut' });
  await expect.poll(() => client.heard.closed).toBe(true);
  const refused = dial();
  await expect.poll(() => refused.heard.closed).toBe(true);
  proxy.set({ kind: 'open' });
  await exchange(dial(), 'again');
});

it('delay: what is said arrives late, in its order', async () => {
  const { proxy, dial, exchange } = await stage();
  const client = dial();
  await exchange(client, 'hello');
  proxy.set({ kind: 'delay', ms: 150 });
  const startedAt = performance.now();
  await exchange(client, 'one');
  expect(performance.now() - startedAt).toBeGreaterThan(290);
});

it('hold: what was said meanwhile arrives when it is over, also of a client that has gone', async () => {
  const { proxy, received, dial, exchange } = await stage();
  const [stays, goes] = [dial(), dial()];
  await exchange(stays, 'a');
  await exchange(goes, 'b');
  proxy.set({ kind: 'hold' });
  stays.socket.write('late');
  goes.socket.write('too late');
  await new Promise((resolve) => setImmediate(resolve));
  goes.socket.destroy();
  const during = dial();
  during.socket.write('new');
  await expect.poll(() => goes.heard.closed).toBe(true);
  expect(received).toEqual(['a', 'b']);
  proxy.set({ kind: 'open' });
  await expect.poll(() => received.toSorted()).toEqual(['a', 'b', 'late', 'new', 'too late']);
  await expect.poll(() => stays.heard.text).toBe('ALATE');
});

it('mute: what is said arrives, and no answer comes, not even after a cut', async () => {
  const { proxy, received, dial, exchange } = await stage();
  const client = dial();
  await exchange(client, 'hello');
  proxy.set({ kind: 'mute' });
  client.socket.write('heard');
  await expect.poll(() => received).toEqual(['hello', 'heard']);
  proxy.set({ kind: 'cut' });
  await expect.poll(() => client.heard).toEqual({ text: 'HELLO', closed: true });
  proxy.set({ kind: 'open' });
  await exchange(dial(), 'again');
});

it('strand: present connections stay open and nothing arrives any more; new ones work', async () => {
  const { proxy, received, dial, exchange } = await stage();
  const client = dial();
  await exchange(client, 'hello');
  proxy.strand();
  client.socket.write('into the void');
  await exchange(dial(), 'new');
  proxy.set({ kind: 'open' });
  await exchange(dial(), 'newer');
  expect(received).toEqual(['hello', 'new', 'newer']);
  expect(client.heard).toEqual({ text: 'HELLO', closed: false });
  proxy.endStranded();
  await expect.poll(() => client.heard.closed).toBe(true);
  await exchange(dial(), 'newest');
});
