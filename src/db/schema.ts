/**
 * The tables as Kysely sees them. `json` columns come back as the text they hold
 * (see db/client.ts), timestamps as Date, bigints as number.
 */
import type { Generated, GeneratedAlways } from 'kysely';
import type { JsonText, NullableTimestamp, Timestamp } from './column-types.ts';
import type {
  ChunksTable,
  ChunkVectorsTable,
  CollectionsTable,
  DocumentsTable,
  EmbeddingModelsTable,
  EmbeddingTurnsTable,
  SearchBlocksTable,
  SearchPartsTable,
  SearchRemovalsTable,
  UploadPartsTable,
  UploadsTable,
} from './document-tables.ts';
import type { AttemptOutcome, JobStatus, LastOutcome } from './jobs/states.ts';

export interface JobsTable {
  id: string;
  tenant: string;
  name: string;
  queue: string;
  idempotency_key: string | null;
  key_released: Generated<boolean>;
  fingerprint: string;
  input: JsonText;
  options: JsonText;
  status: Generated<JobStatus>;
  fence: Generated<number>;
  lease_owner: string | null;
  lease_expires_at: NullableTimestamp;
  /** The process that claimed it last. */
  worker: string | null;
  /** When, while that attempt has no row in `ended_attempts`. */
  claimed_at: NullableTimestamp;
  crash_count: Generated<number>;
  error_count: Generated<number>;
  deferral_count: Generated<number>;
  interruption_count: Generated<number>;
  limited_count: Generated<number>;
  /** JSON text of an array; null: its definition has no limits. */
  limit_keys: string | null;
  last_outcome: LastOutcome | null;
  checkpoint: JsonText | null;
  checkpoint_seq: number | null;
  result: JsonText | null;
  error: JsonText | null;
  ended_at_delivery: number | null;
  /** Empty for jobs of the fleet; else `<prefix>:<queue>` of a user's own queue. */
  key_scope: Generated<string>;
  source: JsonText | null;
  source_ref: string | null;
  run_at: Timestamp;
  created_at: Timestamp;
  started_at: NullableTimestamp;
  finished_at: NullableTimestamp;
  expires_at: NullableTimestamp;
  deadline_at: NullableTimestamp;
  cancel_requested_at: NullableTimestamp;
}

/** Ended attempts of jobs that run or ran again. */
interface EndedAttemptsTable {
  job_id: string;
  fence: number;
  worker: string;
  started_at: Timestamp;
  finished_at: Timestamp;
  outcome: AttemptOutcome;
  error: JsonText | null;
}

/** Every attempt: the ended ones, and the one in each job's row. */
interface JobAttemptsView {
  job_id: string;
  fence: number;
  worker: string;
  host: string;
  started_at: Timestamp;
  finished_at: NullableTimestamp;
  outcome: string | null;
  error: JsonText | null;
}

interface StreamHeadsTable {
  stream_id: string;
  fence: number;
  next_seq: number;
  progress: JsonText | null;
  state: Generated<'open' | 'closed'>;
  /** True: finished, and waits to be folded. */
  fold_due: boolean | null;
  /** The first seq that retention has left; null: all of them. */
  kept_from: number | null;
}

interface JournalSegmentsTable {
  stream_id: string;
  first_seq: number;
  last_seq: number;
  fence: number;
  events: JsonText;
  created_at: Timestamp;
}

/** How long a tenant keeps jobs after their end, in milliseconds; null: the fleet's default, Infinity: for good. */
interface TenantPoliciesTable {
  tenant: string;
  stream_retention_ms: number | null;
  job_retention_ms: number | null;
  updated_at: Timestamp;
}

interface RetentionMarksTable {
  tenant: string;
  kind: 'stream' | 'job';
  up_to: string;
}

interface RetentionLaterTable {
  kind: 'stream' | 'job';
  job_id: string;
  look_at: Timestamp;
}

interface DispatchOutboxTable {
  job_id: string;
  created_at: Timestamp;
}

interface ReconcilerRoundsTable {
  only_row: Generated<boolean>;
  finished_at: Timestamp;
  worker: string;
}

interface PoisonAlertsTable {
  job_id: string;
  fence: number;
  tenant: string;
  name: string;
  queue: string;
  crashes: number;
  calls: Generated<number>;
  due_at: Timestamp;
  created_at: Timestamp;
}

interface PausedQueuesTable {
  /** What BullMQ puts before the keys of the queue. */
  prefix: string;
  queue: string;
  /** Of this pause; Redis has it beside the queue's own mark. */
  id: string;
  paused_at: Timestamp;
  /** What paused it. */
  paused_by: string;
}

interface ChatRequestsTable {
  job_id: string;
  tenant: string;
  api: 'responses' | 'completions' | 'ui';
  thread: string | null;
  /** JSON text. */
  request: string;
  created_at: Timestamp;
  hidden_at: NullableTimestamp;
}

interface ConversationsTable {
  tenant: string;
  id: string;
  created_at: Timestamp;
}

