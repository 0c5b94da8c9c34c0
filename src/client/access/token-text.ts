/** The texts of tokens and sessions. They begin with what they are, so that scanners for leaked secrets find them. */
import { createHash, randomBytes } from 'node:crypto';
import type { TokenKind } from '../../db/api-tokens.ts';

const PREFIXES: Readonly<Record<TokenKind, string>> = { token: 'ofl_', session: 'ofs_' };
const SECRET_BYTES = 32;
/** 43 characters of base64url, then 6 hexadecimal ones that check them. */
const TEXT = /^[A-Za-z0-9_-]{43}[0-9a-f]{6}$/;

export function makeTokenText(kind: TokenKind): string {
  const body = `${PREFIXES[kind]}${randomBytes(SECRET_BYTES).toString('base64url')}`;
  return `${body}${checkOf(body)}`;
}

/** Whether it can be one of that kind. What is cut off or mistyped costs no look at Postgres. */
export function isTokenText(kind: TokenKind, text: string): boolean {
  const prefix = PREFIXES[kind];
  if (!text.startsWith(prefix) || !TEXT.test(text.slice(prefix.length))) return false;
  return checkOf(text.slice(0, -6)) === text.slice(-6);
}

/** A fast hash is enough for 256 random bits: nobody tries them all. */
export function hashToken(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}

function checkOf(body: string): string {
  return createHash('sha256').update(`check ${body}`).digest('hex').slice(0, 6);
}
