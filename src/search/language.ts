/** The language of a text, and the text search configuration of Postgres that analyses it. */

export type Language = 'en' | 'none';

export function detectLanguage(_text: string): Language {
  return 'en';
}

/** The name of a text search configuration. */
export function configurationOf(language: Language): string {
  return language === 'en' ? 'english' : 'simple';
}
