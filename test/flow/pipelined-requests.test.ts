import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import { afterEach, expect, test } from '@jest/globals';
import type { Exchange } from '../../src/server/exchange.js';
import { sendReply } from '../../src/server/response.js';
import { ReadGate } from '../../src/streams/read-gate.js';
import { connect } from '../support/client.js';
import { until } from '../support/temporary.js';
import { closeListeners, openListener } from '../support/test-listener.js';

// Issue 9, §5: requests of one HTTP/1.1 connection are answered one at a time; safe ones may overlap.

afterEach(closeListeners);

/** Requests that are under way, and the means to end each. */
class Served {
  readonly order: string[] = [];
  readonly open = new Map<string, () => void>();
  most = 0;

  readonly serve = (exchange: Exchange): void => {
    const name = `${exchange.req.method} ${exchange.req.url}`;
    this.order.push(`${name} in`);
    exchange.req.resume();
    this.open.set(name, () => {
      this.open.delete(name);
      this.order.push(`${name} out`);
      void sendReply(exchange, { status: 200, headers: [], body: name });
    });
    this.most = Math.max(this.most, this.open.size);
  };

  /** Ends requests as they come, the newest first, until so many were served. */
  async all(count: number): Promise<void> {
    const served = () => this.order.filter((step) => step.endsWith('out')).length;
    await until(() => {
      for (const end of [...this.open.values()].reverse()) end();
      return served() === count;
    }, `${count} answers`);
  }
}

function request(name: string): string {
  const [method = '', target = ''] = name.split(' ');
  const length = ['POST', 'PUT', 'PATCH'].includes(method) ? 'Content-Length: 1\r\n\r\nz' : '\r\n';
  return `${method} ${target} HTTP/1.1\r\nHost: h\r\n${length}`;
}

test.each([
  [['POST /1', 'GET /2', 'POST /3'], 1],
  [['GET /1', 'POST /2', 'GET /3'], 1],
  [['DELETE /1', 'GET /2', 'GET /3'], 2],
  [['PUT /1', 'PUT /2', 'PUT /3'], 1],
  [['GET /1', 'HEAD /2', 'OPTIONS /3'], 3],
  [['GET /1', 'GET /2', 'PATCH /3', 'GET /4', 'GET /5'], 2],
  [Array.from({ length: 40 }, (_, at) => `GET /${at}`), 8],
])('of %j at most %i are under way, and the answers come in order', async (names, most) => {
  const served = new Served();
  const listener = await openListener(served.serve);
  const client = await connect(listener.url);
  await client.send(names.map(request).join(''));
  await served.all(names.length);
  expect(served.most).toBe(most);
  for (const name of names) {
    const head = await client.readHead();
    expect(head?.status).toBe(200);
    const [method] = name.split(' ');
    if (method !== 'HEAD') expect((await client.readRaw(Buffer.byteLength(name))).toString()).toBe(name);
  }
  // No request began before an unsafe one ahead of it had ended, and no unsafe one beside another.
  names.forEach((name, at) => {
    const begun = served.order.indexOf(`${name} in`);
    const isSafe = /^(GET|HEAD|OPTIONS)/.test(name);
    for (const before of names.slice(0, at))
      if (!isSafe || !/^(GET|HEAD|OPTIONS)/.test(before))
        expect(served.order.indexOf(`${before} out`)).toBeLessThan(begun);
  });
  client.destroy();
});

test('as many requests as may wait are all answered in order', async () => {
  const served = new Served();
  const listener = await openListener(served.serve);
  const client = await connect(listener.url);
  const count = 500;
  void client.send(Array.from({ length: count }, (_, at) => request(`GET /${at}`)).join(''));
  const answering = served.all(count);
  for (let at = 0; at < count; at++) {
    expect((await client.readHead())?.status).toBe(200);
    expect((await client.readRaw(`GET /${at}`.length)).toString()).toBe(`GET /${at}`);
  }
  await answering;
  expect(served.most).toBe(8);
  client.destroy();
});