interface MessagesTable {
  id: GeneratedAlways<number>;
  tenant: string;
  conversation_id: string;
  role: 'user' | 'assistant';
  content: string;
  job_id: string;
  created_at: Timestamp;
}

interface UnfinishedJobsTable {
  job_id: string;
  run_at: Timestamp;
  end_by: Timestamp | null;
}

/** Kept by triggers of `jobs`. */
type FailedJobsTable = Pick<JobsTable, 'tenant' | 'name' | 'queue' | 'status'> &
  Record<'job_id' | 'words', string> & { code: string | null };

interface LimitsTable {
  name: string;
  concurrency: number | null;
  rate_max: number | null;
  rate_per_ms: number | null;
  updated_at: Generated<Date>;
}

interface TenantLimitsTable {
  tenant: string;
  concurrency: number | null;
  rate_max: number | null;
  rate_per_ms: number | null;
  weight: number | null;
  updated_at: Generated<Date>;
}

interface LimitKeysTable {
  key: string;
  paused_until: NullableTimestamp;
}

interface LimitPlacesTable {
  key: string;
  job_id: string;
  fence: number;
  started_at: Timestamp;
}

interface LimitWaitsTable {
  job_id: string;
  key: string;
  priority: number;
  since: Timestamp;
  woken_at: NullableTimestamp;
}

interface SchedulesTable {
  tenant: string;
  name: string;
  job_name: string;
  cron: string | null;
  time_zone: string | null;
  every_ms: number | null;
  anchor_at: Timestamp;
  start_at: NullableTimestamp;
  end_at: NullableTimestamp;
  input: JsonText;
  priority: number;
  catch_up: 'skip' | 'one' | 'all';
  overlap: 'allow' | 'skip';
  next_at: NullableTimestamp;
  last_at: NullableTimestamp;
  last_job_id: string | null;
  tick_count: Generated<number>;
  skipped_count: Generated<number>;
  paused_at: NullableTimestamp;
  created_at: Timestamp;
  updated_at: Timestamp;
}

interface LiveKeyTable {
  singleton: Generated<boolean>;
  secret: Buffer;
  created_at: Generated<Date>;
}

interface WriteProbeTable {
  singleton: Generated<boolean>;
  written_at: Generated<Date>;
}

interface ApiTokensTable {
  id: string;
  kind: 'token' | 'session';
  /** Null: all tenants, for sessions of operators alone. */
  tenant: string | null;
  name: string;
  /** SHA-256 of the token. */
  token_hash: Buffer;
  scopes: ('enqueue' | 'read' | 'admin')[];
  /** Of a session: SHA-256 of the token that logged in. */
  granted_by: Buffer | null;
  created_at: Timestamp;
  expires_at: NullableTimestamp;
  last_used_at: NullableTimestamp;
  revoked_at: NullableTimestamp;
}

interface SigningKeysTable {
  id: GeneratedAlways<number>;
  secret: Buffer;
  created_at: Timestamp;
}

interface AuditLogTable {
  id: GeneratedAlways<number>;
  at: Timestamp;
  actor: string;
  session_id: string | null;
  /** Null: all tenants. */
  tenant: string | null;
  action: string;
  job_id: string | null;
  details: JsonText;
  outcome: string | null;
}

export interface Database {
  jobs: JobsTable;
  unfinished_jobs: UnfinishedJobsTable;
  failed_jobs: FailedJobsTable;
  ended_attempts: EndedAttemptsTable;
  job_attempts: JobAttemptsView;
  stream_heads: StreamHeadsTable;
  journal_segments: JournalSegmentsTable;
  tenant_policies: TenantPoliciesTable;
  retention_marks: RetentionMarksTable;
  retention_later: RetentionLaterTable;
  dispatch_outbox: DispatchOutboxTable;
  reconciler_rounds: ReconcilerRoundsTable;
  poison_alerts: PoisonAlertsTable;
  paused_queues: PausedQueuesTable;
  schedules: SchedulesTable;
  live_key: LiveKeyTable;
  write_probe: WriteProbeTable;
  api_tokens: ApiTokensTable;
  signing_keys: SigningKeysTable;
  limits: LimitsTable;
  tenant_limits: TenantLimitsTable;
  limit_keys: LimitKeysTable;
  limit_places: LimitPlacesTable;
  limit_waits: LimitWaitsTable;
  audit_log: AuditLogTable;
  collections: CollectionsTable;
  documents: DocumentsTable;
  chunks: ChunksTable;
  search_parts: SearchPartsTable;
  search_blocks: SearchBlocksTable;
  search_removals: SearchRemovalsTable;
  embedding_models: EmbeddingModelsTable;
  chunk_vectors: ChunkVectorsTable;
  embedding_turns: EmbeddingTurnsTable;
  uploads: UploadsTable;
  upload_parts: UploadPartsTable;
  chat_requests: ChatRequestsTable;
  conversations: ConversationsTable;
  messages: MessagesTable;
}
