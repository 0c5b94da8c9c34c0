import type { Server } from 'node:http';
import type { Socket } from 'node:net';

/**
 * Connections on which no request has come: clients open them ahead of need (browsers,
 * undici), and a closing server would wait for them until their own timeout.
 */
export class SilentSockets {
  readonly #silent = new Set<Socket>();
  #closing = false;

  constructor(server: Server) {
    server.on('connection', (socket) => {
      if (this.#closing) {
        socket.destroy();
        return;
      }
      this.#silent.add(socket);
      socket.once('close', () => this.#silent.delete(socket));
    });
    server.on('request', (request) => this.#silent.delete(request.socket));
  }

  /** Destroys them, and those that come from now on. */
  destroy(): void {
    this.#closing = true;
    for (const socket of this.#silent) socket.destroy();
    this.#silent.clear();
  }
}
