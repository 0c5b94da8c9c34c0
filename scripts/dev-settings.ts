/** The file in which `npm run dev` leaves its settings for other terminals. */

/**
 * Lines that a POSIX shell, Node's `--env-file` and the command line read alike. None of the
 * three agree on how an apostrophe within quotes is written, so it is percent-encoded: it can
 * only be in a URL.
 */
export function formatSettings(settings: Readonly<Record<string, string>>): string {
  return Object.entries(settings)
    .map(([name, value]) => `${name}='${value.replaceAll("'", '%27')}'\n`)
    .join('');
}
