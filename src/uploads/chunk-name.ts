/**
 * Names carry the lease's token, so that no two writers ever share a file. Those of bodies that must be whole are told
 * apart: after a crash nobody knows whether they were, and recovery must not count them.
 */
export function chunkName(token: number, mustBeWhole: boolean): string {
  return `${mustBeWhole ? 'whole' : 'chunk'}-${token}`;
}

/** What the name of a chunk says; undefined for other files, such as a kept answer. */
export function chunkToken(name: string): { readonly token: number; readonly mustBeWhole: boolean } | undefined {
  const [, kind, digits] = /^(chunk|whole)-(\d+)$/.exec(name) ?? [];
  return digits === undefined ? undefined : { token: Number(digits), mustBeWhole: kind === 'whole' };
}
