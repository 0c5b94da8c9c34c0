import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LANGUAGES, type Language } from '../../src/search/language.ts';
import { segment } from '../../src/search/segment.ts';

/** Apostrophes become those of ASCII, and are not among them. */
const MARK = /(?!\p{ASCII})[\p{P}\p{S}\p{Z}]|\p{Default_Ignorable_Code_Point}/u;

const words = (text: string, language: Language = 'none') => segment(text, language).split(/\s+/).filter(Boolean);

describe('a text is taken apart', () => {
  it.each<[string, Language, string, string[]]>([
    [
      'Chinese into pairs and characters',
      'zh',
      '清洗过滤器。',
      ['清洗', '洗过', '过滤', '滤器', '清', '洗', '过', '滤', '器'],
    ],
    ['Japanese into pairs', 'ja', 'フィルターを', ['フィ', 'ィル', 'ルタ', 'ター', 'ーを']],
    ['half width Kana as full width', 'ja', 'ﾌｨﾙﾀｰ', ['フィ', 'ィル', 'ルタ', 'ター']],
    ['repeated characters', 'ja', '人々は', ['人々', '々は', '人']],
    ['one character alone', 'zh', 'A 水 B', ['a', '水', 'b']],
    ['Korean into pairs, each word by itself', 'ko', '필터를 청소', ['필터', '터를', '청소']],
    ['characters outside the basic plane', 'zh', '𠮷野家', ['𠮷野', '野家', '𠮷', '野', '家']],
    ['a marked sentence: no pair across the mark', 'ja', '水。火', ['水', '火']],
    ['Latin words inside Japanese stay words', 'ja', 'PDFを開く', ['pdf', 'を開', '開く', '開']],
    ['full width letters', 'ja', 'ＰＤＦ１２', ['pdf12']],
    ['Thai by its dictionary', 'th', 'ทำความสะอาด', ['ทำความ', 'สะอาด']],
    ['Thai, whose marked space is one', 'th', 'น้ำ\u200bไฟ', ['น้ำ', 'ไฟ']],
    ['typographic quotes', 'en', '“sieve” ‘filter’ »lid«', ['sieve', "'filter'", 'lid']],
    ['an apostrophe is one, however it is typed', 'fr', 'l’eau', ["l'eau"]],
    ['soft hyphens and joiners', 'de', 'Wasch\u00admaschine\ufeff', ['waschmaschine']],
    ['ligatures and composed letters', 'de', 'ﬁlter U\u0308ber', ['filter', 'über']],
    ['capital letters', 'ru', 'ФИЛЬТР', ['фильтр']],
    ['capital letters of Turkish', 'tr', 'IŞIK İNCE', ['ışık', 'ince']],
    ['dashes, dots and units beyond ASCII', 'en', 'hot—cold…20°C€', ['hot', 'cold', '20', 'c']],
    ['marks of ASCII stay the parser’s', 'en', 'tsconfig.json foo-bar', ['tsconfig.json', 'foo-bar']],
  ])('%s', (_what, language, text, expected) => {
    expect(words(text, language)).toEqual(expected);
  });

  it('any text, without a mark or an invisible character beyond ASCII', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.constantFrom(...LANGUAGES), (text, language) => {
        expect(segment(text, language)).not.toMatch(MARK);
      }),
    );
  });

  it.each([
    ['Japanese', '清掃フィルター'],
    ['Thai', 'ทำความสะอาดตัวกรอง'],
    ['quotes', '“a”'],
    ['combining marks', 'a\u0301\u0323'],
  ])('4 Mi characters of %s, before the test’s time is up', (_what, unit) => {
    const text = unit.repeat(Math.ceil(2 ** 22 / unit.length));
    expect(segment(text, 'none').length).toBeGreaterThan(2 ** 20);
  });
});
