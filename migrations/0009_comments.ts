/**
 * What every table, view and column is, for people with psql (`\\d+`).
 *
 * Comments change no data; each takes its table's lock for a moment.
 */
import { type Kysely, sql } from 'kysely';

/** By name: what kind of relation it is, what it is for, and its columns. */
const COMMENTS: Record<string, [kind: 'table' | 'view', about: string, columns: Record<string, string>]> = {
  jobs: [
    'table',
    'One row a job: what it is, where it stands, and what it ended in',
    {
      id: 'also the id of its stream, and of its BullMQ job where the fleet added that',
      tenant: 'whose job it is',
      name: 'of its definition, or of the BullMQ job',
      queue: 'name of its BullMQ queue',
      idempotency_key: 'of its caller; bullmq:... for a job of another BullMQ client that has none',
      key_released: 'true: the key has gone to a newer row',
      fingerprint: 'SHA-256 of the canonical JSON of the input: tells a duplicate from a misuse of its key',
      input: "exact JSON; around a user's own processor the data that BullMQ has",
      options: 'priority, attempts and backoff, as it was enqueued',
      status: 'pending, running, completed, failed or cancelled',
      fence: 'raised by one with every claim and never reset; every write names it',
      lease_owner: 'the delivery that runs it',
      lease_expires_at: 'when another worker may take it over',
      worker: 'who claimed it last: host:pid:suffix',
      claimed_at: 'when; null once that attempt has a row in ended_attempts',
      crash_count: 'workers that died with it; trips the poison cap',
      error_count: 'attempts that ended in an error; spends the retry budget',
      deferral_count: 'deliveries that went back to wait',
      interruption_count: 'attempts ended by a deploy or an outage',
      last_outcome: 'how the last attempt ended',
      checkpoint: 'what the handler saved last',
      checkpoint_seq: 'events from this seq on came after the checkpoint',
      result: 'of a completed job; null: undefined was returned',
      error: 'of a failed or cancelled job: code and message',
      ended_at_delivery:
        "BullMQ's attemptsMade of the delivery that ended it; a later one with more was retried by a person",
      run_at: 'not before',
      created_at: 'when it was enqueued',
      started_at: 'when it was first claimed',
      finished_at: 'when it ended',
      expires_at: 'until when its key gives this outcome',
      deadline_at: 'it fails if it has not ended by then',
      cancel_requested_at: 'when somebody asked for its cancel',
      key_scope: "empty for jobs of the fleet; <prefix>:<queue> around a user's own processor",
      source: 'the BullMQ job of another client that delivers it: prefix, queue, id, timestamp, options',
      source_ref: 'names that BullMQ job for good',
    },
  ],
  unfinished_jobs: [
    'table',
    'Jobs that have not ended: what the reconciler looks after',
    {
      job_id: 'of jobs',
      run_at: 'as in jobs; orders the list',
      end_by: 'deadline, or the time of a cancel',
    },
  ],
  ended_attempts: [
    'table',
    'Attempts that their jobs went on without; see job_attempts for all of them',
    {
      job_id: 'of jobs',
      fence: 'of its claim',
      worker: 'host:pid:suffix',
      started_at: 'when it was claimed',
      finished_at: 'when it ended, or its end was found',
      outcome: 'completed, error, crash, interruption, deferral, cancelled or poisoned',
      error: 'code and message',
    },
  ],
  job_attempts: [
    'view',
    'One row a claim, the present one too',
    {
      job_id: 'of jobs',
      fence: 'of the claim',
      worker: 'host:pid:suffix',
      host: 'of the worker',
      started_at: 'when it was claimed',
      finished_at: 'null while it runs',
      outcome: 'null while it runs',
      error: 'code and message',
    },
  ],
  stream_heads: [
    'table',
    'Where each stream stands',
    {
      stream_id: 'the id of its job',
      fence: 'only a run with this fence may append',
      next_seq: 'seq of the next event',
      progress: 'the last progress event',
      state: 'open or closed',
      fold_due: 'true: finished, and its segments are to be merged',
      kept_from: 'events before this seq are past their retention and gone',
    },
  ],
  journal_segments: [
    'table',
    'Runs of consecutive events; see journal_events for one row an event',
    {
      stream_id: 'the id of its job',
      first_seq: 'of its first event',
      last_seq: 'of its last event',
      fence: 'of the run that wrote it',
      events: 'exact JSON array',
      created_at: 'when it was committed',
    },
  ],
  journal_events: [
    'view',
    'One row an event, for people',
    {
      stream_id: 'the id of its job',
      seq: 'its place, from 0 without gaps',
      fence: 'of the run that wrote it',
      event: 'exact JSON',
      created_at: 'when it was committed',
    },
  ],
  tenant_policies: [
    'table',
    "Tenants whose retention is not the fleet's",
    {
      tenant: 'whose jobs',
      stream_retention_ms: 'how long after their end jobs keep their events; null: as the fleet says',
      job_retention_ms: 'how long after their end jobs are kept; null: as the fleet says',
      updated_at: 'when it was set',
    },
  ],
  retention_marks: [
    'table',
    'How far the sweeper has come',
    {
      tenant: 'whose jobs',
      kind: 'stream or job',
      up_to: 'jobs up to this id have been looked at',
    },
  ],
  retention_later: [
    'table',
    'Jobs that the sweeper passed before they could go',
    {
      kind: 'stream or job',
      job_id: 'of jobs',
      look_at: 'when to look again',
    },
  ],
  dispatch_outbox: [
    'table',
    'Committed jobs that BullMQ may not have yet',
    {
      job_id: 'of jobs',
      created_at: 'when it was noted',
    },
  ],
  reconciler_rounds: [
    'table',
    'The last round of the reconciler; one row',
    {
      only_row: 'always true',
      finished_at: 'when the round ended',
      worker: 'the process that did it',
    },
  ],
  poison_alerts: [
    'table',
    'Poisoned jobs whose onPoison has not resolved',
    {
      job_id: 'of jobs',
      fence: 'at which it was poisoned',
      tenant: 'of the job',
      name: 'of the job',
      queue: 'of the job',
      crashes: 'how often it crashed',
      calls: 'how often onPoison was called',
      due_at: 'when it is called next',
      created_at: 'when it was poisoned',
    },
  ],
  collections: [
    'table',
    'Searchable collections of documents',
    {
      id: 'surrogate key',
      tenant: 'whose collection',
      name: 'unique for its tenant',
      created_at: 'when its first document came',
    },
  ],
  documents: [
    'table',
    'Documents as they were ingested last',
    {
      id: 'surrogate key',
      collection_id: 'of collections',
      path: 'what its caller calls it; unique in its collection',
      title: 'from its first heading or its path',
      content_hash: 'SHA-256 of the content',
      chunker_version: 'of the code that cut it',
      byte_length: 'of the content',
      chunk_count: 'of chunks',
      revision: '1 when added, +1 with every change',
      job_id: 'the job that wrote this revision',
      updated_at: 'when',
    },
  ],
  chunks: [
    'table',
    'Passages of documents, as they are searched',
    {
      document_id: 'of documents',
      ordinal: 'its place in the document, from 0',
      heading: 'title and headings above it',
      content: 'its text',
      search: 'what is searched; Postgres writes it',
    },
  ],
  conversations: [
    'table',
    'Questions and answers that know of each other',
    {
      tenant: 'whose conversation',
      id: 'given by its caller',
      created_at: 'when it began',
    },
  ],
  messages: [
    'table',
    'Questions and answers of conversations',
    {
      id: 'surrogate key',
      tenant: 'whose message',
      conversation_id: 'of conversations',
      role: 'user or assistant',
      content: 'its text',
      job_id: 'the job that answered',
      created_at: 'when',
    },
  ],
};

// biome-ignore lint/suspicious/noExplicitAny: a migration must not follow later changes of the schema types.
export async function up(db: Kysely<any>): Promise<void> {
  for (const [name, [kind, about, columns]] of Object.entries(COMMENTS)) {
    await sql`comment on ${sql.raw(kind)} ${sql.table(name)} is ${sql.lit(about)}`.execute(db);
    for (const [column, text] of Object.entries(columns))
      await sql`comment on column ${sql.ref(`${name}.${column}`)} is ${sql.lit(text)}`.execute(db);
  }
}

/** Comments go with what they are on. */
export async function down(): Promise<void> {}
