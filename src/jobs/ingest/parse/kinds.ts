/** Which format a document has: by its bytes, then by the content type that came with it, then by its name. */
import { DocumentError } from '../../../errors.ts';
import type { DocumentKind } from '../blocks.ts';
import type { BinaryFormat, Format, TextFormat } from './format.ts';
import { FORMATS } from './formats/index.ts';
import { PLAIN_TEXT } from './formats/plain.ts';
import { loadPackage } from './packages.ts';

/** Bytes that most signatures are in. */
const HEAD = 64 * 1024;
/** Types that say nothing of what is in a document: servers send them for all they do not know. */
const VAGUE_TYPES: ReadonlySet<string> = new Set(['', 'text/plain', 'application/octet-stream', 'application/zip']);
/** What `file-type` finds and is text all the same. */
const TEXT_TYPES =
  /^(?:application\/xml|image\/svg\+xml|text\/.*|application\/rss\+xml|application\/(?:x-)?(?:sh|subrip).*)$/;

/**
 * @returns the binary format its bytes are of; `undefined`: it is text
 * @throws DocumentError DOCUMENT_KIND_UNSUPPORTED its bytes are of a kind that is not read; DOCUMENT_DAMAGED its name
 *   or type is of a binary format, and its bytes are not
 */
export async function binaryFormatOf(
  bytes: Uint8Array,
  path: string,
  contentType: string | undefined,
): Promise<BinaryFormat | undefined> {
  const { fileTypeFromBuffer } = await loadPackage('file-type', () => import('file-type'));
  // A zip is told by its entries, which may be anywhere.
  const isZip = bytes[0] === 0x50 && bytes[1] === 0x4b;
  const found = await fileTypeFromBuffer(isZip ? bytes : bytes.subarray(0, HEAD)).catch(() => undefined);
  const type = found?.mime.split(';')[0] ?? (isPdf(bytes) ? 'application/pdf' : undefined);
  const format = FORMATS.find((one) => type !== undefined && one.from === 'bytes' && one.mediaTypes.includes(type));
  if (format?.from === 'bytes') return format;
  const named = namedFormat(path, contentType);
  if (named?.from === 'bytes' && isEncryptedOffice(bytes))
    throw new DocumentError('DOCUMENT_ENCRYPTED', 'cannot be opened without a password');
  // What is cut off or overwritten may have lost what tells a DOCX from any other zip.
  if (named?.from === 'bytes' && (type === undefined || (isZip && named.kind === 'docx')))
    throw new DocumentError('DOCUMENT_DAMAGED', `is no ${named.kind.toUpperCase()} file, whatever its name says`);
  if (type !== undefined && !TEXT_TYPES.test(type)) {
    const what = `${found?.ext ?? 'binary'} file (${type})`;
    throw new DocumentError(
      'DOCUMENT_KIND_UNSUPPORTED',
      `is ${/^[aeio]/.test(what) ? 'an' : 'a'} ${what}, which is not read`,
    );
  }
  return undefined;
}

/** Old writers put other bytes before the signature; readers look for it in the first kilobyte. */
function isPdf(bytes: Uint8Array): boolean {
  return Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.length, 1_024)).includes('%PDF-');
}

/** Office encrypts a file by putting it into one of its old format, under this name. */
function isEncryptedOffice(bytes: Uint8Array): boolean {
  const data = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  return (
    bytes.length > 512 &&
    data.readUInt32BE(0) === 0xd0cf11e0 &&
    data.includes(Buffer.from('EncryptedPackage', 'utf16le'))
  );
}

/** The format of a text: HTML by how it begins, else by content type, name, and last by how it looks. */
export function textFormatOf(text: string, path: string, contentType: string | undefined): TextFormat {
  const named = namedFormat(path, contentType);
  const html = FORMATS.find((format) => format.kind === 'html') as TextFormat;
  if (named?.from === 'text' && named.kind !== 'text') {
    if (named.kind === 'html') return /<[a-z!/][^>]*>/i.test(text) ? html : PLAIN_TEXT;
    return named.kind !== 'markdown' || !startsLikeHtml(text) ? named : html;
  }
  if (startsLikeHtml(text)) return html;
  return (
    (FORMATS.find((format) => format.from === 'text' && format.looksLike?.(text) === true) as TextFormat | undefined) ??
    PLAIN_TEXT
  );
}

function startsLikeHtml(text: string): boolean {
  return /^\s*(?:<!--[\s\S]{0,2000}?-->\s*)?(?:<!doctype\s+html|<html[\s>])/i.test(text.slice(0, 4_000));
}

/** By content type if it says something, else by the end of the name. */
function namedFormat(path: string, contentType: string | undefined): Format | undefined {
  const type = contentType?.split(';', 1)[0]?.trim().toLowerCase() ?? '';
  const byType = VAGUE_TYPES.has(type) ? undefined : FORMATS.find((format) => format.mediaTypes.includes(type));
  if (byType !== undefined) return byType;
  const extension = extensionOf(path);
  return FORMATS.find((format) => extension !== '' && format.extensions.includes(extension));
}

/** Lower case, with the dot; empty if there is none. Of a URL without its query. */
export function extensionOf(path: string): string {
  return /\.[^./\\?#]+(?=[?#]|$)/.exec(path.replace(/[?#].*$/s, ''))?.[0].toLowerCase() ?? '';
}

/** The kind that a name promises; its bytes may say otherwise. */
export function kindOfName(path: string): DocumentKind | undefined {
  return namedFormat(path, undefined)?.kind;
}
