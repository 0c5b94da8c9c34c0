/**
 * Looks over a fleet: every disagreement between Postgres and Redis, and settings that will cost
 * somebody a night. Beside a live fleet rows and BullMQ's jobs move between two looks, so what
 * looks wrong is looked at again after a while, and only what is still wrong is told.
 */

import { setTimeout as delay } from 'node:timers/promises';
import type { Queue } from 'bullmq';
import { Cluster } from 'ioredis';
import {
  findClock,
  findQueues,
  findRowStates,
  findServerState,
  findUnfinished,
  findUnknownNames,
  findUnlisted,
  listUnfinished,
  type RowState,
  type ServerState,
} from '../../db/doctor.ts';
import { isTerminalStatus } from '../../db/jobs/states.ts';
import type { UnfinishedCursor } from '../../db/jobs/unfinished.ts';
import { findWaitingAlerts } from '../../db/poison-alerts.ts';
import { findOddStreams, findRoundAge } from '../../db/reconcile.ts';
import { bullIdOf, isAnother, type MissingRow, SCORE_PER_MS, valuesOf } from '../../enqueue/dispatcher.ts';
import { isOwnData } from '../../enqueue/job-data.ts';
import { OncefleetError } from '../../errors.ts';
import type { AnyJobDefinition } from '../../jobs/define-job.ts';
import type { PauseDifference } from '../../runtime/pauses.ts';
import type { Runtime } from '../../runtime/runtime.ts';
import { UNKNOWN_ALERT_MS } from '../../runtime/unknown-names.ts';
import { isUuid } from '../../util/uuid.ts';
import { within } from '../../util/with-timeout.ts';
import { endIfOver, repairStreamOf } from '../reconciler.ts';
import { type BullJob, DISAGREEMENTS, type DisagreementKind, judge } from './disagreements.ts';

/** Rows and BullMQ jobs looked at together. */
const PAGE = 1_000;
const STREAM_PAGE = 10_000;

/** Jobs repaired at once: BullMQ takes what comes together in one go. */
const REPAIRED_AT_ONCE = 200;

/** Between the two looks, ms: longer than an enqueue may take to dispatch. */
const LOOK_AGAIN_MS = 2_000;

/** How long Redis may take to answer at all, ms. */
const REDIS_WAIT_MS = 5_000;

/** Between two tries to give a job to a Redis that is slow, in ms. */
const DISPATCH_AGAIN_MS = 50;

/** Jobs named in a finding; all are counted and repaired. */
const MAX_NAMED = 100;

/** Clocks further apart than this are told, ms. */
const MAX_SKEW_MS = 2_000;

/** A reconciler that has finished no round for so long is missing, ms. */
const ROUND_OVERDUE_MS = 60_000;

/** An alert whose `onPoison` has not resolved for so long was called several times, or nobody has it, ms. */
const ALERT_OVERDUE_MS = 300_000;

/** A transaction open for so long keeps Postgres from cleaning up, ms. */
const LONG_TRANSACTION_MS = 600_000;

/** More dead rows than this, and more than live ones, are bloat. */
const MANY_DEAD_ROWS = 100_000;

const MIN_POSTGRES = 140_000;
const MIN_REDIS: readonly [number, number] = [6, 2];

export type Trouble =
  | 'redis-evicts'
  | 'redis-old'
  | 'postgres-old'
  | 'clock-skew'
  | 'queue-paused'
  | 'pause-differs'
  | 'no-workers'
  | 'no-reconciler'
  | 'poison-alerts'
  | 'unknown-names'
  | 'dead-rows'
  | 'long-transaction';

const PAUSE_DIFFERENCES: Readonly<Record<PauseDifference, string>> = {
  lost: 'paused, and Redis has lost it',
  'not-resumed': 'resumed, and Redis does not know it',
  'paused-elsewhere': 'paused by another BullMQ client',
  'resumed-elsewhere': 'resumed by another BullMQ client',
  unmarked: 'paused, and Redis does not have which pause it is',
  stale: 'resumed, and Redis still has which pause it was',
};

