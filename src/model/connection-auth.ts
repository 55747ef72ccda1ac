import type { Headers } from './headers.js';

/** Fields in which one side asks for a login, and those in which the other answers. */
const CONNECTION_CREDENTIALS = new Set(['authorization', 'proxy-authorization']);
const CHALLENGES = new Set(['www-authenticate', 'proxy-authenticate']);

/**
 * These fields belong to a login by NTLM or Negotiate. Servers take it for the login of the whole connection, against
 * RFC 9110 §11.1: the next request on it is served as that user's, whoever sent it.
 */
export function authenticatesConnection(headers: Headers): boolean {
  return headers.some(([name, value]) => {
    const key = name.toLowerCase();
    if (CONNECTION_CREDENTIALS.has(key)) return /^\s*(?:NTLM|Negotiate)(?:\s|$)/i.test(value);
    return CHALLENGES.has(key) && /(?:^|,)\s*(?:NTLM|Negotiate)(?:[\s,]|$)/i.test(value);
  });
}
