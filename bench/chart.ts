import type { Figure } from './contest.js';
import type { Result } from './results.js';

const WIDTH = 860;
const LABELS = 260;
const VALUES = 150;
const ROW = 20;
const HEADING = 44;

/** The first figure of every contest as bars from zero, with a line from the least to the greatest (SVG). */
export function chart(contests: readonly Pick<Result, 'title' | 'figures' | 'rows'>[]): string {
  const parts: string[] = [];
  let y = 8;
  for (const { title, figures, rows } of contests) {
    const [figure] = figures;
    if (!figure || rows.length === 0) continue;
    parts.push(
      text(
        8,
        y + 26,
        `${title}: ${figure.label}, ${figure.isMoreBetter ? 'more' : 'less'} is better`,
        'font-weight="bold"',
      ),
    );
    y += HEADING;
    const longest = Math.max(...rows.map((row) => row.figures[figure.key]?.max ?? 0));
    for (const row of rows) {
      parts.push(...bar(row, figure, y, (WIDTH - LABELS - VALUES) / (longest || 1)));
      y += ROW;
    }
  }
  const size = `width="${WIDTH}" height="${y + 16}" viewBox="0 0 ${WIDTH} ${y + 16}"`;
  const style = 'font-family="sans-serif" font-size="12" fill="#222"';
  const ground = `<rect width="${WIDTH}" height="${y + 16}" fill="#fff"/>`;
  return `<svg xmlns="http://www.w3.org/2000/svg" ${size} ${style}>\n${[ground, ...parts].join('\n')}\n</svg>\n`;
}

function bar(row: Result['rows'][number], { key, digits }: Figure, y: number, scale: number): string[] {
  const spread = row.figures[key];
  if (!spread) return [text(8, y + 12, `${row.contestant} –`)];
  const x = (value: number): string => (LABELS + Math.max(0, value) * scale).toFixed(1);
  const color = row.contestant.startsWith('rufh-proxy') ? '#2b6cb0' : '#a0aec0';
  const width = (Math.max(0, spread.median) * scale).toFixed(1);
  return [
    text(8, y + 12, row.contestant),
    `<rect x="${LABELS}" y="${y + 2}" width="${width}" height="12" fill="${color}"/>`,
    `<line x1="${x(spread.min)}" x2="${x(spread.max)}" y1="${y + 8}" y2="${y + 8}" stroke="#222"/>`,
    text(WIDTH - VALUES + 8, y + 12, spread.median.toFixed(digits)),
  ];
}

function text(x: number, y: number, content: string, style = ''): string {
  const escaped = content.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  return `<text x="${x}" y="${y}" ${style}>${escaped}</text>`;
}
