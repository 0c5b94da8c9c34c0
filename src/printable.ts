/**
 * Which characters of a text from outside are printed. A control character could move the cursor,
 * retitle the window or forge lines; one that turns the direction of writing, or that nobody sees,
 * could show a text as another.
 */

/**
 * C0, DEL and C1 controls, save tab and line end; bidirectional controls; whatever Unicode says is
 * ignored in print (zero-width spaces, soft hyphens, fillers, tags), save joiners and variation
 * selectors, without which Persian, Indic scripts and emoji are not what was written.
 */
const HIDDEN =
  /[[\p{Cc}\p{Bidi_Control}\p{Default_Ignorable_Code_Point}\ufff9-\ufffb]--[\t\n\u200c\u200d\ufe00-\ufe0f]]/gv;

/** The same, lone halves of surrogate pairs and what some terminals take for a line end. JSON's own blanks stay. */
const HIDDEN_IN_JSON =
  /[[\p{Cc}\p{Bidi_Control}\p{Default_Ignorable_Code_Point}\ufff9-\ufffb\p{Cs}\u2028\u2029]--[\t\n\r\u200c\u200d\ufe00-\ufe0f]]/gv;

/** A text of several lines without hidden characters. Tabs and line ends stay; half a surrogate pair becomes U+FFFD. */
export function printable(text: string): string {
  return text
    .replace(HIDDEN, '')
    .replace(/[\u2028\u2029]/g, '\n')
    .toWellFormed();
}

/** The same as one line: tabs and line ends become a space. */
export function printableLine(text: string): string {
  return printable(text).replace(/[\t\n]+/g, ' ');
}

/** JSON that says the same with escapes in the place of hidden characters. */
export function printableJson(json: string): string {
  return json.replace(HIDDEN_IN_JSON, (character) =>
    Array.from({ length: character.length }, (_, i) => `\\u${hex(character.charCodeAt(i))}`).join(''),
  );
}

function hex(unit: number): string {
  return unit.toString(16).padStart(4, '0');
}
