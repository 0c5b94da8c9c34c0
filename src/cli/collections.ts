import { Command } from 'commander';
import type { ChunkRecord, DocumentRecord, PageOptions } from '../client/collections.ts';
import { OncefleetError } from '../errors.ts';
import { LANGUAGES, type Language } from '../search/language.ts';
import type { Fleet } from '../workers/fleet.ts';
import { formatTable } from './columns.ts';
import { type CliContext, type CommonOptions, terminalOf } from './context.ts';
import { withFleet } from './open-fleet.ts';
import { addExamples, jsonOption, parseInteger } from './options.ts';
import { counted, type Terminal } from './terminal.ts';

/** What a table may take, whatever it is printed to. */
const MAX_COLUMNS = 100;

interface PageCliOptions extends CommonOptions {
  limit?: number;
  cursor?: string;
}

interface ShowOptions extends PageCliOptions {
  chunk?: number;
}

interface DeleteOptions extends CommonOptions {
  yes?: boolean;
}

type Use = (fleet: Fleet, terminal: Terminal) => Promise<void>;

export function collectionsCommand(context: CliContext): Command {
  const command = new Command('collections')
    .summary('list, show and delete collections and documents')
    .description('What has been ingested: collections, their documents, and the chunks that answers quote.');
  const use = (options: CommonOptions, run: Use) => {
    const terminal = terminalOf(context, options);
    return withFleet(context, {}, (fleet) => run(fleet, terminal));
  };
  const sub = (name: string, about: string) => {
    const child = new Command(name).description(about).copyInheritedSettings(command).addOption(jsonOption());
    command.addCommand(child, { isDefault: name === 'list' });
    return child;
  };
  const paged = (child: Command) =>
    child
      .option('--limit <number>', 'at most this many, 1 to 100', parseInteger(1, 100))
      .option('--cursor <cursor>', 'the next page; printed under the one before');

  paged(sub('list', 'A table of collections, by name.')).action((options: PageCliOptions) =>
    use(options, (fleet, terminal) => listCollections(fleet, terminal, options)),
  );
  paged(sub('documents', 'A table of the documents of a collection, by path.'))
    .argument('<collection>', 'its name')
    .action((name: string, options: PageCliOptions) =>
      use(options, (fleet, terminal) => listDocuments(fleet, terminal, name, options)),
    );
  paged(sub('show', 'A collection; or a document of it with its text; or one chunk, as a source names it.'))
    .argument('<collection>', 'its name')
    .argument('[document]', 'its path or its id')
    .option('--chunk <number>', 'this chunk alone; 0 is the first', parseInteger(0, 2_147_483_647))
    .action((name: string, document: string | undefined, options: ShowOptions) =>
      use(options, (fleet, terminal) => show(fleet, terminal, name, document, options)),
    );
  sub(
    'language',
    'Sets the language that the documents of a collection are analysed in; makes the collection if need be.',
  )
    .argument('<collection>', 'its name')
    .argument('<language>', `${LANGUAGES.join(', ')}; or auto: each document's is detected`)
    .action((name: string, language: string, options: CommonOptions) =>
      use(options, (fleet, terminal) => setLanguage(fleet, terminal, name, language)),
    );
  sub('delete', 'Deletes a document with its chunks; without a document the whole collection.')
    .argument('<collection>', 'its name')
    .argument('[document]', 'its path or its id')
    .option('--yes', 'needed for a whole collection')
    .action((name: string, document: string | undefined, options: DeleteOptions) =>
      use(options, (fleet, terminal) => remove(fleet, terminal, name, document, options)),
    );
  return addExamples(command, [
    ['oncefleet collections', 'every collection with its counts'],
    ['oncefleet collections documents docs', 'the documents of one'],
    ['oncefleet collections show docs guide.md --chunk 3', 'the text that a source of an answer points to'],
    ['oncefleet collections language docs de', 'its documents are German, whatever is detected'],
    ['oncefleet collections delete docs old.md', 'a document; without a path, and with --yes, all of it'],
  ]);
}

async function listCollections(fleet: Fleet, terminal: Terminal, options: PageCliOptions): Promise<void> {
  const page = await fleet.collections.list(pageOf(options));
  if (terminal.json) return terminal.jsonLine(JSON.stringify(page));
  if (page.collections.length === 0) return terminal.note('No collections.');
  const rows = page.collections.map(({ name, documents, chunks, bytes, updatedAt }) => [
    name,
    String(documents),
    String(chunks),
    formatBytes(bytes),
    formatTime(updatedAt),
  ]);
  await printTable(terminal, ['NAME', 'DOCUMENTS', 'CHUNKS', 'SIZE', 'UPDATED'], rows, 'NAME');
  noteMore(terminal, 'list', page.nextCursor);
}

async function listDocuments(fleet: Fleet, terminal: Terminal, name: string, options: PageCliOptions): Promise<void> {
  const page = await fleet.collections.documents(name, pageOf(options));
  if (terminal.json) return terminal.jsonLine(JSON.stringify(page));
  if (page.documents.length === 0) return terminal.note('No documents.');
  const rows = page.documents.map(({ path, title, chunks, bytes, updatedAt }) => [
    path,
    title,
    String(chunks),
    formatBytes(bytes),
    formatTime(updatedAt),
  ]);
  await printTable(terminal, ['PATH', 'TITLE', 'CHUNKS', 'SIZE', 'UPDATED'], rows, 'PATH', 'TITLE');
  noteMore(terminal, `documents ${quote(name)}`, page.nextCursor);
}

