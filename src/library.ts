/** All of the library, with all that it rests on. `index.ts` is its face, which loads parts of it with their first call. */

export type { AddDocumentsOptions, NewDocument } from './client/add-documents.ts';
export type { JobClient } from './client/client.ts';
export type {
  ChunkRecord,
  CollectionRecord,
  Collections,
  DocumentRecord,
  PageOptions,
} from './client/collections.ts';
export type { ScheduleOptions, ScheduleRecord, Schedules } from './client/schedules/types.ts';
export type * from './client/types.ts';
export { CONFIG_VARIABLES, type Config, type FleetSettings, fleetSettings, loadConfig } from './config.ts';
export { checkSchema, migrate } from './db/migrate.ts';
export type { TenantPolicy } from './db/retention.ts';
export type { Database } from './db/schema.ts';
export type { TenantLimits } from './db/tenant-limits.ts';
export type { CallerTransaction, PgTransaction } from './enqueue/caller-transaction.ts';
export {
  CancelledError,
  ERROR_CODES,
  type ErrorCode,
  InputInvalidError,
  InterruptedError,
  type Issue,
  JobFailedError,
  LeaseLostError,
  NonRetryableError,
  OncefleetError,
  type OncefleetErrorOptions,
  RetryAfterError,
  type RetryScope,
  type StoredFailure,
} from './errors.ts';
export { createBuiltinJobs } from './jobs/builtin-jobs.ts';
export {
  type AnyJobDefinition,
  type Backoff,
  defineJob,
  type JobContext,
  type JobDefinition,
  type JobOptions,
  type JobPolicy,
  type Schema,
} from './jobs/define-job.ts';
export type { JobLimit, JobLimitOptions } from './jobs/limits.ts';
export type { FollowedBatch } from './journal/batches.ts';
export type { Cursor } from './journal/cursor.ts';
export {
  type AttemptEvent,
  isTerminalType,
  type JobEvent,
  type StreamEvent,
  type SystemEvent,
  type TerminalEvent,
} from './journal/event.ts';
export {
  createFolder,
  type FoldableEvent,
  type Folder,
  type FoldOptions,
  type FoldState,
  fold,
} from './journal/fold.ts';
export type { Following } from './journal/following.ts';
export { createLogger, type Logger } from './log.ts';
export type { Diagnosis, Finding } from './maintenance/doctor/diagnosis.ts';
export type { DoctorOptions } from './maintenance/doctor/doctor.ts';
export { type Maintenance, type MaintenanceOptions, startMaintenance } from './maintenance/start-maintenance.ts';
export type { SweepReport } from './maintenance/sweeper.ts';
export {
  type DeliveredJob,
  type GuardedProcessor,
  type WithIdempotencyOptions,
  withIdempotency,
} from './runs/with-idempotency.ts';
export type { JobObserver, Transition } from './runtime/observers.ts';
export { createFleet, type Fleet, type FleetOptions } from './workers/fleet.ts';
export type { FleetWorker } from './workers/worker.ts';
