/** The processes below another one, by /proc; none where there is no /proc. */
import { readdirSync, readFileSync } from 'node:fs';

/** Children, theirs and so on. */
export function descendantsOf(pid: number): number[] {
  if (process.platform !== 'linux') return [];
  const parents = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((name) => [Number(name), stateOf(Number(name))?.parent] as const);
  const found = [pid];
  for (const parent of found) found.push(...parents.filter(([, of]) => of === parent).map(([child]) => child));
  return found.slice(1);
}

export function isRunning(pid: number): boolean {
  const state = stateOf(pid);
  return state !== undefined && !'ZX'.includes(state.letter);
}

function stateOf(pid: number): { letter: string; parent: number } | undefined {
  try {
    const [, letter = '', parent = ''] =
      /^\d+ \(.*\) (\w) (\d+)/s.exec(readFileSync(`/proc/${pid}/stat`, 'utf8')) ?? [];
    return { letter, parent: Number(parent) };
  } catch {
    return undefined;
  }
}
