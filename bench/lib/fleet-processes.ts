/** The processes of a fleet that runs `talk`; for `Case.start`, with `exposeGc`. */
import { fileURLToPath } from 'node:url';
import type { commands as webCommands } from './web-process.ts';
import type { commands as workerCommands } from './worker-process.ts';

export type WebCommands = typeof webCommands;
export type WorkerCommands = typeof workerCommands;

export const WEB_PROCESS = fileURLToPath(new URL('web-process.ts', import.meta.url));
export const WORKER_PROCESS = fileURLToPath(new URL('worker-process.ts', import.meta.url));

export interface TalkInput {
  events: number;
  perFlush: number;
  pauseMs: number;
}

/** Enqueues a `talk` over HTTP. @throws Error it was not accepted */
export async function enqueueTalk(
  port: number,
  input: TalkInput,
  key?: string,
): Promise<{ id: string; outcome: 'created' | 'attached' | 'replayed' }> {
  const response = await fetch(`http://127.0.0.1:${port}/v1/jobs/talk`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...(key === undefined ? {} : { 'idempotency-key': key }) },
    body: JSON.stringify(input),
  });
  const body = await response.text();
  if (!response.ok) throw new Error(`enqueue answered ${response.status}: ${body}`);
  return JSON.parse(body);
}