export interface Finding {
  kind: DisagreementKind | Trouble;
  /** What is wrong, for people. */
  message: string;
  /** What to do about it, or what was done. */
  remedy: string;
  /** Jobs or queues concerned; 0 for what is no matter of either. */
  count: number;
  /** Of `count`, those that are in order now. */
  repaired: number;
  /** The first hundred. */
  jobs: { id: string; queue: string; row: RowState['status'] | null; bullmq: BullJob['state'] | null }[];
}

export interface Diagnosis {
  findings: Finding[];
  looked: { rows: number; bullmqJobs: number; streams: number };
  /** Nothing was found, or all of it was repaired. */
  well: boolean;
}

export interface DoctorOptions {
  /** Repair what can be repaired. Default false. */
  fix?: boolean;
  /** Pause between the two looks, ms; an enqueue must have dispatched in it. Default 2,000. */
  lookAgainMs?: number;
  onProgress?(progress: { done: number; total?: number; message: string }): void;
  signal?: AbortSignal;
}

interface Suspect {
  /** Of the row, or of a BullMQ job that has none. */
  id: string;
  queue: string;
  kind: DisagreementKind;
  row: RowState | undefined;
  bull: BullJob | undefined;
}

/** @throws OncefleetError SERVICE_MISSING without Redis; the signal's reason; what Postgres throws when it is away */
export async function diagnose(
  runtime: Runtime,
  jobs: ReadonlyMap<string, AnyJobDefinition>,
  options: DoctorOptions = {},
): Promise<Diagnosis> {
  await requireRedis(runtime);
  return new Doctor(runtime, jobs, options).diagnose();
}

class Doctor {
  readonly #runtime: Runtime;
  readonly #jobs: ReadonlyMap<string, AnyJobDefinition>;
  readonly #options: DoctorOptions;
  readonly #looked = { rows: 0, bullmqJobs: 0, streams: 0 };

  constructor(runtime: Runtime, jobs: ReadonlyMap<string, AnyJobDefinition>, options: DoctorOptions) {
    this.#runtime = runtime;
    this.#jobs = jobs;
    this.#options = options;
  }

