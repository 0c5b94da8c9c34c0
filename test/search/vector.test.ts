import fc from 'fast-check';
import { sql } from 'kysely';
import { expect, it } from 'vitest';
import { parseVector } from '../../src/search/analysis.ts';
import { useDatabase } from '../helpers/fixtures.ts';

const database = useDatabase();

it('reads whatever tsvector Postgres writes', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.stringMatching(/^[a-z'\\ :,0-9äß漢\u{1F600}]{1,20}$/u), { maxLength: 20 }),
      async (lexemes) => {
        const { rows } = await sql<{ vector: string; lexemes: string[]; counts: number[] }>`
          select v::text as vector, coalesce(array_agg(lexeme order by n) filter (where lexeme is not null), '{}') as lexemes,
            coalesce(array_agg(coalesce(cardinality(positions), 0) order by n) filter (where lexeme is not null), '{}') as counts
          from (select setweight(array_to_tsvector(${lexemes.slice(0, 5)}::text[]), 'A') || to_tsvector('simple', ${lexemes.join(' ')}) as v) as x
          left join lateral unnest(v) with ordinality as l (lexeme, positions, weights, n) on true
          group by v`.execute(database.db);
        const row = rows[0];
        const parsed = parseVector(row?.vector ?? '');
        expect(parsed.map(({ lexeme }) => lexeme)).toEqual(row?.lexemes);
        expect(parsed.map(({ positions }) => positions.length)).toEqual(row?.counts);
      },
    ),
    { numRuns: 60 },
  );
});
