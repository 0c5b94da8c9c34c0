/** A streaming replica of a test's own Postgres. */
import { execFile } from 'node:child_process';
import { appendFile, chmod, cp, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { execute } from '../../src/testing/services/databases.ts';
import { dataFolder, serviceIdentity } from '../../src/testing/services/place.ts';
import { PrivatePostgres } from '../../src/testing/services/postgres.ts';
import { createTestFolder } from './services.ts';

/** What the primary calls it. */
export const REPLICA = 'replica';

/**
 * A copy of a running primary that follows it. Not by pg_basebackup, which the packaged binaries do not have, but by
 * what it does. Call `stop()` at the end.
 *
 * @param through the address by which it follows, such as a proxy's
 */
export async function startReplica(primary: PrivatePostgres, through: string): Promise<PrivatePostgres> {
  const folder = await createTestFolder();
  // The servers' user passes through it.
  await chmod(folder, 0o755);
  const [from, to] = [dirname(primary.logFile), folder];
  const backup = new pg.Client({ connectionString: primary.url });
  await backup.connect();
  try {
    await backup.query(`select pg_backup_start('replica', fast => true)`);
    await promisify(execFile)('cp', ['-a', dataFolder(from), dataFolder(to)]);
    const { rows } = await backup.query('select labelfile from pg_backup_stop(wait_for_archive => false)');
    await writeFile(join(dataFolder(to), 'backup_label'), rows[0].labelfile);
  } finally {
    await backup.end();
  }
  await cp(join(from, 'postgres.password'), join(to, 'postgres.password'));
  await rm(join(dataFolder(to), 'postmaster.pid'));
  await writeFile(join(dataFolder(to), 'standby.signal'), '');
  const { hostname, port, username, password } = new URL(through);
  await appendFile(
    join(dataFolder(to), 'postgresql.auto.conf'),
    `primary_conninfo = 'host=${hostname} port=${port} user=${username} password=${password} application_name=${REPLICA}'\n`,
  );
  const identity = serviceIdentity();
  if (identity !== undefined)
    await promisify(execFile)('chown', ['-R', `${identity.uid}:${identity.gid}`, dataFolder(to)]);
  return PrivatePostgres.start({ folder, identity, durable: false });
}

/** From now on a commit waits for the replica. */
export async function waitForReplica(primary: PrivatePostgres): Promise<void> {
  await execute(primary.url, `alter system set synchronous_standby_names = '${REPLICA}'`);
  await execute(primary.url, 'select pg_reload_conf()');
}
