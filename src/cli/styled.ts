/**
 * Styles in a text of any origin. `styled` puts marks around what it styles, and only what prints the
 * line makes escape codes of them. The marks carry a number that nobody outside this process knows:
 * a text that brings escapes or marks of its own loses the first and only looks odd by the second.
 */
import { randomBytes } from 'node:crypto';
import { printableLine } from '../printable.ts';

const SECRET = randomBytes(12).toString('hex');
const MARK = new RegExp(`<${SECRET}:(\\d+)>`);

/** Codes of https://en.wikipedia.org/wiki/ANSI_escape_code#Select_Graphic_Rendition_parameters: on and off. */
const STYLES = {
  bold: [1, 22],
  dim: [2, 22],
  red: [31, 39],
  green: [32, 39],
  yellow: [33, 39],
  cyan: [36, 39],
} as const;

export type Style = keyof typeof STYLES;

export function styled(style: Style, text: string): string {
  const [on, off] = STYLES[style];
  return `<${SECRET}:${on}>${text}<${SECRET}:${off}>`;
}

/** A line to print: escape codes for the marks of `styled`, and no other. */
export function renderLine(text: string): string {
  return text
    .split(MARK)
    .map((piece, i) => (i % 2 === 0 ? printableLine(piece) : `\x1b[${piece}m`))
    .join('');
}
