/**
 * `npm run demo`: the whole system on real input, on servers of its own, in under two
 * minutes. Exits 1, with the ends of all logs, as soon as anything is not as it should be.
 */
import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { collectDocuments } from '../src/cli/collect-documents.ts';
import { cutTo } from '../src/cli/columns.ts';
import { watchdog } from '../src/testing/services/child.ts';
import { createDatabase, dropDatabase, uniqueName } from '../src/testing/services/databases.ts';
import { removeKeys } from '../src/testing/services/keys.ts';
import { Answer } from './demo/answer.ts';
import type { Accepted, ShownJob } from './demo/api.ts';
import { Reader, type SeenEvent } from './demo/event-stream.ts';
import { type Member, type Processes, runCommand, startProcesses } from './demo/processes.ts';
import { Screen, seconds } from './demo/screen.ts';
import { exitCodeOf, listenForStop } from './entry.ts';
import { ROOT } from './root.ts';
import { type Services, startServices } from './services.ts';

const TOTAL_LIMIT_MS = 115_000;
const DOCS = join('node_modules', 'pino', 'docs');
const COLLECTION = 'pino-docs';
const QUESTION = 'How do I redact sensitive information such as passwords from my logs?';
const SECOND_QUESTION = 'What are transports, and why do they run in a worker thread?';
/** The worker is killed after this many pieces of its answer. */
const KILL_AFTER = 25;
/** How long a step that was broken off may take to let go of what it was opening. */
const SETTLE_LIMIT_MS = 15_000;
const SHOWN_LOG_LINES = 12;

/** Short, so that nobody waits for a lease; the defaults suit production. */
const TIMES = {
  ONCEFLEET_LEASE_TTL_MS: '3000',
  ONCEFLEET_HEARTBEAT_MS: '700',
  ONCEFLEET_RECONCILE_MS: '500',
  ONCEFLEET_SHUTDOWN_MS: '3000',
  // Slow enough to see it stream, and to kill it in the middle.
  ONCEFLEET_ANSWER_PACE_MS: '40',
};

const screen = new Screen(process.stdout, process.env);
const stop = listenForStop();
const limit = AbortSignal.timeout(TOTAL_LIMIT_MS);
const closers: (() => Promise<unknown>)[] = [];
let processes: Processes | undefined;

// `npm run demo | head`: nobody reads any more.
process.stdout.on('error', () => process.exit(141));

const code = await main();
// Whatever is still open must not keep a finished demo alive; the watchdog sees to it.
process.stdout.write('', () => process.exit(code));

async function main(): Promise<number> {
  const started = performance.now();
  try {
    await show();
    await close();
    screen.line();
    screen.line(`${screen.style('green', 'Done')} in ${seconds(performance.now() - started)}; nothing keeps running.`);
    return 0;
  } catch (error) {
    screen.endProgress();
    screen.line();
    if (stop.by === undefined) {
      screen.line(screen.style('red', 'The demo failed:'));
      screen.block(explain(error));
      showLogs();
    } else screen.line('Stopped.');
    await close().catch((closing) => screen.line(`Closing failed: ${(closing as Error).message}`));
    return stop.by === undefined ? 1 : exitCodeOf(stop.by);
  }
}

async function show(): Promise<void> {
  screen.title('Oncefleet: BullMQ workers that run each job once, and stream what they do');
  const system = await startSystem();
  processes = system;
  await ingest(system);
  await ask(system);
  await survive(system);
  await drain(system);
  showNext();
}

// ── 1 ─────────────────────────────────────────────────────────────────────────────────────

