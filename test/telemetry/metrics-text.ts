/** Reads Prometheus' text format, as far as ours goes. */

/** Values by `name{label="value",…}`, labels in alphabetical order; `name` where there are none. */
export function seriesOf(text: string): Map<string, number> {
  const series = new Map<string, number>();
  for (const line of text.split('\n')) {
    const match = /^([a-z_]+)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (match === null) continue;
    const [, name = '', labels = '', value = ''] = match;
    const sorted = (labels.match(/\w+="(?:[^"\\]|\\.)*"/g) ?? []).toSorted().join(',');
    series.set(sorted === '' ? name : `${name}{${sorted}}`, Number(value));
  }
  return series;
}

/** The sum of all series of a metric whose labels have all of these. */
export function sumOf(text: string, name: string, labels: Readonly<Record<string, string>> = {}): number {
  const wanted = Object.entries(labels).map(([label, value]) => `${label}="${value}"`);
  let sum = 0;
  for (const [key, value] of seriesOf(text)) {
    const [metric, rest = ''] = key.split('{');
    if (metric === name && wanted.every((label) => rest.includes(label))) sum += value;
  }
  return sum;
}
