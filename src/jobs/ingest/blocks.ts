/** What every parser makes of a document, whatever its format. */

/** Where a block is: offsets into the text of its document, in UTF-16 units, `end` exclusive. */
export interface Place {
  start: number;
  end: number;
  /** From 1, of a format that has pages. */
  page?: number;
}

/**
 * A piece of a document that the chunker keeps in one chunk when it fits.
 *
 * Its text is what the document has from `start` to `end`, unless the format says otherwise.
 */
export type Block = Place &
  (
    | { kind: 'heading'; level: number; text: string }
    | { kind: 'text' | 'list' | 'table'; text: string }
    /** Cut at line ends alone: logs, records. */
    | { kind: 'lines'; text: string }
    /** `fence` is put around each part of code that has none of its own, as an info string: `python`. */
    | { kind: 'code'; text: string; fence?: string }
  );

export type ContentBlock = Exclude<Block, { kind: 'heading' }>;

/** The formats that are read. */
export type DocumentKind =
  | 'markdown'
  | 'mdx'
  | 'text'
  | 'html'
  | 'pdf'
  | 'docx'
  | 'csv'
  | 'json'
  | 'jsonl'
  | 'rst'
  | 'asciidoc'
  | 'code'
  | 'log';

export interface ParsedDocument {
  title: string;
  kind: DocumentKind;
  /** What its bytes were decoded from, as `TextDecoder` names it; of text formats that came as bytes. */
  encoding?: string;
  /** The text that offsets refer to. Of formats that are no text it is what was made of them. */
  text: string;
  blocks: Block[];
  /** How many pages there are, in formats that have pages. */
  pages?: number;
  /** It has a title and nothing else: only that can be found. */
  titleOnly?: true;
}

/** Without a byte order mark, lines ended by LF. */
export function normalizeText(content: string): string {
  return content.replace(/^\uFEFF/, '').replace(/\r\n?/g, '\n');
}

/** What is left of a name when folders and the extension are gone. */
export function titleFromPath(path: string): string {
  const name = path.split(/[/\\]/).findLast((part) => part !== '') ?? path;
  return name.replace(/(?<=.)\.[^.]+$/, '');
}
