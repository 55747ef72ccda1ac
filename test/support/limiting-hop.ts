import { createServer, type IncomingMessage, request as sendRequest, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** A reverse proxy that refuses larger bodies with 413, as many do in front of others. */
export interface LimitingHop {
  readonly url: string;
  /** The `Content-Length` of every body it was sent. */
  readonly sizes: readonly number[];
  close(): Promise<void>;
}

export async function startLimitingHop(target: string, largest: number): Promise<LimitingHop> {
  const sizes: number[] = [];
  const server = createServer((incoming, outgoing) => {
    const size = Number(incoming.headers['content-length'] ?? 0);
    if (size > 0) sizes.push(size);
    if (size <= largest) pass(target, incoming, outgoing);
    else refuse(incoming, outgoing);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const close = (): Promise<void> => {
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    server.closeAllConnections();
    return closed;
  };
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, sizes, close };
}

/** It reads the body to its end, so that its refusal is never lost. */
function refuse(incoming: IncomingMessage, outgoing: ServerResponse): void {
  incoming.resume().once('end', () => outgoing.writeHead(413, { 'Content-Type': 'text/html' }).end('too large'));
}

function pass(target: string, incoming: IncomingMessage, outgoing: ServerResponse): void {
  const { method, headers } = incoming;
  const request = sendRequest(new URL(incoming.url!, target), { method, headers }, (response) => {
    outgoing.writeHead(response.statusCode!, response.rawHeaders);
    response.pipe(outgoing);
  });
  request.once('error', () => outgoing.destroy());
  incoming.pipe(request);
}
