/** reStructuredText: headings, code and text; directives that are no text go. */
import type { Parsed, TextFormat } from '../format.ts';
import { indentOf, LineBlocks } from './line-blocks.ts';

const ADORNMENT = /^([!-/:-@[-`{-~])\1{2,}\s*$/;
const LIST = /^\s*(?:[-*+•]|(?:\d{1,9}|#|[a-zA-Z])[.)]|\((?:\d{1,9}|[a-zA-Z])\))\s/;
const CODE_DIRECTIVE =
  /^\s*\.\. (?:code-block|code|sourcecode|parsed-literal|literalinclude|doctest)::\s*([\w+#-]{0,30})/;
/** What is no text for readers, with all that is indented below. */
const NO_TEXT_DIRECTIVE =
  /^\s*\.\. (?:toctree|image|include|index|contents|highlight|meta|raw|role|default-role|module|currentmodule|automodule|autoclass|autofunction|only|ifconfig|sectionauthor|moduleauthor)::/;
const DIRECTIVE = /^(\s*)\.\. [\w:.-]+::/;
/** Comments, link targets, substitutions: `.. _label:`, `.. |name| …`, `.. anything`. */
const EXPLICIT = /^\s*\.\.(?:\s|$)/;

export const RST: TextFormat = {
  kind: 'rst',
  from: 'text',
  extensions: ['.rst', '.rest'],
  mediaTypes: ['text/x-rst', 'text/prs.fallenstein.rst'],
  parse: parseRst,
};

function parseRst(text: string): Parsed {
  const out = new LineBlocks(text);
  const styles: string[] = [];
  let at = 0;
  while (at < out.lines.length) {
    if (out.isBlank(at)) at++;
    else at = readHeading(out, at, styles) ?? readExplicit(out, at) ?? readParagraph(out, at);
  }
  const title = out.blocks.find((block) => block.kind === 'heading')?.text;
  return { title, text, blocks: out.blocks };
}

/** With an underline, or between two lines of the same mark. @returns the line after it */
function readHeading(out: LineBlocks, at: number, styles: string[]): number | undefined {
  const over = ADORNMENT.test(out.line(at)) && !out.isBlank(at + 1);
  const titleAt = over ? at + 1 : at;
  const title = out.line(titleAt).trim();
  const under = out.line(titleAt + 1).trimEnd();
  if (title === '' || title.length > 200 || !ADORNMENT.test(under) || (!over && indentOf(out.line(at)) > 0))
    return undefined;
  if (under.length < title.length * 0.7 || (over && out.line(at).trimEnd() !== under)) return undefined;
  const style = `${over ? 'over ' : ''}${under[0]}`;
  const known = styles.indexOf(style);
  const level = known === -1 ? styles.push(style) : known + 1;
  out.heading(Math.min(level, 6), plain(title), at, titleAt + 2);
  return titleAt + 2;
}

function readExplicit(out: LineBlocks, at: number): number | undefined {
  const line = out.line(at);
  const indent = indentOf(line);
  const code = CODE_DIRECTIVE.exec(line);
  if (code !== null) {
    const end = out.endOfIndented(at + 1, indent + 1);
    // Options come right below the directive, in colons.
    let first = at + 1;
    while (first < end && /^\s+:[\w-]+:/.test(out.line(first))) first++;
    out.push('code', first, end, code[1] ?? '');
    return end;
  }
  if (NO_TEXT_DIRECTIVE.test(line)) return out.endOfIndented(at + 1, indent + 1);
  if (DIRECTIVE.test(line)) {
    // Of a note or a warning the line and what is indented below are text.
    const end = out.endOfParagraph(at + 1);
    out.push('text', at, end);
    return end;
  }
  return EXPLICIT.test(line) ? out.endOfIndented(at + 1, indent + 1) : undefined;
}

function readParagraph(out: LineBlocks, at: number): number {
  const end = out.endOfParagraph(at);
  const first = out.line(at);
  const isTable = /^\s*(?:\+[-=]{2,}|={2,}\s+=|\|\s)/.test(first);
  if (isTable) out.push('lines', at, end);
  else out.push(LIST.test(first) ? 'list' : 'text', at, end);
  // A paragraph that ends with two colons announces code, indented below it.
  if (!/::\s*$/.test(out.line(end - 1))) return end;
  let next = end;
  while (next < out.lines.length && out.isBlank(next)) next++;
  if (next >= out.lines.length || indentOf(out.line(next)) <= indentOf(first)) return end;
  const codeEnd = out.endOfIndented(next, indentOf(first) + 1);
  out.push('code', next, codeEnd, '');
  return codeEnd;
}

/** Without the roles of interpreted text: :ref:`title <target>` is its title. */
function plain(title: string): string {
  return title.replace(/:[\w:]+:`([^`<]*?)\s*(?:<[^>`]*>)?`/g, '$1').replace(/``([^`]*)``/g, '`$1`');
}
