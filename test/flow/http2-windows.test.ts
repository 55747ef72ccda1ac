import { once } from 'node:events';
import { constants } from 'node:http2';
import { type AddressInfo, connect as connectTcp, createServer, type Server, type Socket } from 'node:net';
import { afterEach, expect, test } from '@jest/globals';
import type { Exchange } from '../../src/server/exchange.js';
import { sinceReadHeldMs } from '../../src/streams/small-pieces.js';
import { block, frame, H2_PING } from '../support/hostile-http2.js';
import { connectH2, type H2Client, type H2Exchange } from '../support/http2-client.js';
import { until } from '../support/temporary.js';
import { closeListeners, ok, openListener } from '../support/test-listener.js';

const MIB = 2 ** 20;

/** What the listener of these tests gives a connection. */
const SESSION_WINDOW = 8 * MIB;

/** What has been read from the connection when its reading stops. */
const ONE_READ = 64 * 1024;

const BODIES = 40;
const POST = { method: 'POST', target: '/' };

const held: Exchange[] = [];
const clients: H2Client[] = [];
let relay: DelayingRelay | undefined;
afterEach(async () => {
  held.length = 0;
  for (const client of clients.splice(0)) await client.close();
  relay?.close();
  await closeListeners();
});

function unreadBytes(): number {
  return held.reduce((sum, { req }) => sum + (req as unknown as { stream: Socket }).stream.readableLength, 0);
}

/** Whether the connection is not read any more until bodies are. */
function isHeld(): boolean {
  return held.length > 0 && sinceReadHeldMs(held[0]!.req) === 0;
}

/** Reads the bodies to their ends, answers, and gives the sum of their bytes. */
async function readAll(): Promise<number> {
  let sum = 0;
  const bodies = held.map(({ req }) => {
    req.on('data', (bytes: Buffer) => (sum += bytes.length));
    return once(req, 'end');
  });
  await Promise.all(bodies);
  for (const exchange of held) ok(exchange);
  return sum;
}

async function open(port: number): Promise<H2Client> {
  const client = await connectH2(`http://127.0.0.1:${port}`, { deadlineMs: 60_000 });
  clients.push(client);
  return client;
}

test('bodies that nobody reads hold no more than the window of their connection, and all of them arrive', async () => {
  const listener = await openListener((exchange) => held.push(exchange));
  const client = await open(Number(new URL(listener.url).port));
  const exchanges = Array.from({ length: BODIES }, () => client.start(POST));
  for (const { stream } of exchanges) stream.end(Buffer.alloc(2 * MIB));
  await until(() => held.length === BODIES, 'the requests');
  let [before, pings, pongs] = [-1, 0, 0];
  await until(() => {
    // Its PINGs are not read any more either.
    if (isHeld()) return true;
    if (pongs < pings) return false;
    const unread = unreadBytes();
    const isStill = unread === before && unread > 0;
    before = unread;
    pings += 1;
    client.session.ping(() => (pongs += 1));
    return isStill;
  }, 'the client to stop, or not to be read any more');
  expect(unreadBytes()).toBeLessThanOrEqual(2 * SESSION_WINDOW + ONE_READ);
  expect(await readAll()).toBe(BODIES * 2 * MIB);
  for (const exchange of exchanges) expect((await exchange.readFinal()).status).toBe(200);
  // What was made smaller is as it was when nothing lies there any more.
  const next = client.start(POST);
  await until(() => held.length === BODIES + 1, 'another request');
  const { req } = held.at(-1)!;
  req.resume();
  await next.send(Buffer.alloc(MIB));
  const window = (): number => client.session.remoteSettings.initialWindowSize ?? 0;
  await until(() => window() >= SESSION_WINDOW / 2, 'a window of the first size');
  next.end();
  await once(req, 'end');
  ok(held.at(-1)!);
});

