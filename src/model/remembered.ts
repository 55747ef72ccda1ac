/** The most results that are kept; more different texts in use are unusual, and a client may send any. */
const MAX_RESULTS = 1024;
const MAX_LENGTH = 256;

/**
 * Makes a pure function of a short text remember its results: most requests repeat the same few field names and paths.
 * Results are kept by all callers, so they must not be changed.
 */
export function remembered<T>(compute: (text: string) => T): (text: string) => T {
  const results = new Map<string, T>();
  return (text) => {
    const known = results.get(text);
    if (known !== undefined) return known;
    const result = compute(text);
    if (text.length > MAX_LENGTH) return result;
    if (results.size >= MAX_RESULTS) results.clear();
    results.set(text, result);
    return result;
  };
}
