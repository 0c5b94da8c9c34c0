/**
 * From a file's text to a title and blocks. A new format is one more `Parser` in the list;
 * the chunker and everything behind it see blocks only.
 */
import { normalizeText, type ParsedDocument } from './blocks.ts';
import { parseMarkdown } from './markdown.ts';

interface Parser {
  readonly name: string;
  /** Lower case, with the dot. */
  readonly extensions: readonly string[];
  readonly mediaTypes: readonly string[];
  /** Pure; takes any text. `path` gives a title when the text has none. */
  parse(content: string, path: string): ParsedDocument;
}

const MARKDOWN: Parser = {
  name: 'markdown',
  extensions: ['.md', '.markdown', '.mdx', '.mkd'],
  mediaTypes: ['text/markdown', 'text/x-markdown'],
  parse: (content, path) => {
    const { title, blocks } = parseMarkdown(content);
    return { title: title ?? titleFromPath(path), blocks };
  },
};

const PLAIN_TEXT: Parser = {
  name: 'plain text',
  extensions: ['.txt', '.text', '.log', ''],
  mediaTypes: ['text/plain'],
  parse: (content, path) => ({
    title: titleFromPath(path),
    blocks: normalizeText(content)
      .split(/\n(?:[ \t]*\n)+/)
      .map((text) => ({ kind: 'text' as const, text: text.replace(/^\n+|\s+$/g, '') }))
      .filter(({ text }) => text !== ''),
  }),
};

const PARSERS: readonly Parser[] = [MARKDOWN, PLAIN_TEXT];

/** The parser for a document, by media type if one is known, else by extension; plain text when neither tells. */
export function findParser(path: string, mediaType?: string): Parser {
  const type = mediaType?.split(';', 1)[0]?.trim().toLowerCase();
  const extension = /\.[^./\\]+$/.exec(path)?.[0].toLowerCase() ?? '';
  return (
    PARSERS.find((parser) => type !== undefined && parser.mediaTypes.includes(type)) ??
    PARSERS.find((parser) => parser.extensions.includes(extension)) ??
    PLAIN_TEXT
  );
}

function titleFromPath(path: string): string {
  const name = path.split(/[/\\]/).findLast((part) => part !== '') ?? path;
  return name.replace(/(?<=.)\.[^.]+$/, '');
}
