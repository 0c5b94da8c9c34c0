/** `oncefleet/testing`: for the tests of whoever writes handlers. */
export { createTestFleet, type TestFleet, type TestFleetOptions } from './test-fleet.ts';
export {
  type Fault,
  TortureError,
  type TortureFailure,
  type TortureOptions,
  type TortureOutcome,
  type TortureReport,
  torture,
} from './torture.ts';
