import type { Change } from '../../mutation.ts';

const TEST = 'test/http/connections.test.ts';

export default [
  {
    name: 'connection-one-at-a-time',
    find: 'if (connection.current === undefined && connection.waiting.length === 0) {',
    replace: 'if (true) {',
    mechanism: 'a connection has one request in progress',
    test: TEST,
    title: 'are in progress one at a time, and answered in order',
  },
  {
    name: 'connection-max-waiting',
    find: '} else if (connection.full || this.#waiting >= this.#limits.maxWaiting) {',
    replace: '} else if (false) {',
    mechanism: 'pipelined requests that wait are bounded',
    test: TEST,
    title: 'beyond what may wait are not answered, and their connection is closed after those that are',
  },
  {
    name: 'connection-waiting-left',
    find: 'this.#waiting -= connection.waiting.length;',
    replace: '',
    mechanism: 'requests of a connection that is gone wait no longer',
    test: TEST,
    title: 'that go away while they wait leave room for others',
  },
  {
    name: 'connection-unread',
    find: 'if (current === undefined || isUnread(socket, current)) socket.destroy();',
    replace: 'if (current === undefined) socket.destroy();',
    mechanism: 'an answer that nobody reads is given up',
    test: TEST,
    title: 'that nobody reads is given up',
  },
  {
    name: 'connection-quiet',
    find: 'return response.headersSent && socket.writableLength > 0;',
    replace: 'return response.headersSent;',
    mechanism: 'a quiet stream is not an unread one',
    test: TEST,
    title: 'that is a stream nobody reads is given up, and a quiet one is not',
  },
  {
    name: 'connection-drain-idle',
    find: 'for (const [socket, { current }] of this.#open) if (current === undefined) socket.destroy();',
    replace: '',
    mechanism: 'a drain ends connections without a request',
    test: TEST,
    title: 'does not wait for a client with %s',
  },
  {
    name: 'connection-drain-stuck',
    find: 'else if (now - connection.stuckSince >= this.#limits.drainMs) socket.destroy();',
    replace: '',
    mechanism: 'a drain does not wait for clients that send or take nothing',
    test: TEST,
    title: 'does not wait for a client with %s',
  },
  {
    name: 'connection-answer-order',
    find: 'return socket.writable && (current === undefined || !(current.request.complete || current.response.headersSent));',
    replace: 'return socket.writable;',
    mechanism: 'an error is not written into an answer that has begun',
    test: TEST,
    title: 'is cut off where an answer has begun that the 408 would be a part of',
  },
] satisfies readonly Change[];
