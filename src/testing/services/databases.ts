/** Throw-away databases on a server. */
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';

const CONNECT_LIMIT_MS = 10_000;
/** "source database is being accessed by other users": autovacuum may connect to a template at any time. */
const OBJECT_IN_USE = '55006';
const CLONE_TRIES = 20;

export function uniqueName(prefix: string): string {
  return `${prefix}_${process.pid}_${randomBytes(4).toString('hex')}`;
}

function withDatabase(url: string, name: string): string {
  const changed = new URL(url);
  changed.pathname = `/${name}`;
  return changed.href;
}

/** @returns its URL */
export async function createDatabase(serverUrl: string, name: string, template?: string): Promise<string> {
  for (let attempt = 1; ; attempt++) {
    try {
      await execute(serverUrl, `create database "${name}"${template === undefined ? '' : ` template "${template}"`}`);
      return withDatabase(serverUrl, name);
    } catch (error) {
      if ((error as { code?: string }).code !== OBJECT_IN_USE || attempt === CLONE_TRIES) throw error;
      await sleep(100);
    }
  }
}

/** Also while clients are connected. */
export async function dropDatabase(serverUrl: string, name: string): Promise<void> {
  await execute(serverUrl, `drop database if exists "${name}" with (force)`);
}

/** Runs one statement on a connection of its own. */
export async function execute(url: string, statement: string): Promise<pg.QueryResult> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: CONNECT_LIMIT_MS });
  client.on('error', () => {});
  await client.connect();
  try {
    return await client.query(statement);
  } finally {
    await client.end();
  }
}
