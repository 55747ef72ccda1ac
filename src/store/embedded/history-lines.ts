import { Turns } from '../../concurrency/turns.js';
import { FIRST_KEPT, LAST_KEPT } from '../../model/story.js';

const NEWLINE = 10;
/** `{"tag":"` and ten hex digits. */
const TAG_START = 8;
const TAG_END = 18;

/** A file is rewritten only if this share of it can go. */
const WORTHWHILE = 0.2;

interface Line {
  readonly start: number;
  /** Behind its line break. */
  readonly end: number;
}

/**
 * The lines of a full file without those in the middle of long stories; undefined if that would save little. A line
 * that stands for others says how many.
 */
export async function thinnedLines(bytes: Buffer): Promise<Buffer | undefined> {
  const replaced = new Map<number, string>();
  let dropped = 0;
  for (const [tag, lines] of await linesByTag(bytes)) {
    const between = lines.slice(FIRST_KEPT, Math.max(FIRST_KEPT, lines.length - LAST_KEPT));
    if (between.length < 2) continue;
    for (const { start, end } of between) {
      replaced.set(start, '');
      dropped += end - start;
    }
    const texts = between.map(({ start, end }) => bytes.toString('utf8', start, end));
    replaced.set(between[0]!.start, leftOutLine(tag, texts));
  }
  return dropped < bytes.length * WORTHWHILE ? undefined : withoutLines(bytes, replaced);
}

async function linesByTag(bytes: Buffer): Promise<ReadonlyMap<string, Line[]>> {
  const byTag = new Map<string, Line[]>();
  const turns = new Turns();
  for (let start = 0, end: number; (end = bytes.indexOf(NEWLINE, start) + 1) > 0; start = end) {
    const tag = bytes.toString('latin1', start + TAG_START, Math.min(start + TAG_END, end));
    const known = byTag.get(tag);
    if (known) known.push({ start, end });
    // A line that is empty or torn has no complete tag.
    else if (tag.length === TAG_END - TAG_START) byTag.set(tag, [{ start, end }]);
    if (turns.isOver) await turns.next();
  }
  return byTag;
}

/** One line in place of these. */
function leftOutLine(tag: string, lines: readonly string[]): string {
  const counts = lines.map((line) => Number(/"kind":"left-out","count":(\d+)/.exec(line)?.[1] ?? 1));
  const at = Number(/"at":(\d+)/.exec(lines[0]!)?.[1] ?? 0);
  const count = counts.reduce((sum, each) => sum + each, 0);
  return `${JSON.stringify({ tag, at, kind: 'left-out', count })}\n`;
}

function withoutLines(bytes: Buffer, replaced: ReadonlyMap<number, string>): Buffer {
  const pieces: Buffer[] = [];
  for (let start = 0, end: number; (end = bytes.indexOf(NEWLINE, start) + 1) > 0; start = end) {
    const text = replaced.get(start);
    if (text === undefined) pieces.push(bytes.subarray(start, end));
    else if (text !== '') pieces.push(Buffer.from(text));
  }
  return Buffer.concat(pieces);
}
