import type { Transport } from './transport.js';

/** Sends requests with `fetch`, which reports no progress. The other members of `init` (credentials, cache …) apply. */
export function fetchTransport(init: RequestInit): Transport<Blob> {
  return ({ url, method, headers, body, signal }) => fetch(url, { ...init, method, headers, body, signal });
}
