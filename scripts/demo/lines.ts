/**
 * Splits a text that comes in pieces into its lines, which end with LF, CRLF or CR. It looks at
 * each character once, however long a line is and however the network cuts it.
 */
export class Lines {
  /** The beginning of a line that has not ended. */
  #begun: string[] = [];
  /** The last piece ended with a CR: an LF at the start of the next one belongs to it. */
  #afterCr = false;

  /** @returns the lines that end in this piece */
  push(piece: string): string[] {
    const lines: string[] = [];
    if (piece === '') return lines;
    let from = this.#afterCr && piece[0] === '\n' ? 1 : 0;
    this.#afterCr = piece.at(-1) === '\r';
    const lineEnd = /\r\n|\r|\n/g;
    lineEnd.lastIndex = from;
    for (let end = lineEnd.exec(piece); end !== null; end = lineEnd.exec(piece)) {
      this.#begun.push(piece.slice(from, end.index));
      lines.push(this.#begun.join(''));
      this.#begun = [];
      from = lineEnd.lastIndex;
    }
    if (from < piece.length) this.#begun.push(piece.slice(from));
    return lines;
  }
}
