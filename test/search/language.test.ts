import { sql } from 'kysely';
import { describe, expect, it } from 'vitest';
import { configurationOf, detectLanguage, LANGUAGES, type Language } from '../../src/search/language.ts';
import { useDatabase } from '../helpers/fixtures.ts';

const CODE = `\`\`\`ts\n${'const filter = await remove(screen); return filter.size;\n'.repeat(40)}\`\`\`\n`;
const GERMAN = 'Nehmen Sie das Sieb heraus und spülen Sie es unter fließendem Wasser ab.';

describe('the language of', () => {
  it.each<[string, Language]>([
    ['Take the sieve out and rinse it under running water.', 'en'],
    [GERMAN, 'de'],
    ['Retirez le filtre et rincez-le sous l’eau courante.', 'fr'],
    ['Достаньте сетку и промойте её под проточной водой.', 'ru'],
    ['Saque el filtro y lávelo con agua corriente.', 'es'],
    ['Haal de zeef eruit en spoel hem af onder stromend water.', 'nl'],
    ['フィルターを取り外して水で洗ってください。', 'ja'],
    ['请取出过滤网，用清水冲洗干净。', 'zh'],
    ['필터를 꺼내 흐르는 물에 씻으세요.', 'ko'],
    ['ถอดตะแกรงออกแล้วล้างด้วยน้ำสะอาด', 'th'],
    ['ເອົາຕາໜ່າງອອກແລ້ວລ້າງດ້ວຍນ້ຳ', 'lo'],
    ['Kubernetes の Pod を再起動する', 'ja'],
    ['在 Kubernetes 中重启 Pod', 'zh'],
    [`${CODE}\n${GERMAN}`, 'de'],
    [`${GERMAN} https://example.com/${'very-long-english-address-'.repeat(20)}`, 'de'],
    ['', 'none'],
    ['npm ci', 'en'],
    ['Apache License 2.0', 'en'],
    ['Filter reinigen', 'en'],
    ['Фильтр', 'none'],
    ['42 / 17', 'none'],
  ])('%j: %s', async (text, language) => {
    expect(await detectLanguage(text)).toBe(language);
  });

  it('a long document is that of most of it, not that of its preface', async () => {
    expect(
      await detectLanguage(
        `${'This is the German manual of the machine, in its first edition. '.repeat(40)}\n\n${`${GERMAN}\n`.repeat(300)}`,
      ),
    ).toBe('de');
  });

  it('a question is one of those that come into question', async () => {
    expect(await detectLanguage('Sieb reinigen', ['de', 'en'])).toBe('de');
    expect(await detectLanguage('Sieb reinigen', ['ja', 'zh'])).toBe('none');
    expect(await detectLanguage('フィルター', ['de', 'en'])).toBe('none');
  });
});

const file = useDatabase();

it('each has a configuration that Postgres knows', async () => {
  const { rows } = await sql<{ name: string }>`select cfgname as name from pg_ts_config`.execute(file.db);
  const known = rows.map(({ name }) => name);
  expect(LANGUAGES.filter((language) => !known.includes(configurationOf(language)))).toEqual([]);
});

it('the tests’ Postgres takes a word in typographic quotes for the word', async () => {
  const { rows } = await sql<{
    vector: string;
  }>`select to_tsvector('english', '“filters” — 。')::text as vector`.execute(file.db);
  expect(rows).toEqual([{ vector: "'filter':1" }]);
});
