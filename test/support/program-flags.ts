import type { ConfigSources } from '../../src/config/load.js';

/** The command line of a program that takes the flags of `serve`, as `serve` takes them: without any variables. */
export function sourcesOf(line: readonly string[]): ConfigSources {
  const flags: Record<string, string> = {};
  for (let at = 0; at < line.length; at += 2) {
    const name = line[at]!.slice(2).replace(/-(.)/g, (_, letter: string) => letter.toUpperCase());
    flags[name] = line[at + 1]!;
  }
  const { config: file, ...others } = flags;
  return { env: {}, flags: others, ...(file !== undefined && { file }) };
}
