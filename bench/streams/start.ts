import { fileURLToPath } from 'node:url';
import type { commands } from './process.ts';

export type StreamCommands = typeof commands;

/** For `Case.start`. */
export const STREAM_PROCESS = fileURLToPath(new URL('process.ts', import.meta.url));
