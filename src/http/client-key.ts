import { createHash } from 'node:crypto';
import { fieldValue, type HeaderLine } from '../model/headers.js';
import type { RequestHead } from '../model/request-head.js';

/** Fields by which clients say who they are where nobody else says it. */
const CREDENTIALS = /^(?:authorization|cookie)$/i;

/**
 * The client's own `Idempotency-Key`, made one with the route and the client: by its principal, else by its credentials, else
 * by its address. The key alone would let anybody who guesses it find out about other clients' uploads. Undefined when the
 * request has none.
 */
export function clientKeyOf(
  { headers, connection }: Pick<RequestHead, 'headers' | 'connection'>,
  route: string,
  principal: string | undefined,
): string | undefined {
  const key = fieldValue(headers, 'idempotency-key')?.trim();
  if (key === undefined || key === '') return undefined;
  const credentials = headers.filter(([name]) => CREDENTIALS.test(name)).map(lowerCased);
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

function lowerCased([name, value]: HeaderLine): HeaderLine {
  return [name.toLowerCase(), value];
}
