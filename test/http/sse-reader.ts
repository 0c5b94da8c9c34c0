/** Readers of event streams for tests: the parsing of the HTML standard, and one on a raw socket. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';

export interface ParsedEvent {
  id?: string;
  event?: string;
  data: string;
}

/** Complete events of a text, as https://html.spec.whatwg.org/multipage/server-sent-events.html parses it. */
export function parseSse(text: string): ParsedEvent[] {
  const events: ParsedEvent[] = [];
  let current: { id?: string; event?: string; data: string[] } = { data: [] };
  const lines = text.split(/\r\n|\r|\n/);
  lines.pop();
  for (const line of lines) {
    if (line === '') {
      if (current.data.length > 0) events.push({ ...current, data: current.data.join('\n') });
      current = { data: [] };
      continue;
    }
    const colon = line.indexOf(':');
    if (colon === 0) continue;
    const field = colon === -1 ? line : line.slice(0, colon);
    const value = colon === -1 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (field === 'data') current.data.push(value);
    else if (field === 'event') current.event = value;
    else if (field === 'id') current.id = value;
  }
  return events;
}

/** One GET on a socket of its own; bytes are what the server wrote, chunk framing included. */
export class RawRequest {
  readonly socket: Socket;
  #received = Buffer.alloc(0);
  #cutAt = Number.POSITIVE_INFINITY;
  #ended = false;

  constructor(port: number, path: string, headers: Record<string, string> = {}, cutAt = Number.POSITIVE_INFINITY) {
    this.#cutAt = cutAt;
    this.socket = connect(port, '127.0.0.1');
    this.socket.on('error', () => {});
    this.socket.on('end', () => {
      this.#ended = true;
    });
    this.socket.on('data', (bytes) => {
      this.#received = Buffer.concat([this.#received, bytes]);
      if (this.#received.length >= this.#cutAt) {
        this.#received = this.#received.subarray(0, this.#cutAt);
        this.socket.destroy();
      }
    });
    const lines = Object.entries({ host: 'localhost', connection: 'close', ...headers }).map(
      ([name, value]) => `${name}: ${value}\r\n`,
    );
    this.socket.write(`GET ${path} HTTP/1.1\r\n${lines.join('')}\r\n`);
  }

  get bytes(): Buffer {
    return this.#received;
  }

  /** The server closed its side. */
  get ended(): boolean {
    return this.#ended;
  }

  async closed(): Promise<this> {
    if (!this.socket.closed) await once(this.socket, 'close');
    return this;
  }

  get status(): number {
    return Number(/^HTTP\/1\.1 (\d+)/.exec(this.#received.toString('latin1'))?.[1]);
  }

  get headers(): Record<string, string> {
    const head = this.#received.toString('latin1').split('\r\n\r\n', 1)[0] as string;
    return Object.fromEntries(
      head
        .split('\r\n')
        .slice(1)
        .map((line) => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()]),
    );
  }

  /** The body without chunk framing, as far as it came, and whether the server ended it. */
  get body(): { text: string; complete: boolean } {
    const { parts, complete } = this.#parse();
    return { text: Buffer.concat(parts).toString(), complete };
  }

  /** The chunks of the body, the empty last one left out. */
  get chunks(): string[] {
    return this.#parse()
      .parts.map(String)
      .filter((text) => text !== '');
  }

  #parse(): { parts: Buffer[]; complete: boolean } {
    const start = this.#received.indexOf('\r\n\r\n');
    if (start === -1) return { parts: [], complete: false };
    let rest = this.#received.subarray(start + 4);
    const parts: Buffer[] = [];
    for (;;) {
      const lineEnd = rest.indexOf('\r\n');
      if (lineEnd === -1) return { parts, complete: false };
      const size = Number.parseInt(rest.subarray(0, lineEnd).toString(), 16);
      const chunk = rest.subarray(lineEnd + 2, lineEnd + 2 + size);
      parts.push(chunk);
      if (size === 0) return { parts, complete: rest.length >= lineEnd + 4 };
      rest = rest.subarray(lineEnd + 2 + size + 2);
    }
  }
}
