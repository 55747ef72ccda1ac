import { createHash } from 'node:crypto';
import type { HeaderLine } from '../model/headers.js';
import type { RequestHead } from '../model/request-head.js';
import { limitKeyOf } from '../server/connection-limits.js';
import type { TrustedProxies } from '../server/trusted-proxies.js';

/** Fields that identify a client where no authorization service does. */
const CREDENTIAL_FIELD = /^(?:authorization|cookie)$/i;

/**
 * A digest of a client's own key, the route and the client, identified by principal, else credentials, else address. The
 * key alone would let anyone who guesses it find other clients' uploads.
 */
export function clientKeyOf(
  key: string,
  { headers, connection }: Pick<RequestHead, 'headers' | 'connection'>,
  route: string,
  principal: string | undefined,
): string {
  const credentials = headers.filter(([name]) => CREDENTIAL_FIELD.test(name)).map(lowerCased);
  const client =
    principal !== undefined
      ? ['principal', principal]
      : credentials.length > 0
        ? ['credentials', credentials]
        : ['address', connection.clientAddress];
  return createHash('sha256')
    .update(JSON.stringify([route, client, key]))
    .digest('base64url');
}

/**
 * A digest of the client by which its uploads are counted: the principal that the authorization service names, or the
 * address. Undefined for a peer that stands for many clients. What a client states itself could be another each time.
 */
export function countedClient(
  { connection: { clientAddress } }: Pick<RequestHead, 'connection'>,
  principal: string | undefined,
  trust: Pick<TrustedProxies, 'trusts'> | undefined,
): string | undefined {
  if (principal !== undefined) return shortDigest(['principal', principal]);
  const address = limitKeyOf(clientAddress);
  return address === undefined || trust?.trusts(clientAddress) ? undefined : shortDigest(['address', address]);
}

function shortDigest(value: readonly string[]): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('base64url').slice(0, 22);
}

function lowerCased([name, value]: HeaderLine): HeaderLine {
  return [name.toLowerCase(), value];
}