async function startSystem(): Promise<Processes> {
  screen.section('A web process, two workers, Postgres and Redis');
  const run = randomBytes(3).toString('hex');
  let started = performance.now();
  const services = await within('Starting Postgres and Redis', 90_000, async () => {
    const begun = await startServices({
      kind: 'demo',
      databaseUrl: process.env.DATABASE_URL,
      redisUrl: process.env.REDIS_URL,
      say: (line) => screen.item(line),
    });
    closers.push(begun.stop);
    return begun;
  });
  const databaseUrl = await chooseDatabase(services);
  // A given Redis may serve others, too.
  const prefix = services.redis === undefined ? `oncefleet-demo-${run}` : 'oncefleet';
  if (services.redis === undefined) closers.push(() => removeKeys(services.redisUrl, prefix));
  const which = (mine: unknown) => (mine === undefined ? 'given' : 'private');
  screen.check(`Postgres (${which(services.postgres)}) and Redis (${which(services.redis)}) ${dim(since(started))}`);

  const folder = services.folder ?? (await temporaryFolder());
  const env = {
    ...ownEnvironment(),
    ...TIMES,
    DATABASE_URL: databaseUrl,
    REDIS_URL: services.redisUrl,
    ONCEFLEET_PREFIX: prefix,
  };
  started = performance.now();
  await within('Migrating the database', 30_000, (signal) => runCommand(['migrate'], { env, folder, signal }));
  screen.check(`Database migrated ${dim(since(started))}`);

  started = performance.now();
  const system = await within('Starting the processes', 40_000, async (signal) => {
    const begun = await startProcesses({ env, folder, workers: 2, signal });
    closers.push(begun.stop);
    return begun;
  });
  screen.check(
    `${[system.web, ...system.workers].map(({ name, child }) => `${name} (pid ${child.pid})`).join(', ')} ${dim(since(started))}`,
  );
  screen.item(`API ${system.api.origin}  Bull Board ${system.api.origin}/admin/queues`);
  return system;
}

/** On a given server a database of this run's own, where the user may create one. */
async function chooseDatabase(services: Services): Promise<string> {
  if (services.postgres !== undefined) return services.databaseUrl;
  const name = uniqueName('oncefleet_demo');
  try {
    const url = await createDatabase(services.databaseUrl, name);
    closers.push(() => dropDatabase(services.databaseUrl, name));
    return url;
  } catch (error) {
    if ((error as { code?: string }).code !== '42501') throw error;
    screen.item('This user may not create databases: using the one that DATABASE_URL names');
    return services.databaseUrl;
  }
}

async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'oncefleet-demo-'));
  watchdog.remove(folder);
  closers.push(() => watchdog.removeNow(folder));
  return folder;
}

/** Settings that somebody has for a system of their own would change what the demo shows. */
function ownEnvironment(): Record<string, string> {
  const settings = [
    'HOST',
    'PORT',
    'BODY_LIMIT_BYTES',
    'IN_FLIGHT_BYTES',
    'DATABASE_POOL_SIZE',
    'LOG_LEVEL',
    ...Object.keys(process.env).filter((name) => name.startsWith('ONCEFLEET_')),
  ];
  return Object.fromEntries(settings.map((name) => [name, '']));
}

// ── 2 ─────────────────────────────────────────────────────────────────────────────────────

async function ingest({ api, broken }: Processes): Promise<void> {
  screen.section(`Ingest the documentation of pino (${DOCS})`);
  const started = performance.now();
  const { documents } = await collectDocuments([DOCS], { cwd: ROOT, root: DOCS });
  const texts = documents.map(async ({ path, read }) => ({
    path,
    content: Buffer.concat(await Array.fromAsync(read(), (piece) => Buffer.from(piece))).toString(),
  }));
  const input = { collection: COLLECTION, documents: await Promise.all(texts) };
  await within(
    'Ingesting',
    40_000,
    async (signal) => {
      const job = await api.enqueue('ingest', input, 'demo-ingest', signal);
      screen.item(`${documents.length} Markdown files, job ${screen.style('bold', job.id)}`);
      const reader = new Reader(api.eventsUrl(job.id), signal);
      for await (const event of reader.events()) {
        if (event.type !== 'progress') continue;
        const { done, total = documents.length, message = '' } = JSON.parse(event.json);
        screen.progress(done, total, message);
      }
      screen.endProgress();
      const ended = await expectCompleted(job, signal);
      screen.check(`Ingested: ${describeResult(ended.result)} ${dim(since(started))}`);
    },
    broken,
  );
}

