/**
 * What a role, a database, a pooler or PGOPTIONS may have set for our sessions.
 *
 * Most settings do not matter: statements name their schema, pass numbers as parameters and read times by the
 * style that each connection asks for. What is left cannot be put right from here, least of all through a pooler,
 * where a SET lands on connections of others. It is looked for where a fleet starts.
 */
import { type Kysely, sql } from 'kysely';
import pg from 'pg';
import { OncefleetError } from '../errors.ts';
import { within } from '../util/with-timeout.ts';
import { isTransient } from './transient.ts';

/** The least time that a statement must be allowed to take, in milliseconds. */
const MIN_TIMEOUT_MS = 1_000;

/** A Postgres that has not answered by then may come back, as after any outage. */
const ASK_LIMIT_MS = 5_000;

/** Names listed of what takes the place of Postgres's own. */
const MAX_NAMED = 5;

/** `pg` has it, and its types do not. */
const BaseClient = pg.Client as unknown as new (
  config?: string | pg.ClientConfig,
) => pg.Client & { getStartupConf(): Record<string, string> };

/**
 * A client that asks for times in the one style that `pg` reads.
 *
 * By name in the startup packet: that wins over what is set for a role, a database and in `options`, and PgBouncer
 * keeps it for each client in every mode, where it refuses most other parameters.
 *
 * @see https://www.pgbouncer.org/config.html (track_extra_parameters)
 */
export class Client extends BaseClient {
  override getStartupConf(): Record<string, string> {
    return { ...super.getStartupConf(), DateStyle: 'ISO' };
  }
}

interface SessionProblem {
  /** The setting, as Postgres calls it. */
  setting: string;
  /** What is wrong. */
  message: string;
  /** What to do about it. */
  remedy: string;
}

interface Setting {
  name: string;
  value: string;
  /** Where it comes from, as `pg_settings.source` says. */
  source: string;
}

interface Rule {
  /** @returns what is wrong with the value, after "it is …" */
  why(value: string): string | undefined;
  /** A value that would do, as one writes it in SQL. */
  good: string;
}

const isolation: Rule = {
  why: (value) =>
    value === 'serializable' || value === 'repeatable read'
      ? 'claims that meet would fail instead of waiting for each other'
      : undefined,
  good: "'read committed'",
};

const timeout: Rule = {
  why: (value) => {
    const ms = Number(value);
    return ms > 0 && ms < MIN_TIMEOUT_MS
      ? `statements of a busy fleet take longer; ${MIN_TIMEOUT_MS} ms is the least`
      : undefined;
  },
  good: "'30s'",
};

/** Settings that break what the fleet does, by name. */
const RULES: Readonly<Record<string, Rule>> = {
  DateStyle: {
    why: (value) =>
      value.startsWith('ISO') ? undefined : 'times cannot be read; the pooler drops what the connection asks for',
    good: "'ISO'",
  },
  default_transaction_read_only: {
    why: (value) => (value === 'on' ? 'nothing can be written' : undefined),
    good: 'off',
  },
  default_transaction_isolation: isolation,
  statement_timeout: timeout,
  transaction_timeout: timeout,
  extra_float_digits: {
    why: (value) => (Number(value) < 0 ? 'delays and ages would be rounded' : undefined),
    good: '1',
  },
  array_nulls: {
    why: (value) => (value === 'off' ? 'NULL in a list of parameters would be a word' : undefined),
    good: 'on',
  },
};

const SOURCES: Readonly<Record<string, string>> = {
  client: 'set by the connection: options in DATABASE_URL, or PGOPTIONS',
  database: 'set by ALTER DATABASE',
  user: 'set by ALTER ROLE',
  'database user': 'set by ALTER ROLE … IN DATABASE',
  'configuration file': 'set in postgresql.conf or by ALTER SYSTEM',
};

/** What is wrong with the database, and with the session that this is asked on. */
// biome-ignore lint/suspicious/noExplicitAny: whatever tables it knows of.
export async function findSessionProblems(db: Kysely<any>): Promise<SessionProblem[]> {
  const plain = db.withoutPlugins();
  const { rows } = await sql<{ encoding: string; role: string; replica: boolean; settings: string }>`
    select pg_catalog.current_setting('server_encoding') as encoding, current_user::pg_catalog.text as role,
      pg_catalog.pg_is_in_recovery() as replica,
      (select pg_catalog.json_agg(pg_catalog.json_build_object('name', name, 'value', setting, 'source', source))
        from pg_catalog.pg_settings where name = any(${Object.keys(RULES)}::pg_catalog.text[]))::pg_catalog.text as settings`.execute(
    plain,
  );
  const [server] = rows;
  if (server === undefined) return [];
  const problems: SessionProblem[] = [];
  if (server.encoding !== 'UTF8')
    problems.push({
      setting: 'server_encoding',
      message: `The database is encoded in ${server.encoding}, which cannot hold every text.`,
      remedy:
        "Make another (`create database … encoding 'UTF8' template template0`), and have DATABASE_URL lead to it.",
    });
  if (server.replica)
    problems.push({
      setting: 'in_hot_standby',
      message: 'The server is a replica, which takes no writes.',
      remedy: 'Have DATABASE_URL lead to its primary.',
    });
  for (const setting of JSON.parse(server.settings) as Setting[]) {
    const problem = judge(setting, server.role);
    // A replica is read-only whatever the setting says.
    if (problem !== undefined) problems.push(problem);
  }
  return [...problems, ...(await findShadows(plain, server.role))];
}