test('a connection with more requests than may wait ends, and none of them begins', async () => {
  const served = new Served();
  const listener = await openListener(served.serve);
  const client = await connect(listener.url);
  void client.send(request('POST /slow') + request('GET /x').repeat(2000));
  await client.closed;
  await until(() => listener.connections === 0, 'the connection to be gone');
  expect(served.order).toEqual(['POST /slow in']);
});

test('once enough wait nothing more is read, so that as many as are sent behind them are all answered', async () => {
  const served = new Served();
  let socket: Socket | undefined;
  const listener = await openListener((exchange) => {
    socket = (exchange.req as IncomingMessage).socket;
    served.serve(exchange);
  });
  const client = await connect(listener.url);
  const names = ['POST /slow', ...Array.from({ length: 2000 }, (_, at) => `GET /${at}`)];
  await client.send(names.slice(0, 9).map(request).join(''));
  await until(() => socket && ReadGate.sinceHeldMs(socket) === 0, 'reading to stop');
  // One read brings no more of them than may wait.
  const long = (name: string): string => request(name).replace('\r\n', `\r\nX-Filler: ${'x'.repeat(300)}\r\n`);
  void client.send(names.slice(9).map(long).join(''));
  const answering = served.all(names.length);
  for (const name of names) {
    expect((await client.readHead())?.status).toBe(200);
    expect((await client.readRaw(name.length)).toString()).toBe(name);
  }
  await answering;
  client.destroy();
});

test('of all connections together only so many wait, and those with few of them go on', async () => {
  const served = new Served();
  const listener = await openListener(served.serve);
  const few = await Promise.all(Array.from({ length: 10 }, () => connect(listener.url)));
  for (const client of few) await client.send(request('POST /few') + request('GET /f').repeat(7));
  const many = await Promise.all(Array.from({ length: 10 }, () => connect(listener.url)));
  for (const client of many) void client.send(request('POST /many') + request('GET /m').repeat(400));
  // Five times 400 would be too many beside the 70 of the others.
  await until(() => listener.connections === few.length + 4, 'the rest to end');
  for (const client of few) expect(client.socket.destroyed).toBe(false);
  for (const client of [...few, ...many]) client.destroy();
  await until(() => listener.connections === 0, 'all to be gone');

  // What has ended takes nobody's room.
  const later = new Served();
  const next = await openListener(later.serve);
  const clients = await Promise.all(Array.from({ length: 4 }, () => connect(next.url)));
  for (const [of, client] of clients.entries())
    void client.send(Array.from({ length: 400 }, (_, at) => request(`GET /${of}/${at}`)).join(''));
  await later.all(1600);
  for (const client of clients) client.destroy();
});

test('a client that leaves while many of its requests wait is noticed, and none of them begins', async () => {
  const served = new Served();
  const listener = await openListener(served.serve);
  const client = await connect(listener.url);
  await client.send(request('POST /slow') + request('GET /x').repeat(20));
  await until(() => served.open.size === 1, 'the first request');
  client.destroy();
  await until(() => listener.connections === 0, 'the connection to be gone');
  expect(served.order).toEqual(['POST /slow in']);
});

test.each([
  ['websocket', /^HTTP\/1\.1 400 /],
  ['h2c', /^HTTP\/1\.1 200 /],
])('a wish for %s behind a request that is not answered yet does no harm', async (protocol, second) => {
  const served = new Served();
  const listener = await openListener(served.serve);
  const client = await connect(listener.url);
  await client.send(
    `${request('POST /1')}GET /2 HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: ${protocol}\r\n\r\n`,
  );
  await until(() => served.open.has('POST /1'), 'the first request');
  served.open.get('POST /1')!();
  expect((await client.readHead())?.status).toBe(200);
  await client.readRaw('POST /1'.length);
  if (protocol === 'h2c') {
    await until(() => served.open.has('GET /2'), 'the second request');
    served.open.get('GET /2')!();
  }
  expect((await client.readHead())?.statusLine).toMatch(second);
  client.destroy();
});