async function show(
  fleet: Fleet,
  terminal: Terminal,
  name: string,
  document: string | undefined,
  options: ShowOptions,
): Promise<void> {
  if (document === undefined) {
    if (options.chunk !== undefined)
      throw new OncefleetError('INPUT_INVALID', '--chunk is of a document: name one after the collection');
    const collection = await fleet.collections.get(name);
    if (terminal.json) return terminal.jsonLine(JSON.stringify(collection));
    const { documents, chunks, bytes, createdAt, updatedAt } = collection;
    return terminal.lines([
      `Collection  ${collection.name}`,
      `Language    ${collection.language ?? 'of each document'}`,
      `Documents   ${documents}`,
      `Chunks      ${chunks}`,
      `Size        ${formatBytes(bytes)}`,
      `Created     ${formatTime(createdAt)}`,
      `Updated     ${formatTime(updatedAt)}`,
    ]);
  }
  if (options.chunk !== undefined) {
    const chunk = await fleet.collections.chunk(name, document, options.chunk);
    if (terminal.json) return terminal.jsonLine(JSON.stringify(chunk));
    await terminal.lines([
      terminal.style('bold', `${chunk.path} [${chunk.ordinal}]${placeOf(chunk)} ${chunk.heading}`),
      '',
    ]);
    return terminal.text(`${chunk.content}\n`);
  }
  const page = await fleet.collections.chunks(name, document, pageOf(options));
  if (terminal.json) return terminal.jsonLine(JSON.stringify(page));
  await terminal.lines(formatDocument(page.document));
  for (const chunk of page.chunks) await printChunk(terminal, chunk);
  noteMore(terminal, `show ${quote(name)} ${quote(document)}`, page.nextCursor);
}

function placeOf({ page }: ChunkRecord): string {
  return page === null ? '' : ` page ${page}`;
}

async function printChunk(terminal: Terminal, chunk: ChunkRecord): Promise<void> {
  await terminal.lines(['', terminal.style('bold', `[${chunk.ordinal}]${placeOf(chunk)} ${chunk.heading}`)]);
  await terminal.text(`${chunk.content}\n`);
}

async function setLanguage(fleet: Fleet, terminal: Terminal, name: string, language: string): Promise<void> {
  const wanted = language === 'auto' ? null : (language as Language);
  const collection = await fleet.collections.set(name, { language: wanted });
  if (terminal.json) return terminal.jsonLine(JSON.stringify(collection));
  const about =
    collection.documents === 0
      ? ''
      : `; ingest its ${counted(collection.documents, 'document')} again for it to take effect`;
  return terminal.line(`${name}: language ${collection.language ?? 'of each document'}${about}`);
}

async function remove(
  fleet: Fleet,
  terminal: Terminal,
  name: string,
  document: string | undefined,
  options: DeleteOptions,
): Promise<void> {
  if (document !== undefined) {
    const deleted = await fleet.collections.deleteDocument(name, document);
    if (terminal.json) return terminal.jsonLine(JSON.stringify(deleted));
    return terminal.line(`Deleted ${deleted.path} (${counted(deleted.chunks, 'chunk')})`);
  }
  const { documents } = await fleet.collections.get(name);
  if (options.yes !== true) {
    throw new OncefleetError(
      'INPUT_INVALID',
      `"${name}" has ${counted(documents, 'document')}: give --yes to delete all of it, or name a document`,
    );
  }
  const deleted = await fleet.collections.delete(name);
  if (terminal.json) return terminal.jsonLine(JSON.stringify({ name, ...deleted }));
  return terminal.line(`Deleted ${name} (${counted(deleted.documents, 'document')})`);
}

function formatDocument(document: DocumentRecord): string[] {
  return [
    `Document    ${document.path}`,
    `Title       ${document.title}`,
    `Id          ${document.id}`,
    `Chunks      ${document.chunks}`,
    `Size        ${formatBytes(document.bytes)}`,
    `Revision    ${document.revision}, ${formatTime(document.updatedAt)}`,
    `Written by  ${document.jobId}`,
  ];
}

function printTable(terminal: Terminal, headings: string[], rows: string[][], ...cut: string[]): Promise<void> {
  const columns = terminal.interactive ? Math.min(terminal.columns, MAX_COLUMNS) : MAX_COLUMNS;
  return terminal.lines(formatTable(headings, rows, { columns, cut }));
}

function pageOf({ limit, cursor }: PageCliOptions): PageOptions {
  return { ...(limit === undefined ? {} : { limit }), ...(cursor === undefined ? {} : { cursor }) };
}

function noteMore(terminal: Terminal, command: string, cursor: string | null): void {
  if (cursor !== null) terminal.note(`More: oncefleet collections ${command} --cursor ${cursor}`);
}

function quote(text: string): string {
  return /^[\w.:@/-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/** `2026-08-01 12:00:00`, UTC. */
function formatTime(iso: string | null): string {
  return iso === null ? '-' : iso.slice(0, 19).replace('T', ' ');
}

function formatBytes(bytes: number): string {
  if (bytes < 1_024) return `${bytes} B`;
  const units = ['KiB', 'MiB', 'GiB', 'TiB'];
  let [value, unit] = [bytes / 1_024, 0];
  for (; value >= 1_024 && unit < units.length - 1; unit++) value /= 1_024;
  return `${value.toFixed(value < 10 ? 1 : 0)} ${units[unit]}`;
}
