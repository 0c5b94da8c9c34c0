const NS_PER_MS = 1_000_000;

/** Milliseconds on the system's monotonic clock, which all processes of a machine share. */
export function now(): number {
  return Number(process.hrtime.bigint()) / NS_PER_MS;
}