function judge({ name, value, source }: Setting, role: string): SessionProblem | undefined {
  const rule = RULES[name];
  const why = rule?.why(value);
  if (rule === undefined || why === undefined) return undefined;
  const origin = SOURCES[source];
  return {
    setting: name,
    message: `${name} is ${value}${origin === undefined ? '' : ` (${origin})`}: ${why}.`,
    remedy:
      source === 'client'
        ? `Take it out there, or set it to ${rule.good}.`
        : `Run: alter role ${quote(role)} set ${name} = ${rule.good}`,
  };
}

/**
 * What takes the place of functions, tables, types and operators of Postgres by a search_path that names another
 * schema before `pg_catalog`; without that name `pg_catalog` comes first. A relative of the same name with other
 * arguments is no matter.
 */
// biome-ignore lint/suspicious/noExplicitAny: as above.
async function findShadows(db: Kysely<any>, role: string): Promise<SessionProblem[]> {
  const { rows } = await sql<{ name: string }>`
    with path as (
      select n.oid, n.nspname, s.place from pg_catalog.unnest(pg_catalog.current_schemas(true)) with ordinality s (name, place)
      join pg_catalog.pg_namespace n on n.nspname = s.name
    ), before as (
      select oid, nspname from path where place < (select place from path where nspname = 'pg_catalog')
    )
    select b.nspname || '.' || p.proname as name from before b
    join pg_catalog.pg_proc p on p.pronamespace = b.oid
    join pg_catalog.pg_proc o on o.proname = p.proname and o.proargtypes = p.proargtypes
      and o.pronamespace = 'pg_catalog'::pg_catalog.regnamespace
    union select b.nspname || '.' || c.relname from before b
    join pg_catalog.pg_class c on c.relnamespace = b.oid
    join pg_catalog.pg_class o on o.relname = c.relname and o.relnamespace = 'pg_catalog'::pg_catalog.regnamespace
    union select b.nspname || '.' || t.typname from before b
    join pg_catalog.pg_type t on t.typnamespace = b.oid and t.typcategory <> 'A'
    join pg_catalog.pg_type o on o.typname = t.typname and o.typnamespace = 'pg_catalog'::pg_catalog.regnamespace
    union select b.nspname || '.' || q.oprname from before b
    join pg_catalog.pg_operator q on q.oprnamespace = b.oid
    join pg_catalog.pg_operator o on o.oprname = q.oprname and o.oprleft = q.oprleft and o.oprright = q.oprright
      and o.oprnamespace = 'pg_catalog'::pg_catalog.regnamespace
    order by 1`.execute(db);
  if (rows.length === 0) return [];
  const named = rows.slice(0, MAX_NAMED).map(({ name }) => name);
  const more = rows.length - named.length;
  return [
    {
      setting: 'search_path',
      message: `search_path names a schema before pg_catalog that has ${named.join(', ')}${more > 0 ? ` and ${more} more` : ''}: statements would use those instead of Postgres's own.`,
      remedy: `Leave pg_catalog out of it, and it comes first. Run: alter role ${quote(role)} set search_path = …`,
    },
  ];
}

/**
 * Throws where the database, or what is set for our sessions, breaks what the fleet does.
 *
 * @throws OncefleetError POSTGRES_UNUSABLE with all that is wrong; what Postgres throws when it is unreachable
 */
// biome-ignore lint/suspicious/noExplicitAny: as above.
export async function requireSession(db: Kysely<any>): Promise<void> {
  const problems = await findSessionProblems(db);
  if (problems.length === 0) return;
  const text = problems.map(({ message, remedy }) => `${message} ${remedy}`).join(' ');
  throw new OncefleetError('POSTGRES_UNUSABLE', `Postgres cannot be used as it is. ${text}`, {
    details: { problems: problems.map(({ setting, message }) => ({ setting, message })) },
  });
}

/** The same for a fleet that starts: a Postgres that is unreachable may come back as it was. @throws OncefleetError POSTGRES_UNUSABLE */
// biome-ignore lint/suspicious/noExplicitAny: as above.
export async function requireSessionSoon(db: Kysely<any>): Promise<void> {
  const asked = requireSession(db).catch((error: unknown) => {
    if (!isTransient(error)) throw error;
  });
  await within(ASK_LIMIT_MS, asked, () => undefined);
}

function quote(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}