function describeResult(result: unknown): string {
  if (typeof result !== 'object' || result === null) return 'done';
  const counts = Object.entries(result).filter(([, value]) => typeof value === 'number' && value > 0);
  return (
    counts
      .map(([name, value]) => `${value} ${name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)}`)
      .join(', ') || 'done'
  );
}

// ── 3 ─────────────────────────────────────────────────────────────────────────────────────

async function ask({ api, broken }: Processes): Promise<void> {
  screen.section('Ask a question, and read the answer as it is written');
  await within(
    'Answering',
    60_000,
    async (signal) => {
      const started = performance.now();
      const job = await api.enqueue(
        'answer',
        { question: QUESTION, collection: COLLECTION },
        'demo-question-1',
        signal,
      );
      screen.item(`${screen.style('bold', QUESTION)}  ${dim(`job ${job.id}`)}`);
      screen.line();
      const answer = new Answer();
      let firstAt: number | undefined;
      for await (const event of new Reader(api.eventsUrl(job.id), signal).events()) {
        const delta = answer.add(event);
        if (delta !== '') firstAt ??= performance.now();
        screen.text(delta);
      }
      screen.endText();
      const ended = await expectCompleted(job, signal);
      expectSame(answer.text, textOf(ended), 'the streamed text', 'the stored result');
      showSources(answer);
      const first = firstAt === undefined ? '' : `, first words after ${seconds(firstAt - started)}`;
      screen.check(
        `${answer.events.length} events in ${seconds(performance.now() - started)}${first}; what streamed is what was stored`,
      );
    },
    broken,
  );
}

// ── 4 ─────────────────────────────────────────────────────────────────────────────────────

async function survive(system: Processes): Promise<void> {
  const { api, workers, broken } = system;
  screen.section('Kill the worker that answers, in mid-stream');
  await within(
    'Surviving the kill',
    80_000,
    async (signal) => {
      const input = { question: SECOND_QUESTION, collection: COLLECTION };
      const key = 'demo-question-2';
      const job = await api.enqueue('answer', input, key, signal);
      if (job.outcome !== 'created') throw new Error(`Expected a new job, got ${job.outcome}`);
      screen.item(`${screen.style('bold', SECOND_QUESTION)}  ${dim(`job ${job.id}`)}`);
      screen.line();

      const answer = new Answer();
      const reader = new Reader(api.eventsUrl(job.id), signal);
      let killedAt: number | undefined;
      let goneOnAfter: number | undefined;
      let deltas = 0;
      for await (const event of reader.events()) {
        if (event.type === 'attempt') {
          if (killedAt !== undefined) goneOnAfter ??= performance.now() - killedAt;
          await noteAttempt(event, await api.get(job.id, signal), workers, goneOnAfter);
        }
        const delta = answer.add(event);
        screen.text(delta);
        if (delta !== '') deltas++;
        if (deltas < KILL_AFTER || killedAt !== undefined) continue;

        // The same request again, while the job runs.
        await expectDuplicate(await api.enqueue('answer', input, key, signal), job, 'attached');
        const owner = findOwner(await api.get(job.id, signal), workers);
        screen.line();
        screen.check(`The same request, sent again with the same key: attached to job ${job.id}`);
        await system.kill(owner);
        killedAt = performance.now();
        reader.cut();
        screen.item(
          screen.style('red', `✗ ${owner.name} (pid ${owner.child.pid}) killed with SIGKILL after event ${event.seq}`),
        );
        screen.item(`  The reader's connection is cut as well; it comes back with Last-Event-ID: ${event.seq}`);
        screen.line();
      }
      screen.endText();
      if (killedAt === undefined)
        throw new Error(`The answer ended after ${deltas} pieces, before its worker could be killed`);
      showSources(answer);

      const ended = await expectCompleted(job, signal);
      expectSame(answer.text, textOf(ended), 'the streamed text', 'the stored result');
      if (ended.attempts.length < 2) throw new Error(`Expected a second attempt, found ${ended.attempts.length}`);
      screen.check(
        `${answer.events.length} events over ${reader.connections} connections, seq 0 to ${answer.events.length - 1}: none missing, none twice`,
      );

      const again = await api.enqueue('answer', input, key, signal);
      await expectDuplicate(again, job, 'replayed');
      const later = new Answer();
      for await (const event of new Reader(api.eventsUrl(again.id), signal).events()) later.add(event);
      expectSame(later.story, answer.story, 'what a later reader gets', 'what the first reader got');
      screen.check('The same request, sent once more after the end: the same job, and the same story byte for byte');
      screen.check(
        `Answer ${dim(`sha256 ${createHash('sha256').update(later.text).digest('hex').slice(0, 16)}`)}, and Idempotency-Replayed: true`,
      );
      await expectMismatch(system, { ...input, question: `${SECOND_QUESTION} (another body)` }, key, signal);
      screen.check('The same key with another question: refused, 422 KEY_MISMATCH');
      showAttempts(ended, workers);
    },
    broken,
  );
}

