import { Command } from 'commander';
import { OncefleetError } from '../errors.ts';
import { type CliContext, type CommonOptions, terminalOf } from './context.ts';
import { addExamples, jsonOption } from './options.ts';
import { toCommandError } from './report.ts';
import { readSettings } from './settings.ts';

interface MigrateOptions extends CommonOptions {
  check?: boolean;
  fromPublic?: boolean;
}

export function migrateCommand(context: CliContext): Command {
  const command = new Command('migrate')
    .summary("bring the database to this build's schema")
    .description('Applies every migration the database lacks. Safe to run from several places at once, and again.')
    .option('--check', 'apply nothing; exit with 4 if migrations are missing or the database is newer than this build')
    .option('--from-public', 'first move the tables that an earlier build made in schema public')
    .addOption(jsonOption())
    .action((options: MigrateOptions) => runMigrate(context, options));
  return addExamples(command, [
    ['oncefleet migrate', 'apply what is missing and list it'],
    ['oncefleet migrate --from-public', 'move to a schema of its own, with all workers stopped'],
    ['oncefleet migrate --check && oncefleet work', 'start a worker only on the right schema'],
  ]);
}

async function runMigrate(context: CliContext, options: MigrateOptions): Promise<void> {
  const terminal = terminalOf(context, options);
  // A release phase may know Postgres alone, and nothing else is needed here.
  const config = readSettings(context, context.env.REDIS_URL === undefined ? { REDIS_URL: 'redis://127.0.0.1' } : {});
  const [{ createDb }, { checkSchema, migrate, moveFromPublic }] = await Promise.all([
    import('../db/client.ts'),
    import('../db/migrate.ts'),
  ]);
  const db = createDb({
    url: config.databaseUrl,
    schema: config.databaseSchema,
    maxConnections: 2,
    applicationName: 'oncefleet migrate',
    onError: () => {},
  });
  try {
    if (options.check === true) {
      await checkSchema(db.kysely);
      await (options.json === true ? terminal.jsonLine('{"missing":[]}') : terminal.line('The schema is up to date.'));
      return;
    }
    const moved = options.fromPublic === true ? await moveFromPublic(db.kysely) : [];
    const applied = await migrate(db.kysely);
    if (options.json === true)
      return await terminal.jsonLine(JSON.stringify(options.fromPublic === true ? { moved, applied } : { applied }));
    for (const name of moved) await terminal.line(`moved ${name} to schema ${config.databaseSchema}`);
    for (const name of applied) await terminal.line(`applied ${name}`);
    if (applied.length + moved.length === 0) await terminal.line('Nothing to apply: the schema is up to date.');
  } catch (thrown) {
    const error = toCommandError(thrown);
    // A refused password or a missing database says little without the name of what refused.
    throw error.code === 'INTERNAL'
      ? new OncefleetError('INTERNAL', `Migrating failed: ${error.message}`, { cause: thrown })
      : error;
  } finally {
    await db.close().catch(() => {});
  }
}
