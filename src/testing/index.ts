/** `oncefleet/testing`: for tests of job handlers. */
export { createTestFleet, type TestFleet, type TestFleetOptions } from './test-fleet.ts';
export type { Fault } from './torture/faults.ts';
export type { TortureOptions, TortureOutcome } from './torture/options.ts';
export { TortureError, type TortureFailure, type TortureReport } from './torture/report.ts';
export { torture } from './torture/torture.ts';
