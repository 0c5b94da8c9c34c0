/** What a mutation and a fault are, and how their places are found. */

/** A mechanism taken out of the source, and the test that must notice. */
export interface Mutation {
  /** For people: `npm run mutate -- <part of it>`. */
  name: string;
  /** From the root of the clone. */
  file: string;
  /** Text that occurs once in the file. Layout is ignored: see `placesOf`. */
  find: string;
  replace: string;
  /** What is gone. */
  mechanism: string;
  /** The test file, from the root of the clone. */
  test: string;
  /** The title of a test as its file has it, or a part of it; `%s`, like Vitest's other placeholders (`%j`, `$name`), stands for anything. */
  title: string;
}

/** A mutation as the list of its file has it. */
export type Change = Omit<Mutation, 'file'>;

/** A mechanism that holds a promise while machines die, and the test with real faults that must notice when it is gone. */
export interface Fault {
  /** Of the first eight promises of README.md. */
  promise: 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8;
  /** Names of mutations. Several: each is behind the others, so that only together they are missed. */
  without: readonly [string, ...string[]];
  /** Kills, freezes or cuts off real processes. From the root of the clone. */
  test: string;
  /** As a mutation's. */
  title: string;
  /** What stands for each `%s` of the title; without, all cases are run. */
  values?: readonly string[];
}

/** What `npm run mutate` does at a time: changes the source, runs a test. */
export interface Trial {
  name: string;
  mechanism: string;
  mutations: readonly Mutation[];
  test: string;
  title: string;
}

/** Where `find` occurs, whatever line breaks, indents and trailing commas a formatter has put there. */
export function placesOf(find: string, source: string): { start: number; end: number }[] {
  const tokens = find.match(/\w+|[^\w\s]/g) ?? [];
  const pattern = tokens
    .map((token, i) => {
      const escaped = escapePattern(token);
      if (i === 0) return /\w/.test(token) ? `\\b${escaped}` : escaped;
      return /^[)\]}]$/.test(token) ? `\\s*,?\\s*${escaped}` : `\\s*${escaped}`;
    })
    .join('');
  return [...source.matchAll(new RegExp(pattern, 'g'))].map((match) => ({
    start: match.index,
    end: match.index + match[0].length,
  }));
}

/** @throws Error the text does not occur exactly once */
export function mutate(source: string, { find, replace, file }: Mutation): string {
  const [place, ...others] = placesOf(find, source);
  if (place === undefined) throw new Error(`not found in ${file}: ${find}`);
  if (others.length > 0) throw new Error(`found ${others.length + 1} times in ${file}: ${find}`);
  return source.slice(0, place.start) + replace + source.slice(place.end);
}

/** A pattern for `vitest --testNamePattern` that fits any of the titles. */
export function titlePattern(titles: readonly string[]): string {
  return titles
    .map((title) =>
      title
        .split(/%[sdifjo#]|\$[\w.]+/)
        .map(escapePattern)
        .join('.*'),
    )
    .join('|');
}

export function trialOfMutation(mutation: Mutation): Trial {
  const { name, mechanism, test, title } = mutation;
  return { name, mechanism, mutations: [mutation], test, title };
}

/** @throws Error it names a mutation that is not there */
export function trialOfFault({ without, test, title, values = [] }: Fault, mutations: readonly Mutation[]): Trial {
  const taken = without.map((name) => {
    const mutation = mutations.find((candidate) => candidate.name === name);
    if (mutation === undefined) throw new Error(`no mutation is named ${name}`);
    return mutation;
  });
  const mechanism = taken.map((mutation) => mutation.mechanism).join('; ');
  const filled = values.reduce((text, value) => text.replace('%s', value), title);
  return { name: without.join(' + '), mechanism, mutations: taken, test, title: filled };
}

function escapePattern(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
}
