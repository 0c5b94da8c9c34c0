import type { Change } from '../../mutation.ts';

const test = 'test/web-client/client.test.ts';
const AGAIN = 'is sent again under its key after %s';
const ONCE = 'has each event once, wherever connections break and whatever pieces come';

export default [
  {
    name: 'client-again',
    find: 'if (pause === undefined || Date.now() + pause > until) throw sent;',
    replace: 'throw sent;',
    mechanism: 'a request without an answer is sent again',
    test,
    title: AGAIN,
  },
  {
    name: 'client-passing',
    find: '!PASSING.includes(error.status)) return undefined;',
    replace: 'error.status < 500) return undefined;',
    mechanism: 'a 429 is no refusal for good',
    test,
    title: AGAIN,
  },
  {
    name: 'client-refusal',
    find: '&& !PASSING.includes(error.status)',
    replace: '&& error.status < 0',
    mechanism: 'a refusal is told at once',
    test,
    title: 'is given up at a refusal, and after its time',
  },
  {
    name: 'client-cursor',
    find: 'if (frame.id !== undefined) cursor = frame.id;',
    replace: '',
    mechanism: 'a reader that connects again has no event twice',
    test,
    title: ONCE,
  },
  {
    name: 'client-terminal',
    find: 'if (TERMINAL.includes(last)) return;',
    replace: 'return;',
    mechanism: 'a stream that ends without its terminal event is followed on',
    test,
    title: 'goes on where it was after a clean end without a terminal event, and ends at 204',
  },
  {
    name: 'client-idle',
    find: 'quiet = setTimeout(() => leave.abort(), this.#options.idleMs ?? 45_000);',
    replace: '',
    mechanism: 'a connection of which nothing comes is given up',
    test,
    title: 'connects again when nothing comes for a while, not even a comment',
  },
  {
    name: 'client-expired',
    find: "if ((error as ClientError).code !== 'STREAM_EXPIRED') throw error;",
    replace: 'throw error;',
    mechanism: 'an outcome is had where the events are gone',
    test,
    title: 'is had where the events are past their retention',
  },
  {
    name: 'client-ticket',
    find: "const given = ticket === undefined ? await (typeof token === 'function' ? token() : token) : undefined;",
    replace: "const given = await (typeof token === 'function' ? token() : token);",
    mechanism: 'a ticket takes the place of the token',
    test,
    title: 'is asked for each request, and a ticket opens one stream without it',
  },
] satisfies readonly Change[];
