/** What every parser makes of a document, whatever its format. */

/** A piece of a document that the chunker keeps in one chunk when it fits. */
export type Block =
  | { kind: 'heading'; level: number; text: string }
  | { kind: 'text' | 'list' | 'table' | 'code'; text: string };

export interface ParsedDocument {
  title: string;
  blocks: Block[];
}

/** Without a byte order mark, lines ended by LF. */
export function normalizeText(content: string): string {
  return content.replace(/^\uFEFF/, '').replace(/\r\n?/g, '\n');
}
