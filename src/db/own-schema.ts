/**
 * The schema that all of our tables are in. Every statement of ours names it, so that no
 * search_path matters: the caller's transaction, a role or a pooler may have any.
 *
 * Raw SQL says `oncefleet.jobs`, as one would in psql. Where the schema has another name, the
 * texts are rewritten just before they are sent; each text once, for there are few of them.
 */
import {
  type Kysely,
  type KyselyPlugin,
  OperationNodeTransformer,
  type PluginTransformQueryArgs,
  type PluginTransformResultArgs,
  type QueryId,
  type RawNode,
  type SchemableIdentifierNode,
  type Transaction,
  WithSchemaPlugin,
} from 'kysely';
import { DEFAULT_SCHEMA } from '../options.ts';
import type { Database } from './schema.ts';

const OURS = /\boncefleet\.(?=[a-z])/g;

/** More than we have; texts that are put together differ in little. */
const MAX_TEXTS = 2_000;
const qualified = new Map<string, Map<string, string>>();

/** Our SQL as it is sent to a database where the schema has this name. */
export function qualify(text: string, schema: string): string {
  if (schema === DEFAULT_SCHEMA) return text;
  let texts = qualified.get(schema);
  if (texts === undefined) {
    texts = new Map();
    qualified.set(schema, texts);
  }
  let own = texts.get(text);
  if (own === undefined) {
    own = text.replace(OURS, `"${schema}".`);
    if (texts.size >= MAX_TEXTS) texts.clear();
    texts.set(text, own);
  }
  return own;
}

/** Every relation of ours that a query builder is asked for. */
export const RELATIONS = {
  jobs: true,
  unfinished_jobs: true,
  failed_jobs: true,
  ended_attempts: true,
  job_attempts: true,
  stream_heads: true,
  journal_segments: true,
  tenant_policies: true,
  retention_marks: true,
  retention_later: true,
  dispatch_outbox: true,
  reconciler_rounds: true,
  poison_alerts: true,
  limits: true,
  tenant_limits: true,
  limit_keys: true,
  limit_places: true,
  limit_waits: true,
  collections: true,
  documents: true,
  chunks: true,
  search_parts: true,
  search_blocks: true,
  search_removals: true,
  embedding_models: true,
  chunk_vectors: true,
  embedding_turns: true,
  chat_requests: true,
  uploads: true,
  upload_parts: true,
  conversations: true,
  messages: true,
  paused_queues: true,
  live_key: true,
  write_probe: true,
  api_tokens: true,
  signing_keys: true,
  audit_log: true,
  schedules: true,
} as const satisfies Record<keyof Database, true>;

/**
 * Plugins with which a Kysely instance means our tables by `jobs`, and by `oncefleet.jobs` in raw
 * SQL. A table of another name stays as it is written.
 */
export function schemaPlugins(schema: string): KyselyPlugin[] {
  return [new WithSchemaPlugin(schema), new OwnTablesPlugin(schema)];
}

/** The tables as users name them: by their schema, so that `jobs` can be a table of theirs. */
export type QualifiedDatabase = { [T in keyof Database as `oncefleet.${T}`]: Database[T] };

/** The same connection for statements that are not ours: they are sent as they are written. */
export function asPlain(db: Transaction<Database>): Transaction<QualifiedDatabase>;
export function asPlain(db: Kysely<Database>): Kysely<QualifiedDatabase>;
export function asPlain(db: Kysely<Database>): Kysely<QualifiedDatabase> {
  return db.withoutPlugins().withPlugin(new SchemaMark(schemaOf(db))) as unknown as Kysely<QualifiedDatabase>;
}

/**
 * The same connection for our statements, whatever plugins it has: they would rename our columns.
 *
 * @param schema ours; that of the instance it comes from, where `asPlain` made it
 */
export function asOwn(trx: AnyTransaction, schema?: string): Transaction<Database>;
export function asOwn(db: AnyDb, schema?: string): Kysely<Database>;
export function asOwn(db: AnyDb, schema = schemaOf(db)): Kysely<Database> {
  let own: Kysely<Database> = db.withoutPlugins();
  for (const plugin of schemaPlugins(schema)) own = own.withPlugin(plugin);
  return own;
}

// biome-ignore lint/suspicious/noExplicitAny: whatever tables its maker knows of.
type AnyDb = Kysely<any>;
// biome-ignore lint/suspicious/noExplicitAny: as above.
type AnyTransaction = Transaction<any>;

/** Where our tables are for an instance of a fleet; else the default. */
export function schemaOf(db: AnyDb): string {
  return db.getExecutor().plugins.find((plugin) => plugin instanceof SchemaMark)?.schema ?? DEFAULT_SCHEMA;
}

/** Changes nothing, and says where our tables are. */
export class SchemaMark implements KyselyPlugin {
  readonly schema: string;

  constructor(schema: string) {
    this.schema = schema;
  }

  transformQuery({ node }: PluginTransformQueryArgs) {
    return node;
  }

  transformResult({ result }: PluginTransformResultArgs) {
    return Promise.resolve(result);
  }
}

/** After WithSchemaPlugin: takes the schema off what is no table of ours, and puts it into raw SQL. */
class OwnTablesPlugin extends SchemaMark {
  readonly #transformer: OwnTablesTransformer;

  constructor(schema: string) {
    super(schema);
    this.#transformer = new OwnTablesTransformer(schema);
  }

  override transformQuery({ node, queryId }: PluginTransformQueryArgs) {
    return this.#transformer.transformNode(node, queryId);
  }
}

class OwnTablesTransformer extends OperationNodeTransformer {
  readonly #schema: string;

  constructor(schema: string) {
    super();
    this.#schema = schema;
  }

  protected override transformSchemableIdentifier(
    node: SchemableIdentifierNode,
    queryId?: QueryId,
  ): SchemableIdentifierNode {
    const { schema, ...rest } = super.transformSchemableIdentifier(node, queryId);
    if (schema === undefined || schema.name !== this.#schema || rest.identifier.name in RELATIONS)
      return schema === undefined ? rest : { ...rest, schema };
    return rest;
  }

  protected override transformRaw(node: RawNode, queryId?: QueryId): RawNode {
    const { sqlFragments, ...rest } = super.transformRaw(node, queryId);
    return { ...rest, sqlFragments: sqlFragments.map((fragment) => qualify(fragment, this.#schema)) };
  }
}
