/** Bytes as text: by byte order mark, then as UTF-8, then by what the document declares, then by what its bytes look like. */
import { DocumentError } from '../../../errors.ts';
import { loadPackage } from './packages.ts';

interface Decoded {
  text: string;
  /** As `TextDecoder` names it. */
  encoding: string;
}

const DECLARATIONS: readonly RegExp[] = [
  /^\s*<\?xml[^>]{0,200}?\bencoding\s*=\s*["']([\w.:-]{1,40})/i,
  /<meta[^>]{0,500}?\bcharset\s*=\s*["']?\s*([\w.:-]{1,40})/i,
  /^(?:[^\n]*\n)?[ \t]*(?:#|\/\/|\/\*|--|;|%|"|\.\.|<!--)[^\n]{0,200}?\b(?:file)?(?:en)?coding[:=][ \t]*([\w.:-]{1,40})/i,
];
/** As far as a declaration may be from the start, in bytes. */
const MAX_DECLARATION_OFFSET = 4_096;
/** What is looked at to guess an encoding, in bytes. */
const MAX_GUESSED = 256 * 1024;
/** What controls other than tabs, line ends, form feeds and escapes may take of a text; of more it is binary. */
const MAX_CONTROLS = 0.01;
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it counts.
const CONTROLS = /[\u0000-\u0008\u000e-\u001a\u001c-\u001f]/g;

/**
 * @param declared the charset that came with the document, as HTTP sends it
 * @throws DocumentError DOCUMENT_KIND_UNSUPPORTED it is binary
 */
export async function decodeText(bytes: Uint8Array, declared?: string): Promise<Decoded> {
  const decoded =
    byMark(bytes) ?? asUtf8(bytes) ?? byDeclaration(bytes, declared) ?? byNuls(bytes) ?? (await byLooks(bytes));
  const sample = decoded.text.slice(0, MAX_GUESSED);
  const controls = sample.match(CONTROLS)?.length ?? 0;
  if (sample.includes('\0') || controls > sample.length * MAX_CONTROLS)
    throw new DocumentError('DOCUMENT_KIND_UNSUPPORTED', 'is binary and of no kind that is read');
  return { text: decoded.text.replaceAll('\0', '').toWellFormed(), encoding: decoded.encoding };
}

function byMark(bytes: Uint8Array): Decoded | undefined {
  const [a, b, c] = bytes;
  if (a === 0xef && b === 0xbb && c === 0xbf) return decode(bytes, 'utf-8');
  if (a === 0xff && b === 0xfe) return decode(bytes, 'utf-16le');
  if (a === 0xfe && b === 0xff) return decode(bytes, 'utf-16be');
  return undefined;
}

/** Valid UTF-8 is nothing else, whatever it declares, but ISO-2022-JP, which is ASCII with escapes. A last character may be cut off. */
function asUtf8(bytes: Uint8Array): Decoded | undefined {
  if (bytes.includes(0) || hasShift(bytes)) return undefined;
  for (let cut = 0; cut <= 3 && cut <= bytes.length; cut++) {
    const decoded = decodeFatal(bytes.subarray(0, bytes.length - cut), 'utf-8');
    if (cut === 0 && decoded !== undefined) return decoded;
    // With nothing but ASCII before it, what looks cut off may be the last letter of any encoding.
    if (decoded !== undefined && /\P{ASCII}/u.test(decoded.text)) return { ...decoded, text: `${decoded.text}\ufffd` };
    // Only the bytes of one character may be missing, and that one has to begin there.
    if ((bytes.at(-1 - cut) ?? 0) < 0x80) return undefined;
  }
  return undefined;
}

/** ESC $ B and the like: ISO-2022-JP. */
function hasShift(bytes: Uint8Array): boolean {
  for (let at = bytes.indexOf(0x1b); at !== -1; at = bytes.indexOf(0x1b, at + 1)) {
    const [first, second] = [bytes[at + 1], bytes[at + 2]];
    if (first === 0x24 && (second === 0x42 || second === 0x40)) return true;
  }
  return false;
}

function byDeclaration(bytes: Uint8Array, declared: string | undefined): Decoded | undefined {
  const head = new TextDecoder('latin1').decode(bytes.subarray(0, MAX_DECLARATION_OFFSET));
  const names = [declared, ...DECLARATIONS.map((pattern) => pattern.exec(head)?.[1])];
  for (const name of names) {
    // A declaration that is read as ASCII cannot be one of UTF-16.
    if (name === undefined || (name !== declared && /^utf-?16/i.test(name))) continue;
    const decoded = decodeFatal(bytes, name);
    if (decoded !== undefined) return decoded;
  }
  return undefined;
}

/** UTF-16 without a mark: text of most languages has a NUL in every other byte. */
function byNuls(bytes: Uint8Array): Decoded | undefined {
  const sample = bytes.subarray(0, 4_096);
  let [even, odd] = [0, 0];
  for (let at = 0; at < sample.length; at++) if (sample[at] === 0) at % 2 === 0 ? even++ : odd++;
  const half = sample.length / 2;
  if (odd > half * 0.4 && even < half * 0.02) return decodeFatal(bytes, 'utf-16le');
  if (even > half * 0.4 && odd < half * 0.02) return decodeFatal(bytes, 'utf-16be');
  return undefined;
}

async function byLooks(bytes: Uint8Array): Promise<Decoded> {
  const { analyse } = await loadPackage('chardet', () => import('chardet'));
  const sample = bytes.subarray(0, MAX_GUESSED);
  const guesses = analyse(sample).filter(({ confidence }) => confidence >= 10);
  for (const { name } of guesses) {
    // Some damage in UTF-8 is better than all of it in another encoding.
    const decoded = name === 'UTF-8' ? decode(bytes, 'utf-8') : decodeFatal(bytes, name);
    if (decoded !== undefined && !/^utf-?(?:16|32)/i.test(name)) return decoded;
  }
  // What browsers take for text of which nothing is known; it decodes anything.
  return decode(bytes, 'windows-1252');
}

function decodeFatal(bytes: Uint8Array, name: string): Decoded | undefined {
  try {
    return decode(bytes, name, true);
  } catch {
    return undefined;
  }
}

/** @throws RangeError no such encoding; TypeError fatal, and the bytes are not of it */
function decode(bytes: Uint8Array, name: string, fatal = false): Decoded {
  const decoder = new TextDecoder(name, { fatal });
  return { text: decoder.decode(bytes), encoding: decoder.encoding };
}
