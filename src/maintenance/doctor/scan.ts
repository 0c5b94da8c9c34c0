/** Finds suspects: rows, BullMQ's jobs and streams that seem to disagree, in pages. */
import type { Queue } from 'bullmq';
import { findRowStates, findUnfinished, findUnlisted, type RowState } from '../../db/doctor.ts';
import { isTerminalStatus } from '../../db/jobs/states.ts';
import type { UnfinishedCursor } from '../../db/jobs/unfinished.ts';
import { findOddStreams } from '../../db/reconcile.ts';
import { bullIdOf, isAnother } from '../../enqueue/dispatcher.ts';
import type { AnyJobDefinition } from '../../jobs/define-job.ts';
import type { Runtime } from '../../runtime/runtime.ts';
import { isUuid } from '../../util/uuid.ts';
import { type BullJob, findBullJobs, isNowhere, type ListedJobs, listBullIds, readLists } from '../bullmq-jobs.ts';
import { type DisagreementKind, judge } from './disagreements.ts';

/** Rows compared with their BullMQ jobs in one step. */
const PAGE = 1_000;
const STREAM_PAGE = 10_000;

export interface Suspect {
  /** Of the row, or of a BullMQ job that has none. */
  id: string;
  queue: string;
  kind: DisagreementKind;
  row: RowState | undefined;
  bull: BullJob | undefined;
}

/** May throw to stop the scan. */
type Progress = (message: string, done: number, total?: number) => void;

/** What the lists of each queue hold, read once a pass. */
type QueueLists = Map<Queue, ListedJobs>;

export class Scan {
  readonly looked = { rows: 0, bullmqJobs: 0, streams: 0 };
  readonly #runtime: Runtime;
  readonly #jobs: ReadonlyMap<string, AnyJobDefinition>;
  readonly #progress: Progress;

  constructor(runtime: Runtime, jobs: ReadonlyMap<string, AnyJobDefinition>, progress: Progress) {
    this.#runtime = runtime;
    this.#jobs = jobs;
    this.#progress = progress;
  }

