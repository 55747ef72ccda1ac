import type { IncomingMessage } from 'node:http';
import { fromRawHeaders } from '../model/headers.js';

/**
 * Whether a request to change protocols is one to act on. A server may ignore Upgrade (RFC 9110 §7.8), and should where a body
 * comes with it or HTTP/2 is asked for, which is not begun this way any more (RFC 9113 §3.1): these are ordinary requests.
 */
export function isUpgrade({ headers }: IncomingMessage): boolean {
  const hasBody = headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0;
  const protocols = (headers.upgrade ?? '').split(',').map((protocol) => protocol.trim().toLowerCase());
  return !hasBody && protocols.some((protocol) => protocol !== '' && protocol !== 'h2c');
}

/**
 * The request's head without its wish to change protocols, to be parsed again: Node 20 stops parsing at every Upgrade.
 * Not needed when Node 22 is our oldest, which asks `isUpgrade` first (shouldUpgradeCallback).
 */
export function withoutUpgrade({ method, url, rawHeaders }: IncomingMessage): Buffer {
  const lines = fromRawHeaders(rawHeaders)
    .filter(([name]) => !['upgrade', 'http2-settings'].includes(name.toLowerCase()))
    .map(([name, value]) => `${name}: ${name.toLowerCase() === 'connection' ? connectionOptions(value) : value}\r\n`);
  return Buffer.from(`${method} ${url} HTTP/1.1\r\n${lines.join('')}\r\n`, 'latin1');
}

function connectionOptions(value: string): string {
  const options = value.split(',').map((option) => option.trim());
  return options.filter((option) => !/^(?:upgrade|http2-settings)$/i.test(option)).join(', ');
}