async function noteAttempt(
  event: SeenEvent,
  job: ShownJob,
  workers: readonly Member[],
  afterMs: number | undefined,
): Promise<void> {
  const { attempt, reason, resumed } = JSON.parse(event.json);
  const name = ownerName(job.attempts.at(-1)?.worker ?? job.leaseOwner, workers);
  const how = resumed ? 'continues where it was' : 'starts over, and readers drop what came before';
  const after = afterMs === undefined ? '' : ` ${seconds(afterMs)} after the kill`;
  screen.line();
  screen.item(screen.style('yellow', `↻ Attempt ${attempt} (${reason}) on ${name}${after}: it ${how}`));
  screen.line();
}

function showAttempts(job: ShownJob, workers: readonly Member[]): void {
  screen.line();
  screen.item(dim('fence  worker     outcome      took'));
  for (const { fence, worker, outcome, startedAt, finishedAt } of job.attempts) {
    const took = finishedAt === null ? '' : seconds(Date.parse(finishedAt) - Date.parse(startedAt));
    screen.item(
      `${String(fence).padStart(5)}  ${ownerName(worker, workers).padEnd(9)}  ${(outcome ?? 'running').padEnd(11)}  ${took}`,
    );
  }
}

// ── 5 ─────────────────────────────────────────────────────────────────────────────────────

async function drain(system: Processes): Promise<void> {
  const failed = await within('Draining', 20_000, () => system.stop());
  screen.line();
  if (failed.length > 0)
    throw new Error(
      `SIGTERM should end a process with 0: ${failed.map(({ name, child }) => `${name} ended with ${child.exit?.code ?? child.exit?.signal}`).join(', ')}`,
    );
  screen.check('SIGTERM: the web process and the worker that is left drained and ended with 0');
}

function showNext(): void {
  screen.line();
  screen.line(screen.style('bold', 'What to try next'));
  const rows = [
    ['npm run dev', 'the same system, staying up, with the commands to use it'],
    ['npm run oncefleet -- --help', 'the command line: ingest, ask, enqueue, follow, status, cancel'],
    ['README.md', 'define a job of your own, run it on two workers, follow it with curl -N'],
    ['npm test', 'every promise as a test that can fail'],
  ];
  for (const [command = '', about = ''] of rows) screen.item(`${screen.style('cyan', command.padEnd(28))} ${about}`);
}

// ── Small things ──────────────────────────────────────────────────────────────────────────

function showSources(answer: Answer): void {
  screen.line();
  screen.item(dim('Sources'));
  for (const { n, path, heading } of answer.sources)
    screen.item(`  ${`[${n}]`.padEnd(4)} ${cutTo(`${path}  ${heading}`, 90)}`);
  screen.line();
}

async function expectCompleted(job: Accepted, signal: AbortSignal): Promise<ShownJob> {
  const shown = await (processes as Processes).api.get(job.id, signal);
  if (shown.status !== 'completed')
    throw new Error(`Job ${job.id} is ${shown.status}: ${shown.error?.code ?? ''} ${shown.error?.message ?? ''}`);
  return shown;
}

