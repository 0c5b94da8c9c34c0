/** Source code and logs: their lines, cut where blank lines are. */
import type { Parsed, TextFormat } from '../format.ts';

/** The info string of a fence by extension, where it is another than the extension. */
const LANGUAGES: Readonly<Record<string, string>> = {
  cjs: 'js',
  mjs: 'js',
  cts: 'ts',
  mts: 'ts',
  cc: 'cpp',
  cxx: 'cpp',
  hpp: 'cpp',
  h: 'c',
  kt: 'kotlin',
  py: 'python',
  rb: 'ruby',
  rs: 'rust',
  yml: 'yaml',
  htaccess: 'apache',
};

const EXTENSIONS =
  'js cjs mjs jsx ts cts mts tsx py rb go rs java kt kts swift c h cc cpp cxx hpp cs fs php scala sh bash zsh fish ps1 bat sql lua pl pm r jl dart ex exs erl hs ml clj vue svelte css scss less graphql proto tf hcl gradle groovy toml yaml yml ini cfg conf properties env xml xsd xsl diff patch'
    .split(' ')
    .map((extension) => `.${extension}`);

export const CODE: TextFormat = {
  kind: 'code',
  from: 'text',
  extensions: EXTENSIONS,
  mediaTypes: [
    'text/javascript',
    'application/javascript',
    'text/css',
    'application/xml',
    'text/xml',
    'application/yaml',
    'application/toml',
  ],
  parse: parseCode,
};

export const LOG: TextFormat = {
  kind: 'log',
  from: 'text',
  extensions: ['.log', '.out', '.err'],
  mediaTypes: [],
  parse: (text) => inOne(text, (body, start) => ({ kind: 'lines', text: body, start, end: start + body.length })),
  looksLike: looksLikeLog,
};

function parseCode(text: string, path: string): Parsed {
  const extension = /\.(\w+)$/.exec(path)?.[1]?.toLowerCase() ?? '';
  const fence = LANGUAGES[extension] ?? extension;
  const parsed = inOne(text, (body, start) => ({ kind: 'code', fence, text: body, start, end: start + body.length }));
  // Of code the extension is part of its name.
  return { ...parsed, title: path.split(/[/\\]/).at(-1) || undefined };
}

function inOne(text: string, make: (body: string, start: number) => Parsed['blocks'][number]): Parsed {
  const start = /^(?:[ \t]*\n)*/.exec(text)?.[0].length ?? 0;
  const body = text.slice(start).trimEnd();
  return { title: undefined, text, blocks: body === '' ? [] : [make(body, start)] };
}

/** Most lines begin with a time or a level. */
function looksLikeLog(text: string): boolean {
  const lines = text
    .slice(0, 20_000)
    .split('\n')
    .filter((line) => line.trim() !== '')
    .slice(0, 50);
  const stamped = lines.filter((line) =>
    /^\W{0,3}(?:\d{4}[-/.]\d\d[-/.]\d\d[T ]|\d\d:\d\d:\d\d|\[?\d{1,2}\/\w{3}\/\d{4}|\w{3} +\d{1,2} \d\d:\d\d:\d\d|(?:TRACE|DEBUG|INFO|WARN(?:ING)?|ERROR|FATAL)\b)/.test(
      line,
    ),
  );
  return lines.length >= 4 && stamped.length >= lines.length * 0.6;
}