  /** @param unfinished how many rows to expect, for the progress */
  async findSuspects(unfinished: number): Promise<Suspect[]> {
    const jobs = await this.#scanJobs(unfinished);
    return [...jobs, ...(await this.#findUnlisted()), ...(await this.#scanStreams())];
  }

  /** Of suspects, those that are still wrong, in the same way. */
  async confirm(suspects: readonly Suspect[]): Promise<Suspect[]> {
    const jobs = suspects.filter(({ bull }) => bull !== undefined);
    const unlisted = suspects.filter(({ kind }) => kind === 'unlisted').map(({ id }) => id);
    const streams = suspects.filter(({ bull, kind }) => bull === undefined && kind !== 'unlisted');
    return [
      ...(await this.#confirmJobs(jobs)),
      ...(unlisted.length === 0 ? [] : await this.#findUnlisted(unlisted)),
      ...(await this.#confirmStreams(streams)),
    ];
  }

  /** Every unfinished row beside BullMQ's job, and every BullMQ job beside its row. */
  async #scanJobs(unfinished: number): Promise<Suspect[]> {
    const { db, dispatcher, redis } = this.#runtime;
    const suspects = new Map<string, Suspect>();
    const add = (found: readonly Suspect[]) => {
      for (const suspect of found) suspects.set(suspect.id, suspect);
    };
    const lists: QueueLists = new Map();
    let after: UnfinishedCursor | undefined;
    for (const queue of dispatcher.queues) await this.#listsOf(queue, lists);
    do {
      const { rows, end } = await findUnfinished(db.kysely, { after, limit: PAGE });
      add(await this.#judgeRows(rows, lists));
      this.looked.rows += rows.length;
      this.#progress('rows', this.looked.rows, unfinished);
      after = end;
    } while (after !== undefined);
    for (const queue of dispatcher.queues) {
      for await (const ids of listBullIds(redis, queue, await this.#listsOf(queue, lists))) {
        add(await this.#judgeIds(queue, ids, lists));
        this.looked.bullmqJobs += ids.length;
        this.#progress(`BullMQ jobs of ${queue.name}`, this.looked.bullmqJobs);
      }
    }
    return [...suspects.values()];
  }

  async #confirmJobs(suspects: readonly Suspect[]): Promise<Suspect[]> {
    const still: Suspect[] = [];
    const lists: QueueLists = new Map();
    for (const [queue, group] of Map.groupBy(suspects, (suspect) => queueOf(this.#runtime, suspect))) {
      await this.#listsOf(queue, lists);
      for (let i = 0; i < group.length; i += PAGE) {
        const page = group.slice(i, i + PAGE);
        this.#progress('checking again', i, group.length);
        const now = new Map((await this.#judgeAgain(queue, page, lists)).map((suspect) => [suspect.id, suspect]));
        for (const { id, kind } of page) {
          const again = now.get(id);
          if (again?.kind === kind && !(await this.#hasMoved(again))) still.push(again);
        }
      }
    }
    return still;
  }

  async #hasMoved(suspect: Suspect): Promise<boolean> {
    if (suspect.bull?.state !== 'lost') return false;
    const id = suspect.row === undefined ? suspect.id : bullIdOf(suspect.row);
    return !(await isNowhere(queueOf(this.#runtime, suspect), id));
  }

  /** Judges the same jobs once more: rows by their BullMQ job, and BullMQ's jobs without a row by their id. */
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
    const bulls = await findBullJobs(this.#runtime.redis, queue, ids, await this.#listsOf(queue, lists));
    const rows = await findRowStates(this.#runtime.db.kysely, ids.filter(isUuid));
    return ids.flatMap((id, i) => {
      const row = rows.get(id);
      if (row !== undefined && (row.source !== undefined || row.queue !== queue.name)) return [];
      return this.#judge(queue.name, id, row, bulls[i] as BullJob);
    });
  }

  async #judgeRows(rows: readonly RowState[], lists: QueueLists): Promise<Suspect[]> {
    const { dispatcher, redis } = this.#runtime;
    const suspects: Suspect[] = [];
    for (const [queue, group] of Map.groupBy(rows, (row) => dispatcher.queueOf(row))) {
      const bulls = await findBullJobs(redis, queue, group.map(bullIdOf), await this.#listsOf(queue, lists));
      for (const [i, row] of group.entries()) {
        const bull = bulls[i] as BullJob;
        const theirs = isAnother(row, bull.timestamp) ? { ...bull, state: 'absent' as const } : bull;
        suspects.push(...this.#judge(queue.name, row.id, row, theirs));
      }
    }
    return suspects;
  }

  #judge(queue: string, id: string, row: RowState | undefined, bull: BullJob): Suspect[] {
    const definition = row === undefined ? undefined : this.#jobs.get(row.name);
    const kind = judge(row, bull, definition?.policy.maxCrashes ?? this.#runtime.settings.maxCrashes);
    return kind === undefined ? [] : [{ id, queue, kind, row, bull }];
  }

  async #listsOf(queue: Queue, lists: QueueLists): Promise<ListedJobs> {
    let listed = lists.get(queue);
    if (listed === undefined) {
      const onPage = (count: number) => this.#progress(`lists of ${queue.name}`, count);
      listed = await readLists(this.#runtime.redis, queue, onPage);
      lists.set(queue, listed);
    }
    return listed;
  }

  /** @param ids only of these */
  async #findUnlisted(ids?: readonly string[]): Promise<Suspect[]> {
    const rows = await findUnlisted(this.#runtime.db.kysely, ids);
    return rows.map((row) => ({ id: row.id, queue: row.queue, kind: 'unlisted', row, bull: undefined }));
  }

  async #scanStreams(): Promise<Suspect[]> {
    const suspects: Suspect[] = [];
    let last: string | undefined;
    do {
      const page = await findOddStreams(this.#runtime.db.kysely, last, STREAM_PAGE);
      suspects.push(...(await this.#judgeStreams(page.ids)));
      this.looked.streams += page.scanned;
      this.#progress('streams', this.looked.streams);
      last = page.last;
    } while (last !== undefined);
    return suspects;
  }

  async #confirmStreams(suspects: readonly Suspect[]): Promise<Suspect[]> {
    const still: Suspect[] = [];
    for (const { id, kind } of suspects) {
      // The page of one that starts just before it.
      const { ids } = await findOddStreams(this.#runtime.db.kysely, idBefore(id), 1);
      if (ids[0] !== id) continue;
      still.push(...(await this.#judgeStreams(ids)).filter((now) => now.kind === kind));
    }
    return still;
  }

  async #judgeStreams(ids: readonly string[]): Promise<Suspect[]> {
    if (ids.length === 0) return [];
    const rows = await findRowStates(this.#runtime.db.kysely, ids);
    return ids.flatMap((id) => {
      const row = rows.get(id);
      if (row === undefined) return [];
      const ended = isTerminalStatus(row.status);
      return [{ id, queue: row.queue, kind: ended ? 'open-stream' : 'closed-stream', row, bull: undefined }];
    });
  }
}

/** The queue that a suspect's deliveries come from. */
export function queueOf({ dispatcher }: Runtime, { queue, row }: Suspect): Queue {
  return row === undefined ? dispatcher.queue(queue) : dispatcher.queueOf(row);
}

/** The greatest UUID below this one. */
function idBefore(id: string): string {
  const digits = (BigInt(`0x${id.replaceAll('-', '')}`) - 1n).toString(16).padStart(32, '0');
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}
