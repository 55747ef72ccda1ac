import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { createServer, type Server, type TLSSocket } from 'node:tls';
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import { bodyOf, DeliveryRoom } from '../support/delivery-room.js';
import { randomBytes, temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

let directory: TemporaryDirectory;
let cert: string;
let key: string;
let server: Server;
let room: DeliveryRoom;

beforeAll(async () => {
  directory = await temporaryDirectory();
  const files = { cert: join(directory.path, 'cert.pem'), key: join(directory.path, 'key.pem') };
  const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1'];
  const key256 = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  execFileSync('openssl', ['req', '-x509', ...key256, ...subject, '-out', files.cert, '-keyout', files.key], {
    stdio: 'ignore',
  });
  cert = readFileSync(files.cert, 'utf8');
  key = readFileSync(files.key, 'utf8');
});

afterEach(async () => {
  await room.close();
  await new Promise((resolve) => server.close(resolve));
});

afterAll(() => directory.remove());

async function open(play: (socket: TLSSocket) => void, ca: string | undefined): Promise<void> {
  server = createServer({ cert, key }, play);
  server.on('tlsClientError', () => undefined);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  room = await DeliveryRoom.open(`https://127.0.0.1:${port}`, { ca });
}

const LARGE = randomBytes(8 * 1024 * 1024);
const REFUSAL = 'too large '.repeat(200);

test('an origin behind TLS that refuses while we send, and resets the connection, is heard every time', async () => {
  await open((socket) => {
    socket.on('error', () => undefined);
    socket.once('data', () => {
      socket.pause();
      const head = `HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: ${REFUSAL.length}\r\n\r\n`;
      socket.write(head + REFUSAL, () => socket.destroy());
    });
  }, cert);
  for (let count = 0; count < 25; count++) {
    const upload = await room.whole({ body: LARGE });
    const answer = await room.answer(upload.id);
    expect([answer.status, (await bodyOf(answer)).toString()]).toEqual([413, REFUSAL]);
  }
}, 60_000);

test('uploads for other hosts share the connection, whose certificate is the origin’s own', async () => {
  let connections = 0;
  await open((socket) => {
    connections++;
    socket
      .on('error', () => undefined)
      .on('data', (bytes: Buffer) => {
        // Head and body may come one after the other: they get one answer.
        if (bytes.toString().endsWith('hello')) socket.write('HTTP/1.1 204 No Content\r\n\r\n');
      });
  }, cert);
  for (const authority of ['a.example', 'b.example']) {
    const upload = await room.whole({ request: { authority, method: 'PUT' } });
    expect((await room.answer(upload.id)).status).toBe(204);
  }
  expect(connections).toBe(1);
});

test('an origin whose certificate nobody vouches for never gets a byte', async () => {
  let received = 0;
  await open(
    (socket) => socket.on('error', () => undefined).on('data', (bytes: Buffer) => (received += bytes.length)),
    undefined,
  );
  const upload = await room.whole();
  const result = await room.result(upload.id);
  expect(result).toMatchObject({ kind: 'undelivered', why: { reason: 'unreachable' } });
  const { attempts } = await room.upload(upload.id);
  expect(attempts.map(({ reached }) => reached)).toEqual(['never-sent', 'never-sent', 'never-sent']);
  expect(attempts[0]!.problem).toMatch(/certificate/);
  expect(received).toBe(0);
});