async function expectDuplicate(again: Accepted, job: Accepted, outcome: 'attached' | 'replayed'): Promise<void> {
  const fits =
    again.id === job.id &&
    again.outcome === outcome &&
    again.replayed === (outcome === 'replayed') &&
    again.code === (outcome === 'replayed' ? 200 : 202);
  if (!fits) throw new Error(`A duplicate of job ${job.id} should be ${outcome}, got ${JSON.stringify(again)}`);
}

async function expectMismatch({ api }: Processes, input: unknown, key: string, signal: AbortSignal): Promise<void> {
  const refused = await api.enqueue('answer', input, key, signal).then(
    (accepted) => `accepted as job ${accepted.id}`,
    (error: Error) => error.message,
  );
  if (!/ 422: .*KEY_MISMATCH/s.test(refused))
    throw new Error(`Another input under the same key should be refused, got: ${refused}`);
}

function expectSame(a: string, b: string, nameOfA: string, nameOfB: string): void {
  if (a === b) return;
  let at = 0;
  while (a[at] === b[at]) at++;
  throw new Error(
    `${nameOfA} differs from ${nameOfB} at character ${at}: ${JSON.stringify(a.slice(at, at + 60))} and ${JSON.stringify(b.slice(at, at + 60))}`,
  );
}

function textOf(job: ShownJob): string {
  return (job.result as { text: string }).text;
}

function findOwner(job: ShownJob, workers: readonly Member[]): Member {
  const owner = workers.find((member) => isOwner(job.leaseOwner, member));
  if (owner === undefined)
    throw new Error(`Job ${job.id} is ${job.status} with the owner ${job.leaseOwner}, which is none of the workers`);
  return owner;
}

function ownerName(worker: string | null, workers: readonly Member[]): string {
  return workers.find((member) => isOwner(worker, member))?.name ?? worker ?? 'nobody';
}

/** A worker's id is host:pid:random. */
function isOwner(worker: string | null, { child }: Member): boolean {
  return worker?.includes(`:${child.pid}:`) ?? false;
}

/**
 * Runs one step with its own limit; a signal, the end of the time or a broken process ends it.
 * What a step opens it registers itself: one that is over its time may still be about to.
 */
async function within<T>(
  what: string,
  limitMs: number,
  step: (signal: AbortSignal) => Promise<T>,
  broken?: Promise<never>,
): Promise<T> {
  const over = new AbortController();
  const signal = AbortSignal.any([stop.signal, limit, over.signal]);
  const ended = Promise.withResolvers<never>();
  const timer = setTimeout(() => over.abort(new Error(`not done after ${limitMs / 1_000} s`)), limitMs);
  signal.addEventListener('abort', () => ended.reject(signal.reason), { once: true });
  let running: Promise<T> | undefined;
  try {
    signal.throwIfAborted();
    running = step(signal);
    return await Promise.race([running, ended.promise, ...(broken === undefined ? [] : [broken])]);
  } catch (error) {
    over.abort(error);
    await Promise.race([running?.catch(() => {}), sleep(SETTLE_LIMIT_MS, undefined, { ref: false })]);
    throw new Error(`${what}: ${explain(error)}`, { cause: error });
  } finally {
    clearTimeout(timer);
  }
}

async function close(): Promise<void> {
  const errors: unknown[] = [];
  for (let closer = closers.pop(); closer !== undefined; closer = closers.pop())
    await closer().catch((error) => errors.push(error));
  if (errors.length > 0) throw errors[0];
}

function showLogs(): void {
  if (processes === undefined) return;
  for (const { name, child } of [processes.web, ...processes.workers]) {
    screen.line();
    screen.line(
      screen.style(
        'bold',
        `The end of the log of ${name} (pid ${child.pid}${child.exit === undefined ? '' : ', ended'}):`,
      ),
    );
    screen.block(child.tail(SHOWN_LOG_LINES) || '(empty)');
  }
}

function explain(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if (error.name === 'TimeoutError') return `not done after ${TOTAL_LIMIT_MS / 1_000} s`;
  return error.message;
}

function since(started: number): string {
  return seconds(performance.now() - started);
}

function dim(text: string): string {
  return screen.style('dim', text);
}
