/** A reader of server-sent events that costs its process next to nothing, so that the server is what is measured. */
import { connect, type Socket } from 'node:net';

export interface SseClientOptions {
  port: number;
  path: string;
  /** The last seq seen. */
  after?: number;
  /** @param data the event's JSON text, as Latin-1 */
  onEvent(seq: number, type: string, data: string): void;
}

/** Ends the body. */
const LAST_CHUNK = '\r\n0\r\n\r\n';

/** One request on a socket of its own. */
export class SseClient {
  /** Resolves when the server has answered 200 and begun. @throws Error it answered something else */
  readonly opened: Promise<void>;
  /** Resolves when the connection is gone, however it went. */
  readonly closed: Promise<void>;
  readonly #socket: Socket;
  readonly #onEvent: SseClientOptions['onEvent'];
  readonly #opened = Promise.withResolvers<void>();
  #begun = false;
  #cut = false;
  /** Pieces of a frame that has not ended. */
  #rest: string[] = [];
  #tail = '';

  constructor({ port, path, after, onEvent }: SseClientOptions) {
    this.#onEvent = onEvent;
    this.opened = this.#opened.promise;
    this.opened.catch(() => {});
    this.#socket = connect({ host: '127.0.0.1', port, noDelay: true });
    this.#socket.setEncoding('latin1');
    this.#socket.write(
      `GET ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n${after === undefined ? '' : `Last-Event-ID: ${after}\r\n`}\r\n`,
    );
    this.#socket.on('data', (text: string) => this.#take(text));
    this.#socket.on('error', () => {});
    this.closed = new Promise((resolve) => {
      this.#socket.once('close', () => {
        this.#opened.reject(new Error('the connection closed before an answer'));
        resolve();
      });
    });
  }

  /** This side has closed it. */
  get cut(): boolean {
    return this.#cut;
  }

  close(): void {
    this.#cut = true;
    this.#socket.destroy();
  }

  #take(text: string): void {
    this.#tail = (this.#tail + text).slice(-LAST_CHUNK.length);
    // Pieces of a long frame wait for its end, which may be cut in two, and are not looked at again before.
    const endsHere = text.includes('\n\n') || (text[0] === '\n' && this.#rest.at(-1)?.endsWith('\n') === true);
    if (endsHere) this.#takeFrames(this.#rest.length === 0 ? text : this.#rest.join('') + text);
    else this.#rest.push(text);
    // The server keeps the connection, this side does not.
    if (this.#tail === LAST_CHUNK) this.#socket.end();
  }

  #takeFrames(all: string): void {
    let from = 0;
    for (;;) {
      // Each frame ends so, and nothing between them does: headers and chunk sizes end with CRLF.
      const end = all.indexOf('\n\n', from);
      if (end < 0) break;
      if (this.#begun) this.#takeFrame(all, from, end);
      else this.#begin(all.slice(from, end));
      from = end + 2;
    }
    this.#rest = from < all.length ? [all.slice(from)] : [];
  }

  #begin(head: string): void {
    const status = head.slice('HTTP/1.1 '.length, head.indexOf('\r\n'));
    this.#begun = true;
    if (status === '200 OK') this.#opened.resolve();
    else this.#opened.reject(new Error(`the server answered ${status}`));
  }

  #takeFrame(all: string, from: number, end: number): void {
    const id = all.indexOf('id: ', from);
    // A keepalive, or a time to wait before a reconnect.
    if (id < 0 || id > end) return;
    const event = all.indexOf('\nevent: ', id);
    const data = all.indexOf('\ndata: ', event);
    this.#onEvent(
      Number(all.slice(id + 'id: '.length, event)),
      all.slice(event + '\nevent: '.length, data),
      all.slice(data + '\ndata: '.length, end),
    );
  }
}
