import { once } from 'node:events';
import { createServer as createSessions, type ServerHttp2Session } from 'node:http2';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { afterEach, expect, test } from '@jest/globals';
import { endWhenUnresponsive } from '../../src/server/http2-server.js';
import { ReadGate } from '../../src/streams/read-gate.js';
import { closeDoors, ok, openDoor } from '../support/front-door.js';
import { connectH2 } from '../support/h2-client.js';
import { connect } from '../support/raw-client.js';
import { until } from '../support/temporary.js';

afterEach(closeDoors);

const silenceMs = 40;
const PREFACE = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00';
/** A request whose body is still to come. */
const BEGUN = '\x00\x00\x06\x01\x04\x00\x00\x00\x01\x83\x86\x84\x41\x01a';
/** A PING has eight bytes. */
const BROKEN = '\x00\x00\x05\x06\x00\x00\x00\x00\x00short';

/** What the last frame that was heard is about. */
const GOAWAY = 7;

test.each([
  ['at once', PREFACE + BROKEN],
  ['in the middle of a request', PREFACE + BEGUN + BROKEN],
])('a session that breaks the protocol %s does not outlive its connection', async (_when, bytes) => {
  const door = await openDoor(() => undefined, { pingAfterMs: silenceMs });
  const client = await connect(door.url);
  await client.send(bytes);
  let type = 0;
  while (type !== GOAWAY) {
    const frame = await client.readRaw(9);
    type = frame[3]!;
    await client.readRaw(frame.readUIntBE(0, 3));
  }
  client.reset();
  await until(() => door.connections === 0, 'the connection to be gone');
});

test('a client that is there but does not answer is given up', async () => {
  let requests = 0;
  const door = await openDoor(() => (requests += 1), { pingAfterMs: silenceMs });
  const client = await connect(door.url);
  await client.send(PREFACE + BEGUN);
  client.socket.on('data', () => undefined);
  await until(() => requests === 1, 'the request');
  await client.ended();
  await until(() => door.connections === 0, 'the connection to be gone');
});

test('a client that waits in silence is asked again and again, and kept', async () => {
  const waiting: (() => void)[] = [];
  // Who stands still for that long has not answered in time, and this is the process that has to answer.
  const door = await openDoor((exchange) => void waiting.push(() => ok(exchange)), { pingAfterMs: 500 });
  const client = await connectH2(door.url);
  const exchange = client.start({ method: 'GET', target: '/' }, { endStream: true });
  for (let pings = 0; pings < 4; pings++) await once(client.session, 'ping');
  waiting[0]!();
  expect((await exchange.readFinal()).status).toBe(200);
  await client.close();
});

test('a client that we keep from being read is not silent', async () => {
  const sessions = createSessions();
  const begun: ServerHttp2Session[] = [];
  const listener = createServer((socket: Socket) => {
    sessions.once('session', (session) => {
      // The first one: what it says, answers to our questions too, is not heard.
      if (begun.push(session) === 1) ReadGate.of(socket).hold();
      endWhenUnresponsive(session, socket, silenceMs);
    });
    sessions.emit('connection', socket);
  });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const url = `http://127.0.0.1:${(listener.address() as AddressInfo).port}`;
  const held = await connect(url);
  await held.send(PREFACE);
  await until(() => begun.length === 1, 'the first session');
  // As long as somebody needs to be given up, twice over.
  for (let count = 0; count < 2; count++) {
    const silent = await connect(url);
    silent.socket.on('data', () => undefined);
    await silent.send(PREFACE);
    await silent.ended();
  }
  expect(begun.map(({ destroyed }) => destroyed)).toEqual([false, true, true]);
  held.destroy();
  begun[0]!.destroy();
  listener.close();
  await once(listener, 'close');
});

// Issue 9, §5: descriptors of such connections must not wait for a client.
test.each([
  ['breaks the protocol', PREFACE + BROKEN],
  ['breaks it in the middle of a request', PREFACE + BEGUN + BROKEN],
  ['sends a body to a stream that it never opened', `${PREFACE}\x00\x00\x01\x00\x01\x00\x00\x00\x01x`],
  ['opens a stream with an even number', `${PREFACE}\x00\x00\x06\x01\x05\x00\x00\x00\x02\x83\x86\x84\x41\x01a`],
  ['sends no preface', 'PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n'],
])('a client that %s is rid of its connection soon, though it keeps it', async (_what, bytes) => {
  // Nobody would be asked for a sign of life within the time of this test.
  const door = await openDoor(() => undefined, { pingAfterMs: 3_600_000 });
  const client = await connect(door.url);
  client.socket.on('data', () => undefined);
  await client.send(bytes);
  await until(() => door.connections === 0, 'the connection to be gone');
  client.destroy();
});

test('an idle session that was told to go is closed, though its client does not close it', async () => {
  const door = await openDoor(() => undefined, { pingAfterMs: 3_600_000, keepAliveTimeoutMs: 20 });
  const client = await connect(door.url);
  client.socket.allowHalfOpen = true;
  client.socket.on('data', () => undefined);
  await client.send(PREFACE);
  await until(() => door.connections === 0, 'the connection to be gone');
  client.destroy();
});
