/** What a bench is: something with a name that runs on given servers and gives rows. */
import type { ParseArgsConfig } from 'node:util';
import type { Services } from '../../scripts/services.ts';
import type { Chart } from './chart.ts';
import type { Table } from './table.ts';

/** One measured case: its parameters, and figures with their unit in the name. */
export interface Row {
  case: string;
  [field: string]: string | number;
}

export interface BenchContext {
  services: Services;
  /** Aborts on Ctrl-C. */
  signal: AbortSignal;
  /** Says how far it is. */
  say(line: string): void;
}

export interface BenchOptions {
  quick: boolean;
  /** What the bench's own options were set to. */
  own: Readonly<Record<string, string | undefined>>;
}

export interface BenchResult {
  rows: readonly Row[];
  tables: readonly Table[];
  charts: readonly { name: string; chart: Chart }[];
}

export interface Bench {
  name: string;
  /** One line for the list. */
  summary: string;
  /** Markdown: what is measured and how, for docs/benchmarks. */
  method: string;
  /** Packages whose versions matter. */
  packages: readonly string[];
  /** Options besides those of every bench; each takes a text. */
  options: Readonly<Record<string, { about: string }>>;
  /**
   * Makes sense of the options before any server is started.
   *
   * @param options.quick a short run that only shows that everything works
   * @throws UsageError
   * @returns the run; it throws if a case goes wrong, for figures of a broken run are worth nothing
   */
  plan(options: BenchOptions): (context: BenchContext) => Promise<BenchResult>;
}

/** A mistake of whoever typed the command: said without a stack. */
export class UsageError extends Error {}

export type OptionsConfig = NonNullable<ParseArgsConfig['options']>;
