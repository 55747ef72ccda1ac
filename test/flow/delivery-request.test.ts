import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { bodyOf, DeliveryRoom, type RoomOptions } from '../support/delivery-room.js';
import { startRawOrigin, type RawOrigin } from '../support/raw-origin.js';
import { randomBytes, sha256, until } from '../support/temporary.js';

let origin: RawOrigin;
let room: DeliveryRoom;

beforeEach(async () => {
  origin = await startRawOrigin();
});

afterEach(async () => {
  await room.close();
  await origin.close();
});

async function open(options: RoomOptions = {}): Promise<void> {
  room = await DeliveryRoom.open(origin.url, options);
}

test('the origin gets one ordinary request: fields in their order and case, exact length, nothing of the upload', async () => {
  await open();
  const upload = await room.whole({
    body: 'hello world',
    cutAt: [1, 6],
    request: {
      target: '/api/files?name=a%20b&x=1',
      headers: [
        ['Host', 'files.example'],
        ['X-First', '1'],
        ['upload-complete', '?0'],
        ['Upload-Draft-Interop-Version', '6'],
        ['Content-Type', 'image/png'],
        ['content-length', '3'],
        ['x-twice', 'a'],
        ['Connection', 'keep-alive, X-Hop'],
        ['X-Hop', 'one connection only'],
        ['X-TWICE', 'b'],
        ['Expect', '100-continue'],
        ['Authorization', 'Bearer stored'],
        ['Content-Encoding', 'gzip'],
        ['Repr-Digest', 'sha-256=:abc=:'],
        ['Content-Digest', 'sha-256=:def=:'],
      ],
    },
  });
  await room.answer(upload.id);
  const { headText, body } = origin.exchanges[0]!;
  expect(headText).toBe(
    [
      'POST /api/files?name=a%20b&x=1 HTTP/1.1',
      'host: files.example',
      'connection: keep-alive',
      'X-First: 1',
      'Content-Type: image/png',
      'x-twice: a',
      'X-TWICE: b',
      'Authorization: Bearer stored',
      'Content-Encoding: gzip',
      'Repr-Digest: sha-256=:abc=:',
      'Forwarded: for=192.0.2.7;host=files.example;proto=http',
      'X-Forwarded-For: 192.0.2.7',
      'X-Forwarded-Host: files.example',
      'X-Forwarded-Proto: http',
      'Via: 1.1 rufh-proxy',
      `Idempotency-Key: ${upload.deliveryKey}`,
      'content-length: 11',
      '',
      '',
    ].join('\r\n'),
  );
  expect((await body.readAll()).toString()).toBe('hello world');
  expect(origin.connections[0]!.receivedSize).toBe(headText.length + 11);
});

test('the bytes arrive in order and unchanged however many chunks they are in', async () => {
  await open();
  const bytes = randomBytes(3_500_000);
  const upload = await room.whole({ body: bytes, cutAt: [1, 65_536, 65_537, 2_000_000] });
  await room.answer(upload.id);
  expect(sha256(await origin.exchanges[0]!.readBody())).toBe(sha256(bytes));
});

test.each(['POST', 'PUT', 'PATCH'])('an empty upload is a %s with Content-Length: 0', async (method) => {
  await open();
  const upload = await room.whole({ body: '', request: { method } });
  expect((await room.answer(upload.id)).status).toBe(200);
  expect(origin.exchanges[0]!.header('content-length')).toBe('0');
});

test('credentials of the completing request take the place of the stored ones, each by itself', async () => {
  await open();
  const upload = await room.whole({
    request: {
      headers: [
        ['authorization', 'Bearer old'],
        ['Cookie', 'session=old'],
        ['X-Last', '1'],
      ],
    },
  });
  await room.result(upload.id, {
    credentials: [
      ['Authorization', 'Bearer new'],
      ['X-Other', 'not a credential'],
    ],
  });
  const names = origin.exchanges[0]!.headerLines.map(([name, value]) => `${name}: ${value}`);
  expect(names.slice(2, 5)).toEqual(['Authorization: Bearer new', 'Cookie: session=old', 'X-Last: 1']);
  expect(origin.exchanges[0]!.header('x-other')).toBeUndefined();
});

test('the base path of the origin stands before the target, and its own host is sent where the route wants that', async () => {
  await open({ basePath: '/base/path', rules: { preserveHost: false } });
  const upload = await room.whole({ request: { target: '/files?q=1' } });
  await room.answer(upload.id);
  expect(origin.exchanges[0]!.target).toBe('/base/path/files?q=1');
  expect(origin.exchanges[0]!.header('host')).toBe(`127.0.0.1:${origin.port}`);
});

test('a client’s own Idempotency-Key is kept', async () => {
  await open();
  const upload = await room.whole({ request: { headers: [['idempotency-key', 'mine']] } });
  await room.answer(upload.id);
  expect(origin.exchanges[0]!.header('idempotency-key')).toBe('mine');
});

test('uploads that follow each other and may be repeated share a connection', async () => {
  await open();
  for (let count = 0; count < 5; count++) {
    const upload = await room.whole({ request: { method: 'PUT' }, body: `upload ${count}` });
    expect(await bodyOf(await room.answer(upload.id))).toEqual(Buffer.from('ok'));
  }
  expect(origin.exchanges).toHaveLength(5);
  expect(origin.connections).toHaveLength(1);
});

test('uploads at the same time have a connection each', async () => {
  const release = origin.holdAnswers();
  await open();
  const uploads = await Promise.all([1, 2, 3].map((count) => room.whole({ body: randomBytes(500_000, count) })));
  const answers = Promise.all(uploads.map(({ id }) => room.answer(id)));
  await until(() => origin.exchanges.length === 3, 'all three at the origin');
  release();
  expect((await answers).map(({ status }) => status)).toEqual([200, 200, 200]);
  expect(origin.connections).toHaveLength(3);
});

test('the spool does not keep what the origin has answered', async () => {
  await open();
  const upload = await room.whole({ body: 'hello', cutAt: [2] });
  expect(await room.files()).toEqual(['chunk-0', 'chunk-2']);
  await bodyOf(await room.answer(upload.id));
  await room.delivery.stop();
  expect(await room.files()).toEqual([]);
});