test('a client that heeds no smaller window is not read any more until its bodies are', async () => {
  const listener = await openListener((exchange) => held.push(exchange));
  const socket = connectTcp(Number(new URL(listener.url).port), '127.0.0.1');
  let pongs = 0;
  socket.on('data', (bytes: Buffer) => (pongs += bytes.toString('latin1').split('are-you?').length - 1));
  const [DATA, HEADERS, SETTINGS] = [0, 1, 4];
  const fields = block([
    [':method', 'POST'],
    [':scheme', 'http'],
    [':path', '/'],
    [':authority', 'h'],
  ]);
  // It confirms the first settings and none after that (RFC 9113 §6.5.3), so the first windows stay valid for it.
  socket.write(Buffer.from(`PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${frame(SETTINGS, 0, 0, '')}`, 'latin1'));
  // The window of the connection is 64 KiB until the other side has spoken.
  socket.write(Buffer.from(H2_PING, 'latin1'));
  await until(() => pongs === 1, 'the window of the connection');
  socket.write(Buffer.from(frame(SETTINGS, constants.NGHTTP2_FLAG_ACK, 0, ''), 'latin1'));
  const piece = '\0'.repeat(16_384);
  let sent = 0;
  let pings = 1;
  for (let stream = 1; !isHeld() && sent < 100 * MIB; stream += 2) {
    const data = frame(DATA, 0, stream, piece).repeat(64);
    for (const part of [frame(HEADERS, constants.NGHTTP2_FLAG_END_HEADERS, stream, fields), data, data, H2_PING])
      socket.write(Buffer.from(part, 'latin1'));
    sent += 2 * MIB;
    pings += 1;
    await until(() => pongs === pings || isHeld(), 'it to be read, or not to be read any more');
  }
  expect(isHeld()).toBe(true);
  expect(unreadBytes()).toBeLessThanOrEqual(3 * SESSION_WINDOW);
  for (const { req } of held) req.resume();
  await until(() => pongs === pings, 'all of it to be read');
  expect(isHeld()).toBe(false);
  socket.destroy();
});

/** Everything takes its time to the other side and back, as on a long way. */
class DelayingRelay {
  private readonly sockets: Socket[] = [];

  private constructor(
    private readonly server: Server,
    readonly port: number,
  ) {}

  static async start(target: number, delayMs: number): Promise<DelayingRelay> {
    const server = createServer((socket) => {
      const other = connectTcp(target, '127.0.0.1');
      relayed.sockets.push(socket, other);
      for (const [from, to] of [
        [socket, other],
        [other, socket],
      ] as const)
        from.on('data', (bytes) => setTimeout(() => to.write(bytes), delayMs)).on('error', () => undefined);
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const relayed = new DelayingRelay(server, (server.address() as AddressInfo).port);
    return relayed;
  }

  close(): void {
    for (const socket of this.sockets) socket.destroy();
    this.server.close();
  }
}

async function sendUntil(exchange: H2Exchange, isEnough: () => boolean): Promise<number> {
  const bytes = Buffer.alloc(MIB);
  let sent = 0;
  for (const end = Date.now() + 60_000; !isEnough() && Date.now() < end; sent += bytes.length)
    await exchange.send(bytes);
  exchange.end();
  return sent;
}

test('the windows of a distant client grow while its body is read as fast as it comes', async () => {
  const listener = await openListener((exchange) => held.push(exchange));
  relay = await DelayingRelay.start(Number(new URL(listener.url).port), 30);
  const client = await open(relay.port);
  const exchange = client.start(POST);
  await until(() => held.length === 1, 'the request');
  const received = readAll();
  const grown = (): boolean => (client.session.remoteSettings.initialWindowSize ?? 0) >= 2 * SESSION_WINDOW;
  const sent = await sendUntil(exchange, grown);
  expect(await received).toBe(sent);
  expect(grown()).toBe(true);
  // RFC 9113 §6.9.1: the window of the connection limits all streams together.
  expect(client.session.state.remoteWindowSize ?? 0).toBeGreaterThan(SESSION_WINDOW);
});
