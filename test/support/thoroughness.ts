/**
 * `npm test` runs a short part of each campaign and long table, always the same one; `npm run test:long` runs all of it, with
 * a seed that changes every day.
 */
const isLong = process.env['TEST_LONG'] !== undefined;

/** Replays a run of a campaign: each prints its seed. */
export const seed = Number(process.env['CHAOS_SEED'] ?? 1);

/** How many rounds a campaign has; `CHAOS_ROUNDS` overrides both. */
export function rounds(short: number, long: number): number {
  return Number(process.env['CHAOS_ROUNDS'] ?? (isLong ? long : short));
}

/** One of so many in the short run, evenly spread; every one in the long run. */
export function everyNth(n: number): number {
  return isLong ? 1 : n;
}

/** Every n-th of a table in the short run, all of it in the long run. */
export function part<T>(table: readonly T[], n: number): readonly T[] {
  return table.filter((_, index) => index % everyNth(n) === 0);
}

/** These rows of a table in the short run, all of it in the long run. */
export function only<T>(table: readonly T[], isInShort: (row: T) => boolean): readonly T[] {
  return isLong ? table : table.filter(isInShort);
}

/** The parameters of a property of fast-check: so many cases in the short run, always the same ones, and ten times as many in the long run. */
export function cases(count: number): { readonly seed: number; readonly numRuns: number } {
  return { seed, numRuns: rounds(count, 10 * count) };
}