  async diagnose(): Promise<Diagnosis> {
    const { runtime, options } = { runtime: this.#runtime, options: this.#options };
    const server = await findServerState(runtime.db.kysely);
    for (const name of await findQueues(runtime.db.kysely)) runtime.dispatcher.queue(name);
    for await (const name of this.#queuesInRedis()) runtime.dispatcher.queue(name);
    const troubles = await this.#findTroubles(server);
    const suspects = [
      ...(await this.#scan(server.unfinished)),
      ...(await this.#unlisted()),
      ...(await this.#scanStreams()),
    ];
    const differences = await this.#findPauses();
    if (suspects.length + troubles.length + differences.size > 0)
      await delay(options.lookAgainMs ?? LOOK_AGAIN_MS, undefined, { signal: options.signal });
    const found = await this.#lookAgain(suspects);
    // Before the troubles, which tell of paused queues.
    const pauses = await this.#comparePauses(differences);
    // A fleet that has just started has done no round, and its workers are not connected yet.
    const remaining = troubles.length === 0 ? [] : await this.#findTroubles(await findServerState(runtime.db.kysely));
    let left = found;
    if (options.fix === true && found.length > 0) {
      for (let i = 0; i < found.length; i += REPAIRED_AT_ONCE) {
        this.#progress('repairing', i, found.length);
        await Promise.all(found.slice(i, i + REPAIRED_AT_ONCE).map((suspect) => this.#repair(suspect)));
      }
      left = await this.#lookAgain(found);
    }
    const findings = [...toFindings(found, left, options.fix === true), ...pauses, ...remaining];
    return {
      findings,
      looked: this.#looked,
      well: findings.every((finding) => finding.count > 0 && finding.repaired === finding.count),
    };
  }

  /** Queues that are paused in Postgres and not in Redis, or the other way round. */
  async #findPauses(): Promise<Map<string, PauseDifference>> {
    const found = await this.#runtime.pauses.findDifferences(this.#runtime.dispatcher.queues);
    return new Map(found.map(({ queue, how }) => [queue.qualifiedName, how]));
  }

  /** Of queues whose pause differed, those where it still does, brought in line if asked to. */
  async #comparePauses(before: ReadonlyMap<string, PauseDifference>): Promise<Finding[]> {
    if (before.size === 0) return [];
    const { pauses, dispatcher } = this.#runtime;
    const found = (await pauses.findDifferences(dispatcher.queues)).filter(
      ({ queue, how }) => before.get(queue.qualifiedName) === how,
    );
    if (found.length === 0) return [];
    const fix = this.#options.fix === true;
    const repaired = fix ? (await pauses.align(found.map(({ queue }) => queue))).length : 0;
    const queues = found.map(({ queue, how }) => `${queue.name} (${PAUSE_DIFFERENCES[how]})`).join(', ');
    return [
      {
        kind: 'pause-differs',
        message: `Postgres and Redis differ about a pause: ${queues}.`,
        remedy: fix
          ? 'Brought in line.'
          : '--fix: a pause that Redis lost is restored; what another client did is noted in Postgres.',
        count: found.length,
        repaired: Math.min(repaired, found.length),
        jobs: [],
      },
    ];
  }

  /** Also of jobs that nobody registers any more, and that have no unfinished row. */
  async *#queuesInRedis(): AsyncGenerator<string> {
    const { redis, settings } = this.#runtime;
    const pattern = `${this.#runtime.queuePrefix('*')}:*:meta`;
    // A cursor is good for the node that gave it.
    for (const node of redis instanceof Cluster ? redis.nodes('master') : [redis]) {
      let cursor = '0';
      do {
        const [next, keys] = await node.scan(cursor, 'MATCH', pattern, 'COUNT', PAGE);
        for (const key of keys) {
          // On a Cluster the name is there twice: `{prefix:name}:name:meta`.
          const start = `${settings.prefix}:`.length + (settings.redisCluster ? 1 : 0);
          const rest = key.slice(start, -':meta'.length);
          yield settings.redisCluster ? rest.slice(0, (rest.length - '}:'.length) / 2) : rest;
        }
        cursor = next;
      } while (cursor !== '0');
    }
  }

  /** Every unfinished row beside BullMQ's job, and every BullMQ job beside its row. */
  async #scan(unfinished: number): Promise<Suspect[]> {
    const suspects = new Map<string, Suspect>();
    const add = (found: readonly Suspect[]) => {
      for (const suspect of found) suspects.set(suspect.id, suspect);
    };
    const lists: QueueLists = new Map();
    for (const queue of this.#runtime.dispatcher.queues) lists.set(queue, await this.#readLists(queue));
    let after: UnfinishedCursor | undefined;
    do {
      const { rows, end } = await findUnfinished(this.#runtime.db.kysely, { after, limit: PAGE });
      add(await this.#judgeRows(rows, lists));
      this.#looked.rows += rows.length;
      this.#progress('rows', this.#looked.rows, unfinished);
      after = end;
    } while (after !== undefined);
    for (const queue of this.#runtime.dispatcher.queues) {
      for await (const ids of this.#bullIds(queue, lists.get(queue))) {
        add(await this.#judgeIds(queue, ids, lists));
        this.#looked.bullmqJobs += ids.length;
        this.#progress(`BullMQ jobs of ${queue.name}`, this.#looked.bullmqJobs);
      }
    }
    return [...suspects.values()];
  }

  /** @param ids only of these */
  async #unlisted(ids?: readonly string[]): Promise<Suspect[]> {
    const rows = await findUnlisted(this.#runtime.db.kysely, ids);
    return rows.map((row) => ({ id: row.id, queue: row.queue, kind: 'unlisted', row, bull: undefined }));
  }

  async #scanStreams(): Promise<Suspect[]> {
    const suspects: Suspect[] = [];
    let last: string | undefined;
    do {
      const page = await findOddStreams(this.#runtime.db.kysely, last, STREAM_PAGE);
      suspects.push(...(await this.#oddStreams(page.ids)));
      this.#looked.streams += page.scanned;
      this.#progress('streams', this.#looked.streams);
      last = page.last;
    } while (last !== undefined);
    return suspects;
  }

  async #oddStreams(ids: readonly string[]): Promise<Suspect[]> {
    if (ids.length === 0) return [];
    const rows = await findRowStates(this.#runtime.db.kysely, ids);
    return ids.flatMap((id) => {
      const row = rows.get(id);
      if (row === undefined) return [];
      const ended = isTerminalStatus(row.status);
      return [{ id, queue: row.queue, kind: ended ? 'open-stream' : 'closed-stream', row, bull: undefined }];
    });
  }

  /** Of suspects, those of which the same is still true. */
  async #lookAgain(suspects: readonly Suspect[]): Promise<Suspect[]> {
    const still: Suspect[] = [];
    const lists: QueueLists = new Map();
    const byQueue = Map.groupBy(
      suspects.filter((suspect) => suspect.bull !== undefined),
      (suspect) => this.#queueOf(suspect),
    );
    for (const [queue, group] of byQueue) {
      lists.set(queue, await this.#readLists(queue));
      for (let i = 0; i < group.length; i += PAGE) {
        const page = group.slice(i, i + PAGE);
        this.#progress('looking again', i, group.length);
        const now = await this.#judgeAgain(queue, page, lists);
        const kinds = new Map(now.map((suspect) => [suspect.id, suspect]));
        for (const { id, kind } of page) {
          const again = kinds.get(id);
          if (again?.kind === kind && !(await this.#hasMoved(again))) still.push(again);
        }
      }
    }
    const unlisted = suspects.filter(({ kind }) => kind === 'unlisted').map(({ id }) => id);
    if (unlisted.length > 0) still.push(...(await this.#unlisted(unlisted)));
    const streams = suspects.filter(({ bull, kind }) => bull === undefined && kind !== 'unlisted');
    for (let i = 0; i < streams.length; i += PAGE) {
      const page = streams.slice(i, i + PAGE);
      const odd = new Map<string, Suspect>();
      for (const { id } of page) {
        // The page of one that starts just before it.
        const { ids } = await findOddStreams(this.#runtime.db.kysely, idBefore(id), 1);
        if (ids[0] === id) for (const found of await this.#oddStreams(ids)) odd.set(id, found);
      }
      for (const { id, kind } of page) if (odd.get(id)?.kind === kind) still.push(odd.get(id) as Suspect);
    }
    return still;
  }

  /** A job that moves between two lists may be missed by reads of one after the other; BullMQ looks at all at once. */
  async #hasMoved(suspect: Suspect): Promise<boolean> {
    if (suspect.bull?.state !== 'lost') return false;
    const id = suspect.row === undefined ? suspect.id : bullIdOf(suspect.row);
    return (await this.#queueOf(suspect).getJobState(id)) !== 'unknown';
  }

  #queueOf({ queue, row }: Suspect): Queue {
    return row === undefined ? this.#runtime.dispatcher.queue(queue) : this.#runtime.dispatcher.queueOf(row);
  }

  /** The same look once more: rows by their BullMQ job, and BullMQ's jobs without a row by their id. */
  async #judgeAgain(queue: Queue, page: readonly Suspect[], lists: QueueLists): Promise<Suspect[]> {
    const foreign = page.filter(({ row }) => row?.source !== undefined).map(({ id }) => id);
    const others = page.filter(({ row }) => row?.source === undefined).map(({ id }) => id);
    const found = others.length === 0 ? [] : await this.#judgeIds(queue, others, lists);
    if (foreign.length === 0) return found;
    const rows = await findRowStates(this.#runtime.db.kysely, foreign);
    return [...found, ...(await this.#judgeRows([...rows.values()], lists))];
  }

  /** @param ids BullMQ's, which are those of rows where the fleet added the jobs */
  async #judgeIds(queue: Queue, ids: readonly string[], lists: QueueLists): Promise<Suspect[]> {
    // BullMQ first: what has moved on since then has a younger row, and is no suspect.
    const bulls = await this.#readBull(queue, ids, lists.get(queue));
    const rows = await findRowStates(this.#runtime.db.kysely, ids.filter(isUuid));
    return ids.flatMap((id, i) => {
      const row = rows.get(id);
      if (row !== undefined && (row.source !== undefined || row.queue !== queue.name)) return [];
      return this.#judge(queue.name, id, row, bulls[i]?.bull as BullJob);
    });
  }

  async #judgeRows(rows: readonly RowState[], lists: QueueLists): Promise<Suspect[]> {
    const suspects: Suspect[] = [];
    for (const [queue, group] of Map.groupBy(rows, (row) => this.#runtime.dispatcher.queueOf(row))) {
      if (!lists.has(queue)) lists.set(queue, await this.#readLists(queue));
      const bulls = await this.#readBull(queue, group.map(bullIdOf), lists.get(queue));
      for (const [i, row] of group.entries()) {
        const { bull, timestamp } = bulls[i] as { bull: BullJob; timestamp: number };
        const theirs = isAnother(row, timestamp) ? { ...bull, state: 'absent' as const } : bull;
        suspects.push(...this.#judge(queue.name, row.id, row, theirs));
      }
    }
    return suspects;
  }

  #judge(queue: string, id: string, row: RowState | undefined, bull: BullJob): Suspect[] {
    const kind = judge(row, bull, this.#maxCrashes(row));
    return kind === undefined ? [] : [{ id, queue, kind, row, bull }];
  }

  #maxCrashes(row: RowState | undefined): number {
    const definition = row === undefined ? undefined : this.#jobs.get(row.name);
    return definition?.policy.maxCrashes ?? this.#runtime.settings.maxCrashes;
  }

  /** What the lists of a queue hold. In this order: jobs go from waiting to active, so none is missed. */
  async #readLists(queue: Queue): Promise<ListedJobs> {
    const listed: ListedJobs = new Map();
    for (const [list, state] of [
      ['wait', 'waiting'],
      ['paused', 'waiting'],
      ['active', 'active'],
    ] as const) {
      const length = await this.#runtime.redis.llen(queue.toKey(list));
      for (let at = 0; at < length; at += 10 * PAGE) {
        for (const id of await this.#runtime.redis.lrange(queue.toKey(list), at, at + 10 * PAGE - 1))
          listed.set(id, state);
        this.#progress(`lists of ${queue.name}`, listed.size);
      }
    }
    return listed;
  }

  async *#bullIds(queue: Queue, listed: ListedJobs | undefined): AsyncGenerator<string[]> {
    const waiting = [...(listed?.keys() ?? [])];
    for (let i = 0; i < waiting.length; i += PAGE) yield waiting.slice(i, i + PAGE);
    for (const set of ['prioritized', 'delayed', 'failed', 'completed']) {
      for (let at = 0; ; at += PAGE) {
        const ids = await this.#runtime.redis.zrange(queue.toKey(set), String(at), String(at + PAGE - 1));
        if (ids.length > 0) yield ids;
        if (ids.length < PAGE) break;
      }
    }
  }

  async #readBull(
    queue: Queue,
    ids: readonly string[],
    listed: ListedJobs | undefined,
  ): Promise<{ bull: BullJob; timestamp: number }[]> {
    const pipeline = this.#runtime.redis.pipeline();
    for (const id of ids) {
      pipeline.hmget(queue.toKey(id), 'data', 'timestamp');
      pipeline.exists(`${queue.toKey(id)}:lock`);
      for (const set of ['delayed', 'prioritized', 'completed', 'failed', 'waiting-children'])
        pipeline.zscore(queue.toKey(set), id);
    }
    const values = valuesOf(await pipeline.exec());
    return ids.map((id, i) => {
      const [kept, locked, delayed, prioritized, completed, failed, children] = values.slice(7 * i, 7 * i + 7) as [
        (string | null)[],
        number,
        ...(string | null)[],
      ];
      const [data = null, timestamp = null] = kept;
      const own = isOwnData(id, data);
      const at = (state: BullJob['state'], delayMs = 0) => ({
        bull: { state, delayMs, own },
        timestamp: Number(timestamp),
      });
      if (delayed != null) return at('delayed', Number(delayed) / SCORE_PER_MS - Date.now());
      if (prioritized != null) return at('prioritized');
      if (completed != null) return at('completed');
      if (failed != null) return at('failed');
      if (children != null) return at('waiting-children');
      const list = listed?.get(id);
      if (list === 'active') return at(locked === 1 ? 'active' : 'deserted');
      if (list === 'waiting') return at('waiting');
      return at(data === null ? 'absent' : 'lost');
    });
  }

  async #repair(suspect: Suspect): Promise<void> {
    const { id, kind, row, bull } = suspect;
    const { dispatcher, log } = this.#runtime;
    const queue = this.#queueOf(suspect);
    const bullId = row === undefined ? id : bullIdOf(row);
    // Locked, gone, or moved on: whoever holds it will see to it.
    const remove = async () => {
      const job = await queue.getJob(bullId);
      await job?.remove().catch((err: unknown) => log.debug({ err, jobId: id }, 'not removed from BullMQ'));
      // A list may hold an id whose data are gone, which BullMQ has no words for.
      if (job === undefined) await this.#runtime.redis.lrem(queue.toKey('wait'), '0', bullId);
    };
    switch (kind) {
      case 'not-dispatched':
      case 'ended-in-bullmq':
      case 'lost':
      case 'deserted':
      case 'lease-expired':
        if (bull?.state === 'deserted' || bull?.state === 'waiting-children') await remove();
        if (row !== undefined)
          await this.#dispatch({
            ...row,
            delayMs: row.status === 'running' ? 0 : row.delayMs,
            absent: bull?.state === 'absent',
          });
        return;
      case 'unlisted':
        await listUnfinished(this.#runtime.db.kysely, id);
        return;
      case 'late':
        await dispatcher.promote(queue, [bullId]);
        return;
      case 'unended':
        if (row !== undefined) await endIfOver(this.#runtime, this.#jobs, row);
        // It has nothing more to wait for. A job of somebody else's stays, for its flow and its listeners: delivered, it fails.
        if (bull?.state !== 'active' && row?.source === undefined) await remove();
        return;
      case 'superfluous':
      case 'without-row':
      case 'other-outcome':
        await remove();
        return;
      case 'open-stream':
      case 'closed-stream':
        await repairStreamOf(this.#runtime, id);
        return;
      default:
        kind satisfies never;
    }
  }

  /** A slow Redis takes some of many jobs late, and the dispatcher refuses the others meanwhile: they wait here. */
  async #dispatch(row: MissingRow): Promise<void> {
    for (const until = performance.now() + REDIS_WAIT_MS; ; ) {
      if ((await this.#runtime.dispatcher.redispatch(row)) || performance.now() > until) return;
      await delay(DISPATCH_AGAIN_MS, undefined, { signal: this.#options.signal });
    }
  }

  async #findTroubles(server: ServerState): Promise<Finding[]> {
    const { redis, dispatcher, db } = this.#runtime;
    const troubles: Finding[] = [];
    const tell = (kind: Trouble, message: string, remedy: string) =>
      troubles.push({ kind, message, remedy, count: 0, repaired: 0, jobs: [] });

    if (server.version < MIN_POSTGRES)
      tell('postgres-old', `Postgres is ${Math.floor(server.version / 10_000)}, older than 14.`, 'Upgrade it.');
    const info = await redis.info();
    const field = (name: string) => new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1];
    const version = field('valkey_version') ?? field('redis_version') ?? '0';
    const [major = 0, minor = 0] = version.split('.').map(Number);
    if (major < MIN_REDIS[0] || (major === MIN_REDIS[0] && minor < MIN_REDIS[1]))
      tell('redis-old', `Redis is ${version}, older than ${MIN_REDIS.join('.')}.`, 'Upgrade it.');
    const policy = field('maxmemory_policy');
    if (policy !== undefined && policy !== 'noeviction')
      tell(
        'redis-evicts',
        `Redis may evict what BullMQ keeps: its maxmemory-policy is ${policy}. Jobs are found again, but late.`,
        'Set maxmemory-policy to noeviction.',
      );

    await this.#findSkew(tell);
    if (server.oldestTransactionMs !== null && server.oldestTransactionMs > LONG_TRANSACTION_MS)
      tell(
        'long-transaction',
        `A transaction has been open for ${minutes(server.oldestTransactionMs)}: Postgres cannot clean up what it may still see.`,
        'Find it in pg_stat_activity and end it.',
      );
    for (const { name, live, dead } of server.tables)
      if (dead > MANY_DEAD_ROWS && dead > live)
        tell(
          'dead-rows',
          `${name} has ${dead} dead rows and ${live} live ones: statements become slow.`,
          `Run \`vacuum ${name}\`; is autovacuum on?`,
        );

    let waiting = 0;
    for (const queue of dispatcher.queues) {
      const counts = await queue.getJobCounts('waiting', 'prioritized', 'delayed', 'active');
      const all = Object.values(counts).reduce((sum, count) => sum + count, 0);
      waiting += all;
      if (await queue.isPaused())
        tell(
          'queue-paused',
          `Queue ${queue.name} is paused: its jobs wait.`,
          'Resume it in Bull Board, unless it is meant to wait.',
        );
      if (all > 0 && (await this.#countWorkers(queue)) === 0)
        tell(
          'no-workers',
          `Queue ${queue.name} has ${all} ${all === 1 ? 'job' : 'jobs'} and no worker.`,
          'Start one: `oncefleet work`.',
        );
    }
    const age = await findRoundAge(db.kysely);
    if (server.unfinished + waiting > 0 && (age === undefined || age > ROUND_OVERDUE_MS))
      tell(
        'no-reconciler',
        age === undefined
          ? 'No worker looks for lost work.'
          : `No worker has looked for lost work for ${minutes(age)}.`,
        'Start a worker (`oncefleet work`): each looks after all queues.',
      );
    for (const { name, count } of await findUnknownNames(db.kysely, [...this.#jobs.keys()], UNKNOWN_ALERT_MS))
      tell(
        'unknown-names',
        `${count} ${count === 1 ? 'job' : 'jobs'} named ${JSON.stringify(name)} ${count === 1 ? 'has' : 'have'} waited for more than a day, and this process does not know the name.`,
        'Deploy a worker that has this job, or cancel the jobs. Where other workers have it, name their modules in ONCEFLEET_JOBS here too.',
      );
    for (const { name, count } of await findWaitingAlerts(db.kysely, ALERT_OVERDUE_MS))
      tell(
        'poison-alerts',
        `${count} poisoned ${count === 1 ? 'job' : 'jobs'} named ${name} ${count === 1 ? 'waits for its' : 'wait for their'} onPoison.`,
        'Start a worker that has this job, or see in the logs why its onPoison fails.',
      );
    return oneOfAKind(troubles);
  }

  /** How far the clocks are apart, as seen between asking and being answered. */
  async #findSkew(tell: (kind: Trouble, message: string, remedy: string) => void): Promise<void> {
    const skewOf = async (ask: () => Promise<number>): Promise<number> => {
      const before = Date.now();
      const theirs = await ask();
      const after = Date.now();
      return theirs < before ? theirs - before : Math.max(0, theirs - after);
    };
    const postgres = await skewOf(() => findClock(this.#runtime.db.kysely));
    const redis = await skewOf(async () => {
      const [s = 0, us = 0] = (await this.#runtime.redis.time()).map(Number);
      return s * 1_000 + us / 1_000;
    });
    for (const [name, skew] of [
      ['Postgres', postgres],
      ['Redis', redis],
    ] as const) {
      if (Math.abs(skew) <= MAX_SKEW_MS) continue;
      const by = `${(Math.abs(skew) / 1_000).toFixed(1)} s ${skew > 0 ? 'ahead of' : 'behind'} this machine's`;
      tell(
        'clock-skew',
        `The clock of ${name} is ${by}: delayed jobs start early or late by that.`,
        'Run an NTP client on all machines.',
      );
    }
  }

  async #countWorkers(queue: Queue): Promise<number> {
    // Some hosted Redis servers refuse CLIENT LIST; then nothing is said.
    return queue.getWorkersCount().catch(() => 1);
  }

  #progress(message: string, done: number, total?: number): void {
    this.#options.signal?.throwIfAborted();
    this.#options.onProgress?.({ done, message, ...(total === undefined ? {} : { total: Math.max(total, done) }) });
  }
}

/** Waits for the connection, which may be young. @throws OncefleetError SERVICE_MISSING */
async function requireRedis(runtime: Runtime): Promise<void> {
  await within(REDIS_WAIT_MS, runtime.redis.ping(), () => {
    throw new OncefleetError('SERVICE_MISSING', `Redis has not answered for ${REDIS_WAIT_MS / 1_000} s`);
  });
}

/** The lists a queue's jobs are in, by id. */
type ListedJobs = Map<string, 'waiting' | 'active'>;
type QueueLists = Map<Queue, ListedJobs>;

function toFindings(found: readonly Suspect[], left: readonly Suspect[], fixed: boolean): Finding[] {
  const order = Object.keys(DISAGREEMENTS) as DisagreementKind[];
  const byKind = Map.groupBy(found, (suspect) => suspect.kind);
  return order.flatMap((kind) => {
    const group = byKind.get(kind);
    if (group === undefined) return [];
    const { means, fix } = DISAGREEMENTS[kind];
    const repaired = fixed ? group.length - left.filter((suspect) => suspect.kind === kind).length : 0;
    return [
      {
        kind,
        message: `${group.length} ${group.length === 1 ? 'job' : 'jobs'}: ${means}.`,
        remedy: fixed ? `${repaired} ${fix}.` : `--fix: ${fix}.`,
        count: group.length,
        repaired,
        jobs: group
          .slice(0, MAX_NAMED)
          .map(({ id, queue, row, bull }) => ({ id, queue, row: row?.status ?? null, bullmq: bull?.state ?? null })),
      },
    ];
  });
}

/** Troubles of a kind that one finding spells out. */
const MAX_TROUBLES = 5;

/** One finding for each kind: a hundred paused queues must not bury what else is wrong. */
export function oneOfAKind(troubles: readonly Finding[]): Finding[] {
  return Map.groupBy(troubles, ({ kind }) => kind)
    .values()
    .map((alike) => {
      const more = alike.length - MAX_TROUBLES;
      const messages = alike.slice(0, MAX_TROUBLES).map(({ message }) => message);
      if (more > 0) messages.push(`And ${more} more like ${more === 1 ? 'it' : 'them'}.`);
      const remedies = new Set(alike.slice(0, MAX_TROUBLES).map(({ remedy }) => remedy));
      return { ...(alike[0] as Finding), message: messages.join(' '), remedy: [...remedies].join(' ') };
    })
    .toArray();
}

/** The greatest UUID below this one. */
function idBefore(id: string): string {
  const digits = (BigInt(`0x${id.replaceAll('-', '')}`) - 1n).toString(16).padStart(32, '0');
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

function minutes(ms: number): string {
  return ms < 120_000 ? `${Math.round(ms / 1_000)} s` : `${Math.round(ms / 60_000)} min`;
}
