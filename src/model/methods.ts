const SAFE: ReadonlySet<string> = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE']);

/** Whether a request with this method changes nothing (RFC 9110 §9.2.1). */
export function isSafe(method: string): boolean {
  return SAFE.has(method);
}

/** Whether repeating a request with this method has no further effect (RFC 9110 §9.2.2). */
export function isIdempotentMethod(method: string): boolean {
  return SAFE.has(method) || method === 'PUT' || method === 'DELETE';
}

/**
 * Methods whose requests have no content, or content without a defined meaning (RFC 9110 §9.3). They never begin an upload,
 * and need no Content-Length to say that they have no content (§8.6).
 */
export const METHODS_WITHOUT_CONTENT: ReadonlySet<string> = new Set([
  'GET',
  'HEAD',
  'DELETE',
  'OPTIONS',
  'TRACE',
  'CONNECT',
]);
