/** What a handler logs, also as lines of its BullMQ job, which Bull Board shows: the newest ones, each cut short. */
import type { Job } from 'bullmq';
import type { Logger } from '../log.ts';
import { clampWhole } from '../numbers.ts';

const TEED_LEVELS = ['info', 'warn', 'error', 'fatal'] as const;

/** Lines of a job that Redis keeps. Its `keepLogs` in BullMQ says another number; 0 would be all of them. */
const LINES = { min: 1, max: 1_000, default: 200 };

/** Of one line, as UTF-8. */
const MAX_LINE_BYTES = 1_024;

/** A logger whose lines also show in Bull Board, under the job. */
export function teeToDelivery(log: Logger, delivery: Job): Logger {
  const keepLogs = clampWhole(delivery.opts.keepLogs || undefined, LINES);
  // BullMQ takes the number from the options of the job, which are its owner's to read: this is another view of it.
  const bounded = Object.create(delivery, { opts: { value: { ...delivery.opts, keepLogs } } }) as Job;
  const teed = Object.create(log) as Logger;
  for (const level of TEED_LEVELS) {
    teed[level] = (...args: unknown[]) => {
      (log[level] as (...args: unknown[]) => void)(...args);
      if (!log.isLevelEnabled(level)) return;
      const message = args.find((arg) => typeof arg === 'string') ?? '';
      bounded.log(lineOf(level, String(message))).catch(() => undefined);
    };
  }
  return teed;
}

function lineOf(level: string, message: string): string {
  const line = `${level}: ${message.slice(0, MAX_LINE_BYTES)}`;
  if (line.length === level.length + 2 + message.length && Buffer.byteLength(line) <= MAX_LINE_BYTES) return line;
  // The end may be in the middle of a character.
  const cut = Buffer.from(line)
    .subarray(0, MAX_LINE_BYTES - 3)
    .toString()
    .replace(/\uFFFD+$/, '');
  return `${cut}…`;
}
