import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { expect, test } from '@jest/globals';
import { detectProtocol } from '../../src/server/listener.js';
import { connect } from '../support/raw-client.js';

/** Reads a body in small gulps with pauses in between, and gives the most that was waiting inside meanwhile. */
async function readSlowly(req: IncomingMessage): Promise<number> {
  // As when an upload's record has to be durable before its body is asked for.
  await new Promise((resolve) => setTimeout(resolve, 20));
  let gulped = 0;
  let mostWaiting = 0;
  req.on('data', (bytes: Buffer) => {
    gulped += bytes.length;
    if (gulped < 1024 * 1024) return;
    gulped = 0;
    req.pause();
    setTimeout(() => {
      mostWaiting = Math.max(mostWaiting, req.readableLength);
      req.resume();
    }, 5);
  });
  await new Promise((resolve) => req.once('end', resolve));
  return mostWaiting;
}

test('a body that arrives together with its head is taken no faster than it is read', async () => {
  let mostWaiting = Number.POSITIVE_INFINITY;
  const server = createServer((req, res) => {
    void readSlowly(req).then((most) => {
      mostWaiting = most;
      res.end();
    });
  });
  const [serve] = server.listeners('connection') as ((this: unknown, socket: Socket) => void)[];
  server.removeAllListeners('connection');
  server.on('connection', (socket: Socket) => detectProtocol(socket, 1000, () => serve!.call(server, socket)));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const client = await connect(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  const size = 32 * 1024 * 1024;
  const head = Buffer.from(`POST / HTTP/1.1\r\nHost: x\r\nContent-Length: ${size}\r\n\r\n`);
  await client.send(Buffer.concat([head, Buffer.alloc(size)]));
  await client.readFinal();
  client.destroy();
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  expect(mostWaiting).toBeLessThan(1024 * 1024);
});
