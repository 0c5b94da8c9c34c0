/** A bench's page under docs/benchmarks. */
import type { Bench } from './bench.ts';
import { type Machine, machineLine } from './machine.ts';
import { type Table, toMarkdown } from './table.ts';

export interface BenchReport {
  bench: Bench;
  /** What was typed. */
  command: string;
  quick: boolean;
  machine: Machine;
  tables: readonly Table[];
  charts: readonly { name: string; title: string }[];
}

/** Markdown, written by the bench alone: whoever wants other words changes the bench. */
export function toPage({ bench, command, machine, tables, charts }: BenchReport): string {
  return `${[
    `# Benchmark: ${bench.name}`,
    `Measured on ${machine.measuredAt.slice(0, 10)} by \`${command}\`, which wrote this page. Figures of one machine on one day: run it on yours before you rely on them.`,
    machineLine(machine),
    ...charts.map(({ name, title }) => `![${title}](${name}.svg)`),
    ...tables.flatMap((table) => [
      `## ${table.title}`,
      ...(table.about === undefined ? [] : [table.about]),
      toMarkdown(table),
    ]),
    '## How it is measured',
    bench.method,
  ].join('\n\n')}\n`;
}
