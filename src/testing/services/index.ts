/** Postgres and Redis for tests and demos: those that are named, else private ones that end with this process. */
import { join } from 'node:path';
import { watchdog } from './child.ts';
import { takeFolder } from './own-files.ts';
import { createInstanceFolder, createLastingFolder, serviceIdentity } from './place.ts';
import { PrivatePostgres } from './postgres.ts';
import { PrivateRedis } from './redis.ts';

export interface ServicesOptions {
  /** Names the folder: `demo`, `test`, `dev`. */
  kind: string;
  databaseUrl?: string | undefined;
  redisUrl?: string | undefined;
  /** Off: Postgres without fsync, for throw-away data. */
  durable?: boolean;
  /** Keep data between runs. */
  lasting?: boolean;
  /** Where folders go. Default: the temp folder. Needed for `lasting`. */
  home?: string;
  /** As root on Debian and its kin, install a Redis that is missing. Default false. */
  install?: boolean;
  /** Called with a message before anything that takes a while. */
  say?(line: string): void;
}

export interface Services {
  readonly databaseUrl: string;
  readonly redisUrl: string;
  /** Absent when the URL was given. */
  readonly postgres: PrivatePostgres | undefined;
  readonly redis: PrivateRedis | undefined;
  /** For logs and other files of these servers; removed with them, unless lasting. Absent when both URLs were given. */
  readonly folder: string | undefined;
  /** Stops what was started here. Idempotent. */
  stop(): Promise<void>;
}

/** @throws OncefleetError SERVICE_MISSING; nothing is left running */
export async function startServices(options: ServicesOptions): Promise<Services> {
  const say = options.say ?? (() => {});
  const lasting = options.lasting === true;
  const [databaseUrl, redisUrl] = [given(options.databaseUrl), given(options.redisUrl)];
  let folder: string | undefined;
  let redis: PrivateRedis | undefined;
  let postgres: PrivatePostgres | undefined;

  let stopped: Promise<void> | undefined;
  const stop = () => {
    stopped ??= Promise.allSettled([postgres?.stop(), redis?.stop()]).then(async () => {
      if (folder !== undefined && !lasting) await watchdog.removeNow(folder);
    });
    return stopped;
  };

  try {
    if (databaseUrl === undefined || redisUrl === undefined) {
      const identity = serviceIdentity();
      folder =
        lasting && options.home !== undefined
          ? await createLastingFolder(options.kind, identity, options.home)
          : await createInstanceFolder(options.kind, identity, options.home);
      // Redis first: it fails at once where it is missing, before the slower Postgres is made.
      if (redisUrl === undefined)
        redis = await PrivateRedis.start({ folder, identity, lasting, install: options.install === true, say });
      if (databaseUrl === undefined)
        postgres = await PrivatePostgres.start({ folder, identity, lasting, durable: options.durable ?? true });
      await takeFolder(join(folder, 'logs'), 0o700);
    }
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    databaseUrl: databaseUrl ?? (postgres?.url as string),
    redisUrl: redisUrl ?? (redis?.url as string),
    postgres,
    redis,
    folder,
    stop,
  };
}

function given(url: string | undefined): string | undefined {
  return url === undefined || url.trim() === '' ? undefined : url.trim();
}
