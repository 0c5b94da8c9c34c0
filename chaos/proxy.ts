/**
 * A TCP proxy that breaks what goes through it, as networks do: cuts, delays, half-open
 * connections. Each process under test has one before Postgres and one before Redis, so that
 * faults can hit one process and spare the others.
 */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';

export type ProxyMode =
  | { kind: 'open' }
  /** Every connection is reset, new ones too. */
  | { kind: 'cut' }
  /** Everything arrives so many ms late. */
  | { kind: 'delay'; ms: number }
  /** Nothing arrives and nobody is told; what was sent meanwhile arrives when this is over, also of a sender that gave up. */
  | { kind: 'hold' }
  /** What clients say arrives, and no answer comes: after a cut nobody knows what the server did. */
  | { kind: 'mute' };

/** Bytes of one direction that are kept before its sender is no longer read. */
const MAX_HELD = 4 * 1024 * 1024;

export class FaultProxy {
  #target: { host: string; port: number };
  readonly #server: Server;
  readonly #links = new Set<Link>();
  #mode: ProxyMode = { kind: 'open' };
  #closed = false;
  #refused = 0;

  private constructor(target: { host: string; port: number }) {
    this.#target = target;
    this.#server = createServer({ allowHalfOpen: true, noDelay: true }, (client) => this.#accept(client));
  }

  static async start(target: { host: string; port: number }): Promise<FaultProxy> {
    const proxy = new FaultProxy(target);
    proxy.#server.listen(0, '127.0.0.1');
    await once(proxy.#server, 'listening');
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Connections that a client still has open. */
  get connections(): number {
    return [...this.#links].filter((link) => link.clientOpen).length;
  }

  /** New connections that were reset so far. */
  get refused(): number {
    return this.#refused;
  }

  set(mode: ProxyMode): void {
    this.#mode = mode;
    if (mode.kind === 'cut') for (const link of [...this.#links]) link.reset();
    else for (const link of this.#links) link.mode = mode;
  }

  /** New connections lead there; the present ones stay where they are. */
  leadTo(target: { host: string; port: number }): void {
    this.#target = target;
  }

  /** The present connections go half-open for good: open on both sides, and nothing arrives any more. New ones work. */
  strand(): void {
    for (const link of this.#links) link.strand();
  }

  /** What TCP does in the end with connections that were stranded: their servers hear of it. */
  endStranded(): void {
    for (const link of [...this.#links]) if (link.stranded) link.reset();
  }

  /** Resets the present connections; new ones work. */
  cutOnce(): void {
    for (const link of [...this.#links]) link.reset();
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    for (const link of [...this.#links]) link.reset();
    const closed = once(this.#server, 'close');
    this.#server.close();
    await closed;
  }

  #accept(client: Socket): void {
    if (this.#closed || this.#mode.kind === 'cut') {
      this.#refused++;
      client.on('error', () => {});
      client.resetAndDestroy();
      return;
    }
    const server = connect({ ...this.#target, allowHalfOpen: true, noDelay: true });
    const link: Link = new Link(client, server, () => this.#links.delete(link));
    link.mode = this.#mode;
    this.#links.add(link);
  }
}

/** A client's connection and the one made for it. */
class Link {
  readonly #client: Socket;
  readonly #server: Socket;
  readonly #up: Direction;
  readonly #down: Direction;

  constructor(client: Socket, server: Socket, onClose: () => void) {
    this.#client = client;
    this.#server = server;
    this.#up = new Direction(client, server);
    this.#down = new Direction(server, client);
    let open = 2;
    for (const socket of [client, server]) socket.once('close', () => --open === 0 && onClose());
  }

  get clientOpen(): boolean {
    return !this.#client.destroyed && !this.#client.readableEnded;
  }

  set mode(mode: ProxyMode) {
    this.#up.mode = mode.kind === 'mute' ? { kind: 'open' } : mode;
    this.#down.mode = mode.kind === 'mute' ? { kind: 'hold' } : mode;
  }

  get stranded(): boolean {
    return this.#up.stranded;
  }

  strand(): void {
    for (const direction of [this.#up, this.#down]) direction.strand();
  }

  reset(): void {
    for (const socket of [this.#client, this.#server]) socket.resetAndDestroy();
  }
}

class Direction {
  readonly #from: Socket;
  readonly #to: Socket;
  #waiting: { bytes: Buffer | 'end' | 'reset'; dueAt: number }[] = [];
  #held = 0;
  #mode: ProxyMode = { kind: 'open' };
  #stranded = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(from: Socket, to: Socket) {
    this.#from = from;
    this.#to = to;
    from.on('data', (bytes: Buffer) => this.#push(bytes));
    from.once('end', () => this.#push('end'));
    from.on('error', () => {
      // `close` follows, and says the rest.
    });
    from.once('close', (hadError) => this.#push(hadError ? 'reset' : 'end'));
    to.on('drain', () => this.#flush());
    to.once('close', () => {
      clearTimeout(this.#timer);
      this.#waiting = [];
    });
  }

  set mode(mode: ProxyMode) {
    this.#mode = mode;
    const now = performance.now();
    for (const entry of this.#waiting) entry.dueAt = Math.min(entry.dueAt, now + (mode.kind === 'delay' ? mode.ms : 0));
    this.#flush();
  }

  get stranded(): boolean {
    return this.#stranded;
  }

  strand(): void {
    this.#stranded = true;
    this.#waiting = [];
    this.#held = 0;
    this.#from.resume();
  }

  #push(bytes: Buffer | 'end' | 'reset'): void {
    // Of a stranded connection one side's end is never heard of by the other; the other ends by itself.
    if (this.#stranded) return;
    const delayMs = this.#mode.kind === 'delay' ? this.#mode.ms : 0;
    this.#waiting.push({ bytes, dueAt: performance.now() + delayMs });
    if (typeof bytes !== 'string') this.#held += bytes.length;
    if (this.#held > MAX_HELD) this.#from.pause();
    this.#flush();
  }

  #flush(): void {
    clearTimeout(this.#timer);
    if (this.#mode.kind === 'hold') return;
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      if (this.#to.destroyed) return;
      const leftMs = next.dueAt - performance.now();
      if (leftMs > 0) {
        this.#timer = setTimeout(() => this.#flush(), leftMs);
        return;
      }
      this.#waiting.shift();
      if (next.bytes === 'end') this.#to.end();
      else if (next.bytes === 'reset') this.#to.resetAndDestroy();
      else {
        this.#held -= next.bytes.length;
        const roomy = this.#to.write(next.bytes);
        if (this.#held <= MAX_HELD) this.#from.resume();
        if (!roomy) return;
      }
    }
  }
}
