/** Bytes that claim to be text. */

type DecodedText = { text: string } | { problem: string };

/** UTF-8 without its byte order mark; NUL bytes and invalid sequences are problems. */
export function decodeText(bytes: Uint8Array): DecodedText {
  if (bytes.includes(0)) return { problem: 'is binary (it has NUL bytes), not text' };
  try {
    return { text: new TextDecoder('utf-8', { fatal: true }).decode(bytes) };
  } catch {
    return { problem: 'is not valid UTF-8' };
  }
}

/** The words people know for what the file system says. */
export function describeFileError(error: unknown): string {
  switch ((error as NodeJS.ErrnoException).code) {
    case 'ENOENT':
      return 'does not exist';
    case 'EACCES':
    case 'EPERM':
      return 'cannot be read: permission denied';
    case 'EISDIR':
      return 'is a folder';
    case 'ENOTDIR':
      return 'lies below something that is not a folder';
    case 'ELOOP':
      return 'is a symbolic link to itself';
    default:
      return `cannot be read: ${(error as Error).message}`;
  }
}
