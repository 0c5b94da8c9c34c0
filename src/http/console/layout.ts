/** What every page of the console has around it. */
import { assetPath } from './assets.ts';
import { type Html, html } from './html.ts';
import type { Viewer } from './session.ts';

interface PageOptions {
  title: string;
  viewer: Viewer | undefined;
  /** Bull Board is served, and to this person. */
  board?: boolean;
  here?: 'jobs' | 'fleet' | 'playground';
  main: Html;
}

export function page({ title, viewer, board = false, here, main }: PageOptions): Html {
  const link = (path: string, text: string, name: string) =>
    html`<a href="${path}"${here === name ? html` aria-current="page"` : ''}>${text}</a>`;
  const nav =
    viewer === undefined
      ? ''
      : html`<nav aria-label="Pages">
${link('/', 'Jobs', 'jobs')} ${link('/fleet', 'Fleet', 'fleet')} ${link('/playground', 'Playground', 'playground')}
${board && html`<a href="/admin/queues">Bull Board</a>`}
</nav>
<div class="who"><span>${viewer.name}${viewer.tenant === null ? '' : html` · ${viewer.tenant}`}</span>
${viewer.sessionId !== null && html`<form method="post" action="/logout"><button class="plain">Log out</button></form>`}</div>`;
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${title} · Oncefleet</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="${assetPath('style.css')}">
<script defer src="${assetPath('console.js')}"></script>
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header><a class="brand" href="/">Oncefleet</a>${nav}</header>
<main id="main" tabindex="-1">
${main}
</main>
</body>
</html>`;
}

/** A time as people read it; the script shows it in the zone of the reader, with its age. */
export function time(value: string | Date | null | undefined): Html {
  if (value === null || value === undefined) return html`<span class="none">none</span>`;
  const iso = value instanceof Date ? value.toISOString() : value;
  return html`<time datetime="${iso}">${iso.slice(0, 19).replace('T', ' ')} UTC</time>`;
}

export function status(value: string): Html {
  return html`<span class="status ${value}">${value}</span>`;
}

export function duration(from: string | null, to: string | null): string {
  if (from === null || to === null) return '';
  return formatMs(Date.parse(to) - Date.parse(from));
}

export function formatMs(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1_000).toFixed(1)} s`;
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1_000)} s`;
  return `${Math.floor(ms / 3_600_000)} h ${Math.round((ms % 3_600_000) / 60_000)} min`;
}

/** Pairs of a label and a value, without those that have none. */
export function facts(pairs: readonly (readonly [string, Html | string | number | null | undefined | false])[]): Html {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== false && value !== '');
  return html`<dl class="facts">${shown.map(([label, value]) => html`<div><dt>${label}</dt><dd>${value}</dd></div>`)}</dl>`;
}

/** A table that scrolls by itself where the page is narrow. */
export function table(caption: string, headings: readonly string[], rows: readonly Html[]): Html {
  return html`<div class="scroll" role="region" aria-label="${caption}" tabindex="0"><table>
<caption>${caption}</caption>
<thead><tr>${headings.map((heading) => html`<th scope="col">${heading}</th>`)}</tr></thead>
<tbody>${rows}</tbody>
</table></div>`;
}
