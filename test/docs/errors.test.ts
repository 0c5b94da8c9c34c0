import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { ERROR_CODES } from '../../src/errors.ts';
import { HTTP_STATUS } from '../../src/http/problem.ts';

const page = await readFile(new URL('../../docs/reference/errors.md', import.meta.url), 'utf8');
const rows = page
  .split('\n')
  .filter((line) => /^\| `[A-Z_]+` \|/.test(line))
  .map((line) =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  )
  .map(([code = '', status = '', meaning = '', action = '']) => ({
    code: code.replaceAll('`', ''),
    status,
    meaning,
    action,
  }));

it('docs/reference/errors.md lists every code, in the order of the source, and no other', () => {
  expect(rows.map((row) => row.code)).toEqual(Object.keys(ERROR_CODES));
});

it('docs/reference/errors.md gives each code the meaning of the source, its HTTP status and what to do', () => {
  for (const { code, status, meaning, action } of rows) {
    expect({ code, meaning }).toEqual({ code, meaning: ERROR_CODES[code as keyof typeof ERROR_CODES] });
    expect({ code, status }).toEqual({ code, status: String(HTTP_STATUS[code as keyof typeof HTTP_STATUS] ?? '') });
    expect(action.length, code).toBeGreaterThan(10);
  }
});
