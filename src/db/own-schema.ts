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
  type Transaction,
  WithSchemaPlugin,
} from 'kysely';
import type { Database } from './schema.ts';

/** The schema of a fleet that names none, and the name of every fleet's in our SQL. */
export const DEFAULT_SCHEMA = 'oncefleet';

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

/** Plugins with which a Kysely instance means our tables by `jobs`, and by `oncefleet.jobs` in raw SQL. */
export function schemaPlugins(schema: string): KyselyPlugin[] {
  const builder = new WithSchemaPlugin(schema);
  return schema === DEFAULT_SCHEMA ? [builder] : [builder, new RawSqlPlugin(schema)];
}

/** A transaction that somebody else made, with our tables in it: whatever plugins it has would rename them. */
// biome-ignore lint/suspicious/noExplicitAny: whatever tables its maker knows of.
export function asOwn(trx: Transaction<any>, schema: string): Transaction<Database> {
  let own: Transaction<Database> = trx.withoutPlugins();
  for (const plugin of schemaPlugins(schema)) own = own.withPlugin(plugin);
  return own;
}

/** The tables by the names that stand in SQL. */
export type QualifiedDatabase = { [T in keyof Database as `oncefleet.${T}`]: Database[T] };

/** The same connection for somebody else's statements: it names tables as they are written. */
export function asPlain<K extends Kysely<Database>>(
  db: K,
): K extends Transaction<Database> ? Transaction<QualifiedDatabase> : Kysely<QualifiedDatabase> {
  return db.withoutPlugins() as never;
}

class RawSqlPlugin implements KyselyPlugin {
  readonly #transformer: RawSqlTransformer;

  constructor(schema: string) {
    this.#transformer = new RawSqlTransformer(schema);
  }

  transformQuery(args: PluginTransformQueryArgs) {
    return this.#transformer.transformNode(args.node, args.queryId);
  }

  transformResult(args: PluginTransformResultArgs) {
    return Promise.resolve(args.result);
  }
}

class RawSqlTransformer extends OperationNodeTransformer {
  readonly #schema: string;

  constructor(schema: string) {
    super();
    this.#schema = schema;
  }

  protected override transformRaw(node: RawNode, queryId?: QueryId): RawNode {
    const { sqlFragments, ...rest } = super.transformRaw(node, queryId);
    return { ...rest, sqlFragments: sqlFragments.map((fragment) => qualify(fragment, this.#schema)) };
  }
}
