/** Counts what reading costs, in bytes rather than in time, which depends on the machine. */
import { vi } from 'vitest';

/**
 * Runs something, and counts the bytes and characters that are joined, decoded and searched
 * meanwhile, by the functions of the platform that do so.
 */
export async function countWork(run: () => Promise<void>): Promise<number> {
  let work = 0;
  const { concat } = Buffer;
  const buffer = Buffer.prototype;
  const { toString: decode, indexOf: indexOfBytes } = buffer;
  const string = String.prototype;
  const { indexOf, includes, split } = string;
  const { exec } = RegExp.prototype;
  const join = Array.prototype.join;
  const spies = [
    vi.spyOn(Buffer, 'concat').mockImplementation((list, length) => {
      const whole = concat(list, length);
      work += whole.length;
      return whole;
    }),
    vi.spyOn(buffer, 'toString').mockImplementation(function (this: Buffer, ...args) {
      const text = decode.apply(this, args);
      work += text.length;
      return text;
    }),
    vi.spyOn(buffer, 'indexOf').mockImplementation(function (this: Buffer, ...args) {
      const at = indexOfBytes.apply(this, args as Parameters<typeof indexOfBytes>);
      work += (at === -1 ? this.length : at) - from(args[1]);
      return at;
    }),
    vi.spyOn(string, 'indexOf').mockImplementation(function (this: string, ...args) {
      const at = indexOf.apply(this, args);
      work += (at === -1 ? this.length : at) - from(args[1]);
      return at;
    }),
    vi.spyOn(string, 'includes').mockImplementation(function (this: string, ...args) {
      const at = indexOf.apply(this, args);
      work += (at === -1 ? this.length : at) - from(args[1]);
      return includes.apply(this, args);
    }),
    vi.spyOn(string, 'split').mockImplementation(function (this: string, ...args: unknown[]) {
      work += this.length;
      return (split as (...args: unknown[]) => string[]).apply(this, args);
    }),
    vi.spyOn(RegExp.prototype, 'exec').mockImplementation(function (this: RegExp, text) {
      const start = this.global || this.sticky ? this.lastIndex : 0;
      const match = exec.call(this, text);
      work += (match === null ? text.length : match.index + match[0].length) - start;
      return match;
    }),
    vi.spyOn(Array.prototype, 'join').mockImplementation(function (this: unknown[], ...args) {
      const text = join.apply(this, args);
      work += text.length;
      return text;
    }),
  ];
  try {
    await run();
    return work;
  } finally {
    for (const spy of spies) spy.mockRestore();
  }
}

/** The median of what so many calls take, one after the other, ms: to be compared with that of other calls. */
export async function medianMs(calls: number, call: (n: number) => Promise<unknown>): Promise<number> {
  const durations: number[] = [];
  for (let n = 0; n < calls; n++) {
    const startedAt = performance.now();
    await call(n);
    durations.push(performance.now() - startedAt);
  }
  return durations.sort((a, b) => a - b)[Math.floor(calls / 2)] as number;
}

/** Milliseconds of processor time that this process spends on something, however many others want the processors. */
export function processorMs(run: () => void): number {
  const before = process.cpuUsage();
  run();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1_000;
}

function from(offset: unknown): number {
  return typeof offset === 'number' ? offset : 0;
}
