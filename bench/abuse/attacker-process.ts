/** The hostile clients. */
import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { serve } from '../lib/child.ts';
import { KINDS, type Stage } from './kinds.ts';

/** How long clients that read nothing stay. */
const STAY_MS = 4_000;
/** Then they take what there is, to know how they were answered, this long. */
const LEAVE_MS = 300;
const ANSWER_TIMEOUT_MS = 30_000;
/** One less than a status line has up to its reason. */
const STATUS_LINE_LENGTH = 12;

interface Order {
  kind: string;
  port: number;
  stage: Stage;
  /** Of the kind's requests. */
  share: number;
}

/** Answers by status; 0: none was seen. */
export type Answers = Record<number, number>;

export const commands = {
  async attack({ kind: name, port, stage, share }: Order): Promise<Answers> {
    const kind = KINDS.find((one) => one.name === name);
    if (kind === undefined) throw new Error(`no kind ${name}`);
    const answers: Answers = {};
    const clients = Math.max(1, Math.round((kind.requests * share) / kind.pipelined));
    let next = 0;
    const work = async () => {
      while (next < clients) {
        const n = next++;
        const bytes = Array.from({ length: kind.pipelined }, () => kind.bytes(stage, n)).join('');
        const seen = kind.unread ? await stay(port, bytes) : await ask(port, bytes);
        for (let i = 0; i < kind.pipelined; i++) {
          const status = seen[i] ?? 0;
          answers[status] = (answers[status] ?? 0) + 1;
        }
      }
    };
    await Promise.all(Array.from({ length: Math.min(clients, kind.connections) }, work));
    return answers;
  },
};

/** Sends all, reads nothing for a while, leaves. @returns the statuses of the answers that had come */
async function stay(port: number, bytes: string): Promise<number[]> {
  const client = open(port, bytes);
  client.socket.pause();
  await sleep(STAY_MS);
  client.socket.resume();
  await sleep(LEAVE_MS);
  client.socket.destroy();
  return client.statuses();
}

/** @returns the status of the answer */
async function ask(port: number, bytes: string): Promise<number[]> {
  const client = open(port, bytes);
  const timeout = setTimeout(() => client.socket.destroy(), ANSWER_TIMEOUT_MS);
  while (client.statuses().length === 0 && !client.socket.closed)
    await Promise.race([once(client.socket, 'data'), once(client.socket, 'close')]);
  clearTimeout(timeout);
  client.socket.destroy();
  return client.statuses();
}

function open(port: number, bytes: string) {
  const socket = connect(port, '127.0.0.1');
  const statuses: number[] = [];
  // Of what was read the end alone: a status line may be cut in two.
  let rest = '';
  socket.on('error', () => {});
  socket.on('data', (chunk) => {
    const text = rest + chunk.toString('latin1');
    let end = 0;
    for (const match of text.matchAll(/HTTP\/1\.1 (\d{3}) /g)) {
      statuses.push(Number(match[1]));
      end = match.index + match[0].length;
    }
    rest = text.slice(Math.max(end, text.length - STATUS_LINE_LENGTH));
  });
  socket.write(bytes, 'latin1');
  return { socket, statuses: () => statuses };
}

serve(commands);
