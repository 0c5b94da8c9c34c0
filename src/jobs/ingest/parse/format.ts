/** What a format has to offer: from a document's bytes or text to blocks. */
import type { DocumentKind, ParsedDocument } from '../blocks.ts';
import type { DocumentLimits } from './limits.ts';

/** What a parser makes; the door adds kind and encoding, and a title where there is none. */
export type Parsed = Omit<ParsedDocument, 'title' | 'kind' | 'encoding'> & { title: string | undefined };

interface Named {
  readonly kind: DocumentKind;
  /** Lower case, with the dot. */
  readonly extensions: readonly string[];
  readonly mediaTypes: readonly string[];
}

/** Its parser gets decoded text, with LF line ends and without a byte order mark. */
export interface TextFormat extends Named {
  readonly from: 'text';
  /** @param path for formats whose extension says more, such as a programming language */
  parse(text: string, path: string): Parsed | Promise<Parsed>;
  /** Whether a text of which name and type say nothing is of this format. */
  looksLike?(text: string): boolean;
}

/** Its parser gets bytes, which have its signature. */
export interface BinaryFormat extends Named {
  readonly from: 'bytes';
  /** @throws DocumentError what is wrong with this document */
  parse(bytes: Uint8Array, limits: DocumentLimits): Promise<Parsed>;
}

export type Format = TextFormat | BinaryFormat;
