/**
 * Readers of event streams for tests: the parsing of the HTML standard, and one on a raw socket.
 * Both look at each byte once, however the network cuts the stream: helpers/linear.test.ts
 * holds them to it.
 */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { StringDecoder } from 'node:string_decoder';
import { Lines } from '../../scripts/demo/lines.ts';

export interface ParsedEvent {
  id?: string;
  event?: string;
  data: string;
}

/** Complete events of a text, as https://html.spec.whatwg.org/multipage/server-sent-events.html parses it. */
export function parseSse(text: string): ParsedEvent[] {
  return new SseParser().push(text).events;
}

/** The same for a text that comes in pieces. */
class SseParser {
  readonly events: ParsedEvent[] = [];
  #current: { id?: string; event?: string; data: string[] } = { data: [] };
  readonly #lines = new Lines();

  push(text: string): this {
    for (const line of this.#lines.push(text)) this.#take(line);
    return this;
  }

  #take(line: string): void {
    if (line === '') {
      const { data } = this.#current;
      if (data.length > 0) this.events.push({ ...this.#current, data: data.join('\n') });
      this.#current = { data: [] };
      return;
    }
    const colon = line.indexOf(':');
    if (colon === 0) return;
    const field = colon === -1 ? line : line.slice(0, colon);
    const value = colon === -1 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (field === 'data') this.#current.data.push(value);
    else if (field === 'event') this.#current.event = value;
    else if (field === 'id') this.#current.id = value;
  }
}

/** A response with a chunked body, as its bytes come. */
class ChunkedResponse {
  readonly head: string[] = [];
  readonly parser = new SseParser();
  readonly chunks: string[] = [];
  text = '';
  complete = false;
  readonly #decoder = new StringDecoder();
  /** `body`: the chunks' own bytes. The others are lines; `other`: a body that is not chunked. */
  #at: 'head' | 'size' | 'body' | 'body end' | 'end' | 'other' = 'head';
  #line = '';
  #left = 0;

  push(bytes: Buffer): void {
    for (let from = 0; from < bytes.length && this.#at !== 'other'; )
      from = this.#at === 'body' ? this.#pushBody(bytes, from) : this.#pushLine(bytes, from);
  }

  #pushBody(bytes: Buffer, from: number): number {
    const to = Math.min(bytes.length, from + this.#left);
    const text = this.#decoder.write(bytes.subarray(from, to));
    this.chunks.push((this.chunks.pop() ?? '') + text);
    this.text += text;
    this.parser.push(text);
    this.#left -= to - from;
    if (this.#left === 0) this.#at = 'body end';
    return to;
  }

  #pushLine(bytes: Buffer, from: number): number {
    const lineFeed = bytes.indexOf('\n', from);
    const to = lineFeed === -1 ? bytes.length : lineFeed + 1;
    this.#line += bytes.toString('latin1', from, to);
    if (lineFeed === -1) return to;
    const line = this.#line.slice(0, -2);
    this.#line = '';
    if (this.#at === 'head' && line !== '') this.head.push(line);
    else if (this.#at === 'head') this.#at = this.head.some(isChunked) ? 'size' : 'other';
    else if (this.#at === 'size') {
      this.#left = Number.parseInt(line, 16);
      this.#at = this.#left === 0 ? 'end' : 'body';
      if (this.#left > 0) this.chunks.push('');
    } else if (this.#at === 'body end') this.#at = 'size';
    else {
      this.complete = true;
      this.#at = 'other';
    }
    return to;
  }
}

function isChunked(line: string): boolean {
  return /^transfer-encoding:\s*chunked$/i.test(line);
}

/** One GET on a socket of its own; bytes are what the server wrote, chunk framing included. */
export class RawRequest {
  readonly socket: Socket;
  readonly #received: Buffer[] = [];
  readonly #response = new ChunkedResponse();
  #left: number;
  #ended = false;

  constructor(port: number, path: string, headers: Record<string, string> = {}, cutAt = Number.POSITIVE_INFINITY) {
    this.#left = cutAt;
    this.socket = connect(port, '127.0.0.1');
    this.socket.on('error', () => {});
    this.socket.on('end', () => {
      this.#ended = true;
    });
    this.socket.on('data', (bytes) => {
      const wanted = bytes.subarray(0, this.#left);
      this.#received.push(wanted);
      this.#response.push(wanted);
      this.#left -= wanted.length;
      if (this.#left === 0) this.socket.destroy();
    });
    const lines = Object.entries({ host: 'localhost', connection: 'close', ...headers }).map(
      ([name, value]) => `${name}: ${value}\r\n`,
    );
    this.socket.write(`GET ${path} HTTP/1.1\r\n${lines.join('')}\r\n`);
  }

  /** All of them in one piece, which copies them. */
  get bytes(): Buffer {
    return Buffer.concat(this.#received);
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
    return Number(/^HTTP\/1\.1 (\d+)/.exec(this.#response.head[0] ?? '')?.[1]);
  }

  get headers(): Record<string, string> {
    return Object.fromEntries(
      this.#response.head
        .slice(1)
        .map((line) => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()]),
    );
  }

  /** The body without chunk framing, as far as it came, and whether the server ended it. */
  get body(): { text: string; complete: boolean } {
    const { text, complete } = this.#response;
    return { text, complete };
  }

  /** The chunks of the body, the empty last one left out. */
  get chunks(): readonly string[] {
    return this.#response.chunks;
  }

  /** The complete events of the body, as far as it came. */
  get events(): readonly ParsedEvent[] {
    return this.#response.parser.events;
  }
}
