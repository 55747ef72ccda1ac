import { readFileSync } from 'node:fs';

/** The blocks of code that a page shows in one language, in order. */
export function blocksOf(page: string, language: string): string[] {
  const fence = new RegExp('```' + language + '\\n([\\s\\S]*?)```', 'g');
  return [...readFileSync(page, 'utf8').matchAll(fence)].map(([, block]) => block!);
}

/** The only one of these blocks that contains this text. */
export function blockOf(page: string, language: string, text: string): string {
  const found = blocksOf(page, language).filter((block) => block.includes(text));
  if (found.length !== 1) throw new Error(`${page} shows ${found.length} blocks in ${language} with "${text}"`);
  return found[0]!;
}
