import type { Language } from './language.ts';

/** The text as `to_tsvector` takes it apart into words. */
export function segment(text: string, _language: Language): string {
  return text;
}
