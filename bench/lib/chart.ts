/** Grouped bars with their spread, as SVG. */
import { formatNumber } from './table.ts';

export interface Chart {
  title: string;
  subtitle: string;
  /** Names of the groups, along the bottom. */
  groups: readonly string[];
  /** One bar a group; undefined leaves its place empty. */
  series: readonly { name: string; values: readonly (Bar | undefined)[] }[];
  /** What a value is, along the side. */
  unit: string;
}

export interface Bar {
  value: number;
  min: number;
  max: number;
}

const WIDTH = 960;
const HEIGHT = 480;
const LEFT = 70;
const RIGHT = 16;
const TOP = 116;
const BOTTOM = 56;
const LEGEND_TOP = 54;
const LEGEND_LINE = 18;
/** Of the fonts named below at 12 px, on average and then some. */
const CHARACTER_WIDTH = 6.7;

/** Told apart by eyes of every kind, and by printers (Okabe and Ito). */
const COLOURS = ['#6b7280', '#e69f00', '#0072b2', '#cc79a7', '#009e73', '#d55e00', '#56b4e9'];

/** Dark text on white, whatever the page around it looks like. */
export function toSvg(chart: Chart): string {
  const top = niceCeiling(Math.max(...chart.series.flatMap(({ values }) => values.map((bar) => bar?.max ?? 0))));
  const plotHeight = HEIGHT - TOP - BOTTOM;
  const y = (value: number) => TOP + plotHeight * (1 - value / top);
  const groupWidth = (WIDTH - LEFT - RIGHT) / chart.groups.length;
  const barWidth = Math.min(56, (groupWidth * 0.86) / chart.series.length);
  const parts: string[] = [];
  /** Over everything else. */
  const labels: string[] = [];

  for (let i = 0; i <= 4; i++) {
    const value = (top * i) / 4;
    parts.push(line(LEFT, y(value), WIDTH - RIGHT, y(value), i === 0 ? '#374151' : '#e5e7eb'));
    parts.push(text(LEFT - 8, y(value) + 4, formatNumber(value), { anchor: 'end', size: 12, colour: '#4b5563' }));
  }
  parts.push(text(14, TOP - 12, chart.unit, { size: 12, colour: '#4b5563' }));

  for (const [g, group] of chart.groups.entries()) {
    const middle = LEFT + groupWidth * (g + 0.5);
    const first = middle - (barWidth * chart.series.length) / 2;
    parts.push(text(middle, HEIGHT - BOTTOM + 22, group, { anchor: 'middle', size: 13, colour: '#111827' }));
    for (const [s, series] of chart.series.entries()) {
      const bar = series.values[g];
      if (bar === undefined) continue;
      const x = first + barWidth * s;
      const centre = x + barWidth / 2;
      const title = `${series.name}, ${group}: ${formatNumber(bar.value)} (${formatNumber(bar.min)} to ${formatNumber(bar.max)})`;
      parts.push(
        `<rect x="${fix(x + 1)}" y="${fix(y(bar.value))}" width="${fix(barWidth - 2)}" height="${fix(y(0) - y(bar.value))}" fill="${colour(s)}"><title>${escapeXml(title)}</title></rect>`,
      );
      if (bar.max > bar.min) parts.push(line(centre, y(bar.min), centre, y(bar.max), '#111827'));
      labels.push(
        text(centre, y(bar.value) - 5, short(bar.value), {
          anchor: 'middle',
          size: 10,
          colour: '#111827',
          halo: true,
        }),
      );
    }
  }

  let x = LEFT;
  let row = 0;
  for (const [s, { name }] of chart.series.entries()) {
    const width = 16 + name.length * CHARACTER_WIDTH + 20;
    if (x > LEFT && x + width > WIDTH) [x, row] = [LEFT, row + 1];
    const top = LEGEND_TOP + row * LEGEND_LINE;
    parts.push(`<rect x="${fix(x)}" y="${fix(top)}" width="11" height="11" fill="${colour(s)}"/>`);
    parts.push(text(x + 16, top + 10, name, { size: 12, colour: '#111827' }));
    x += width;
  }

  return `${[
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" height="${HEIGHT}" role="img" aria-label="${escapeXml(chart.title)}" font-family="system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', sans-serif">`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="#ffffff"/>`,
    text(14, 24, chart.title, { size: 17, colour: '#111827', weight: 600 }),
    text(14, 43, chart.subtitle, { size: 12, colour: '#4b5563' }),
    ...parts,
    ...labels,
    '</svg>',
  ].join('\n')}\n`;
}

function line(x1: number, y1: number, x2: number, y2: number, stroke: string): string {
  return `<line x1="${fix(x1)}" y1="${fix(y1)}" x2="${fix(x2)}" y2="${fix(y2)}" stroke="${stroke}"/>`;
}

function text(
  x: number,
  y: number,
  content: string,
  style: { size: number; colour: string; anchor?: 'middle' | 'end'; weight?: number; halo?: true },
): string {
  const anchor = style.anchor === undefined ? '' : ` text-anchor="${style.anchor}"`;
  const weight = style.weight === undefined ? '' : ` font-weight="${style.weight}"`;
  const halo = style.halo === undefined ? '' : ' stroke="#ffffff" stroke-width="3" paint-order="stroke"';
  return `<text x="${fix(x)}" y="${fix(y)}" font-size="${style.size}" fill="${style.colour}"${anchor}${weight}${halo}>${escapeXml(content)}</text>`;
}

function colour(place: number): string {
  return COLOURS[place % COLOURS.length] as string;
}

/** 12.3k: what fits over a bar. */
function short(value: number): string {
  return value >= 1_000 ? `${Number((value / 1_000).toPrecision(3))}k` : formatNumber(value);
}

/** The next 1, 2, 4 or 8 times a power of ten: its quarters are round. */
function niceCeiling(value: number): number {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return ([1, 1.2, 1.6, 2, 4, 6, 8].find((step) => step * power >= value) ?? 10) * power;
}

function fix(value: number): string {
  return String(Math.round(value * 10) / 10);
}

function escapeXml(content: string): string {
  return content.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
}
