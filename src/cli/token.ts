import { Command, InvalidArgumentError, Option } from 'commander';
import type { Scope, TokenRecord } from '../client/access/access.ts';
import { SCOPES } from '../db/api-tokens.ts';
import { MAX_TOKEN_LIFE_MS } from '../options.ts';
import type { Fleet } from '../workers/fleet.ts';
import { formatTable } from './columns.ts';
import { type CliContext, type CommonOptions, terminalOf } from './context.ts';
import { withFleet } from './open-fleet.ts';
import { addExamples, jsonOption, parseDuration } from './options.ts';
import type { Terminal } from './terminal.ts';

/** What a table may take, whatever it is printed to. */
const MAX_COLUMNS = 120;

interface CreateOptions extends CommonOptions {
  tenant?: string;
  name: string;
  scope: Scope[];
  expires: number | undefined;
}

interface ListOptions extends CommonOptions {
  tenant?: string;
}

export function tokenCommand(context: CliContext): Command {
  const command = new Command('token')
    .summary('make, list and revoke tokens of the HTTP API')
    .description(
      'Tokens in Postgres, beside those of ONCEFLEET_TOKENS. Made or revoked, they are so in every web process within 2 s.\n' +
        'Where ONCEFLEET_TOKENS is not set, web processes ask for them with ONCEFLEET_REQUIRE_TOKENS=true alone.',
    );
  const use = (options: CommonOptions, run: (fleet: Fleet, terminal: Terminal) => Promise<void>) => {
    const terminal = terminalOf(context, options);
    return withFleet(context, {}, (fleet) => run(fleet, terminal));
  };
  const sub = (name: string, about: string) => {
    const child = new Command(name).description(about).copyInheritedSettings(command).addOption(jsonOption());
    command.addCommand(child, { isDefault: name === 'list' });
    return child;
  };
  sub('create', 'Makes a token and prints it. It is shown this once: Postgres has a hash of it.')
    .requiredOption('--name <text>', 'what it is for, in your words')
    .option('--tenant <name>', 'whose jobs it sees; default ONCEFLEET_TENANT')
    .addOption(
      new Option('--scope <scope>', 'what it may do; repeatable, and admin has the others in it')
        .choices(SCOPES)
        .argParser<Scope[]>((value, previous) => [...(previous ?? []), parseScope(value)]),
    )
    .option('--expires <duration>', 'how long it is accepted, or never; default 90d', parseLife)
    .action((options: CreateOptions) => use(options, (fleet, terminal) => create(fleet, terminal, options)));
  sub('list', 'A table of tokens, the youngest first.')
    .option('--tenant <name>', 'those of one tenant')
    .action((options: ListOptions) => use(options, (fleet, terminal) => list(fleet, terminal, options)));
  sub('revoke', 'Ends a token; requests that it has under way are cut off.')
    .argument('<id>', 'as `list` shows it')
    .action((id: string, options: CommonOptions) => use(options, (fleet, terminal) => revoke(fleet, terminal, id)));
  return addExamples(
    command,
    [
      ['oncefleet token create --name "billing service" --tenant acme', 'may enqueue and read, for 90 days'],
      ['oncefleet token create --name dashboard --scope read --expires never', 'may look alone, until it is revoked'],
      ['oncefleet token list', 'every token, and when it was last used'],
      ['oncefleet token revoke <id>', 'accepted nowhere, 2 s later'],
    ],
    'Scopes: enqueue (enqueue, upload, cancel), read (everything that is a GET), admin (also redrive and delete).',
  );
}

async function create(fleet: Fleet, terminal: Terminal, options: CreateOptions): Promise<void> {
  const { name, tenant, scope, expires } = options;
  const made = await fleet.tokens.create({
    name,
    ...(tenant === undefined ? {} : { tenant }),
    ...(scope === undefined ? {} : { scopes: scope }),
    ...(expires === undefined ? {} : { lifeMs: expires }),
  });
  if (terminal.json) return terminal.jsonLine(JSON.stringify(made));
  const end = made.expiresAt === null ? 'until it is revoked' : `until ${formatTime(made.expiresAt)}`;
  terminal.note(`Token ${made.id}, ${end}. It is not shown again:`);
  await terminal.line(made.token);
}

async function list(fleet: Fleet, terminal: Terminal, { tenant }: ListOptions): Promise<void> {
  const tokens = await fleet.tokens.list(tenant === undefined ? {} : { tenant });
  if (terminal.json) return terminal.jsonLine(JSON.stringify({ tokens }));
  if (tokens.length === 0) return terminal.note('No tokens.');
  const columns = terminal.interactive ? Math.min(terminal.columns, MAX_COLUMNS) : MAX_COLUMNS;
  const headings = ['ID', 'TENANT', 'NAME', 'SCOPES', 'STATUS', 'EXPIRES', 'USED'];
  await terminal.lines(formatTable(headings, tokens.map(rowOf), { columns, cut: ['NAME', 'TENANT'] }));
}

function rowOf({ id, tenant, name, scopes, status, expiresAt, lastUsedAt }: TokenRecord): string[] {
  const expires = expiresAt === null ? 'never' : expiresAt.slice(0, 10);
  return [id, tenant, name, scopes.join(','), status, expires, lastUsedAt === null ? '-' : formatTime(lastUsedAt)];
}

async function revoke(fleet: Fleet, terminal: Terminal, id: string): Promise<void> {
  await fleet.tokens.revoke(id);
  if (terminal.json) return terminal.jsonLine(JSON.stringify({ id, status: 'revoked' }));
  return terminal.line(`Revoked ${id}`);
}

function parseScope(text: string): Scope {
  const scope = SCOPES.find((one) => one === text);
  if (scope === undefined) throw new InvalidArgumentError(`Expected one of ${SCOPES.join(', ')}.`);
  return scope;
}

function parseLife(text: string): number {
  if (text === 'never') return Number.POSITIVE_INFINITY;
  const ms = parseDuration(text);
  if (ms < 1_000 || ms > MAX_TOKEN_LIFE_MS) throw new InvalidArgumentError('Expected 1s to 3652d, or never.');
  return ms;
}

/** `2026-08-01 12:00`, UTC. */
function formatTime(iso: string): string {
  return iso.slice(0, 16).replace('T', ' ');
}
