/** Blocks the event loop for so many ms, as a handler that computes does, but leaves the processor to others. */
export function blockEventLoop(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}
