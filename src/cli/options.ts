/** Options that several commands share, and the readers of their values. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { isUuid } from '../util/uuid.ts';

const UNIT_MS: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

export const jsonOption = () => new Option('--json', 'write JSON for scripts (errors too, on standard error)');

export const jobsOption = () =>
  new Option('--jobs <module>', 'a module that exports job definitions; repeatable, added to ONCEFLEET_JOBS')
    .argParser(collect)
    .default([], 'none');

export const collectionOption = () =>
  new Option('-c, --collection <name>', 'the collection of documents').makeOptionMandatory();

/** `--help` of a command, with examples under its options. */
export function addExamples(command: Command, examples: readonly (readonly [string, string])[], more = ''): Command {
  const text = examples.map(([line, about]) => `  ${line}\n      ${about}`).join('\n');
  return command.addHelpText(
    'after',
    `\nExamples:\n${text}${more === '' ? '' : `\n\n${more}`}\n\nExit codes: oncefleet --help`,
  );
}

export function collect(value: string, previous: readonly string[]): string[] {
  return [...previous, value];
}

/** `1500`, `1500ms`, `30s`, `5m`, `2h`, `1d` as ms. */
export function parseDuration(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)?$/.exec(text.trim());
  const ms = match === null ? Number.NaN : Math.round(Number(match[1]) * (UNIT_MS[match[2] ?? 'ms'] as number));
  if (!Number.isSafeInteger(ms))
    throw new InvalidArgumentError('Expected a duration such as 500ms, 30s, 5m, 2h or 1d.');
  return ms;
}

export function parseInteger(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^-?\d+$/.test(text.trim()) || value < min || value > max) {
      throw new InvalidArgumentError(`Expected a whole number from ${min} to ${max}.`);
    }
    return value;
  };
}

/** A job's id; anything else is refused here, before any service is asked. */
export function parseJobId(text: string): string {
  if (!isUuid(text))
    throw new InvalidArgumentError('A job id is a UUID, as `oncefleet enqueue` and `oncefleet status` print it.');
  return text.toLowerCase();
}
