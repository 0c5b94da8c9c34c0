import type { OutputStream } from '../../src/cli/terminal.ts';

/** Standard output or error that keeps what is written to it. */
export class Sink implements OutputStream {
  text = '';
  readonly isTTY: boolean;
  readonly columns: number;

  constructor(isTTY: boolean, columns = 60) {
    this.isTTY = isTTY;
    this.columns = columns;
  }

  write(text: string, done?: (error?: Error | null) => void): boolean {
    this.text += text;
    done?.();
    return true;
  }
}
