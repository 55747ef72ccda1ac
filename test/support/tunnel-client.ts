import type { HeaderLine } from '../../src/model/headers.js';
import { connect, type RawClient } from './raw-client.js';

/** The fields of a request to switch to WebSocket. */
export const WANTED: HeaderLine[] = [
  ['Connection', 'keep-alive, Upgrade'],
  ['Upgrade', 'websocket'],
  ['Sec-WebSocket-Key', 'dGhlIHNhbXBsZSBub25jZQ=='],
  ['sec-websocket-protocol', 'a'],
  ['Sec-WebSocket-Protocol', 'b'],
];

/** Asks to switch; `early` are bytes of the new protocol that do not wait for the answer. */
export async function openTunnel(url: string, early = '', target = '/chat'): Promise<RawClient> {
  const client = await connect(url);
  const lines = [['Host', 'x'] as const, ...WANTED].map(([name, value]) => `${name}: ${value}\r\n`).join('');
  await client.send(`GET ${target} HTTP/1.1\r\n${lines}\r\n${early}`);
  return client;
}

/** The ways a client can leave. */
export const LEAVING: [string, (client: RawClient) => void][] = [
  ['FIN', (client) => client.destroy()],
  ['RST', (client) => client.reset()],
];
