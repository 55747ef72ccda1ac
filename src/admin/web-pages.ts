import { isIP } from 'node:net';
import type { AdminRequest } from './admin-answer.js';

const SAFE_METHODS = new Set(['GET', 'HEAD']);

/**
 * Why a request may not touch uploads: web pages in an operator's browser can reach this listener too, though nobody
 * meant them to. Undefined when it does not come from one.
 *
 * Browsers send `Origin` with everything that is not safe, across sites and within one. A page whose own name was made
 * to point at a loopback address (DNS rebinding) can also read; it is known by that name in `Host`.
 */
export function refusedAsWebPage({ method, headers, localAddress }: AdminRequest): string | undefined {
  if (!SAFE_METHODS.has(method) && headers['origin'] !== undefined)
    return 'Web pages may not change uploads; use rufh-proxy uploads, or a client that sends no Origin.';
  if (localAddress !== undefined && isLoopback(localAddress) && !namesThisMachine(String(headers['host'] ?? '')))
    return 'On a loopback address this listener goes by localhost or an IP address only, not by the name in Host.';
  return undefined;
}

function isLoopback(address: string): boolean {
  return address === '::1' || /^(?:::ffff:)?127\./.test(address);
}

function namesThisMachine(authority: string): boolean {
  const host = authority.replace(/:\d*$/, '').replace(/^\[(.*)\]$/, '$1');
  return host === '' || isIP(host) !== 0 || host === 'localhost';
}
