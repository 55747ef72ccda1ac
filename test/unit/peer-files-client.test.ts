import { type AddressInfo, createServer, type Socket } from 'node:net';
import { Readable } from 'node:stream';
import { expect, test } from '@jest/globals';
import { FileRefused, PeerFilesClient } from '../../src/cluster/peer-files.js';
import { PeerSignature } from '../../src/proxy/peer-auth.js';
import { makeCertificate } from '../support/certificate.js';
import { neverAborted } from '../support/delivery-room.js';
import { startRawOrigin } from '../support/raw-origin.js';
import { within } from '../support/temporary.js';

test('a node that no connection comes to be with is given up long before one that is slow', async () => {
  // Nobody speaks TLS there, as with a machine that says nothing at all.
  const sockets: Socket[] = [];
  const server = createServer((socket) => void sockets.push(socket));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const { cert, key } = makeCertificate();
  const signature = new PeerSignature('a secret of all nodes', 'old', Date.now);
  const files = new PeerFilesClient({ signature, tls: { cert, key, ca: cert }, connectTimeoutMs: 20 });
  const node = { name: 'other', url, silentMs: 0, isLeaving: false };
  const put = files.put(
    node,
    { id: 'a'.repeat(32), name: 'c' },
    5,
    Readable.from([Buffer.from('hello')]),
    neverAborted(),
  );
  await expect(put).rejects.toThrow('no connection in time');
  await expect(put).rejects.toBeInstanceOf(FileRefused);
  files.close();
  for (const socket of sockets) socket.destroy();
  await new Promise((resolve) => server.close(resolve));
});

test('what another node says before it has the whole file is taken at once', async () => {
  const other = await startRawOrigin(async (exchange) => {
    await exchange.respond({ status: 507 });
    await exchange.closed;
  });
  const files = new PeerFilesClient({ signature: new PeerSignature('a secret of all nodes', 'old', Date.now) });
  const node = { name: 'other', url: other.url, silentMs: 0, isLeaving: false };
  const body = Readable.from(Array.from({ length: 64 }, () => Buffer.alloc(1024 * 1024)));
  const put = files.put(node, { id: 'a'.repeat(32), name: 'c' }, 64 * 1024 * 1024, body, neverAborted());
  await expect(within(put, 'the answer')).rejects.toThrow('it answered 507');
  files.close();
  await other.close();
});
