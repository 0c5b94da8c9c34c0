/**
 * Words that documentation uses for each other. A question that says "fast" is answered
 * under "benchmarks"; without a model nothing else bridges that.
 *
 * Each line is a group of lexemes as Postgres's `english` configuration makes them (a test
 * holds them to it). Only groups that hold in any technical text belong here.
 */
const GROUPS = [
  'fast quick speed perform benchmark overhead slow latenc throughput',
  'secret password credenti sensit confidenti token',
  'hide redact mask censor',
  'instal setup',
  'configur option set prefer',
  'delet remov drop',
  'error except failur crash fatal',
  'creat make build',
  'stop close shutdown end',
  'start launch run',
  'send ship forward transmit',
  'file disk',
  'rotat roll reopen',
  'format pretti print',
  'colour color',
  'web http',
  'framework librari',
  'test mock assert',
  'async asynchron',
  'sync synchron',
  'upgrad migrat',
  'deprec remov legaci',
  'limit maximum restrict',
  'custom extend overrid',
];

const BY_LEXEME: ReadonlyMap<string, readonly string[]> = index();

export function synonymsOf(lexeme: string): readonly string[] {
  return BY_LEXEME.get(lexeme) ?? [];
}

/** Every lexeme of the list, for its test. */
export const SYNONYM_LEXEMES: readonly string[] = [...BY_LEXEME.keys()];

function index(): Map<string, string[]> {
  const byLexeme = new Map<string, string[]>();
  for (const group of GROUPS.map((line) => line.split(' '))) {
    for (const lexeme of group) {
      const others = group.filter((other) => other !== lexeme);
      byLexeme.set(lexeme, [...new Set([...(byLexeme.get(lexeme) ?? []), ...others])]);
    }
  }
  return byLexeme;
}
