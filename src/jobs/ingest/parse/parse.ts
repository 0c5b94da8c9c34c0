/** One document from bytes or text to blocks; runs in a thread, see `reader-pool.ts`. */
import { DocumentError } from '../../../errors.ts';
import { normalizeText, type ParsedDocument, titleFromPath } from '../blocks.ts';
import { decodeText } from './encoding.ts';
import type { Parsed } from './format.ts';
import { binaryFormatOf, textFormatOf } from './kinds.ts';
import type { DocumentLimits } from './limits.ts';

/** A document as it comes: bytes of any format, or text that somebody has decoded. */
export type DocumentSource = {
  /** Its name or URL: the end of it may tell the format, and it is the title of a text without one. */
  path: string;
  /** As HTTP sends it, with the charset if there is one. */
  contentType?: string;
} & ({ bytes: Uint8Array } | { content: string });

/** @throws DocumentError what is wrong with this document */
export async function parseDocument(source: DocumentSource, limits: DocumentLimits): Promise<ParsedDocument> {
  const { path, contentType } = source;
  let content: string;
  let encoding: string | undefined;
  if ('bytes' in source) {
    if (source.bytes.length === 0) throw new DocumentError('FILE_EMPTY', 'is empty');
    const format = await binaryFormatOf(source.bytes, path, contentType);
    if (format !== undefined)
      return finish(await format.parse(source.bytes, limits), { path, kind: format.kind }, limits);
    const charset = /;\s*charset\s*=\s*"?([\w.:-]+)/i.exec(contentType ?? '')?.[1];
    const decoded = await decodeText(source.bytes, charset);
    content = decoded.text;
    encoding = decoded.encoding;
  } else content = source.content;
  const text = normalizeText(content);
  checkLength(text, limits);
  const format = textFormatOf(text, path, contentType);
  const parsed = await format.parse(text, path);
  return finish(parsed, { path, kind: format.kind, ...(encoding === undefined ? {} : { encoding }) }, limits);
}

function finish(
  parsed: Parsed,
  { path, ...about }: Pick<ParsedDocument, 'kind' | 'encoding'> & { path: string },
  limits: DocumentLimits,
): ParsedDocument {
  checkLength(parsed.text, limits);
  if (parsed.blocks.length === 0) throw new DocumentError('FILE_EMPTY', 'has no text in it');
  return { ...parsed, ...about, title: parsed.title ?? titleFromPath(path) };
}

function checkLength(text: string, { maxTextLength }: DocumentLimits): void {
  if (text.length <= maxTextLength) return;
  throw new DocumentError('DOCUMENT_TOO_LARGE', `has ${text.length} characters of text; the limit is ${maxTextLength}`);
}
