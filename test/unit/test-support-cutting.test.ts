import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { CuttingProxy } from '../support/network.js';
import { until, within } from '../support/temporary.js';

let echo: Server;
let proxy: CuttingProxy;
const clients: Socket[] = [];

beforeEach(async () => {
  echo = createServer((socket) => socket.on('error', () => undefined).pipe(socket)).listen(0, '127.0.0.1');
  await once(echo, 'listening');
  proxy = await CuttingProxy.start((echo.address() as AddressInfo).port);
});

afterEach(async () => {
  for (const client of clients.splice(0)) client.destroy();
  await proxy.stop();
  await new Promise((resolve) => echo.close(resolve));
});

function client(): Socket & { heard: string } {
  const socket = Object.assign(connect(proxy.port, '127.0.0.1'), { heard: '' });
  socket.on('data', (bytes: Buffer) => (socket.heard += bytes.toString()));
  clients.push(socket);
  return socket;
}

test('what is sent comes through, both ways, and is counted', async () => {
  const socket = client();
  socket.write('hello');
  await until(() => socket.heard === 'hello', 'the echo');
  expect(proxy).toMatchObject({ bytes: 10, connections: 1 });
});

test('a cut ends connections and refuses new ones until it is mended', async () => {
  const socket = client();
  await once(socket, 'connect');
  await until(() => proxy.connections === 1, 'the connection');
  await proxy.cut();
  await within(once(socket, 'close'), 'the end of the connection');
  const [refused] = (await within(once(client(), 'error'), 'the refusal')) as [NodeJS.ErrnoException];
  expect(refused.code).toBe('ECONNREFUSED');
  await proxy.restore();
  const later = client();
  later.write('again');
  await until(() => later.heard === 'again', 'the echo');
});

test('while it hangs connections are accepted and say nothing; what was sent comes late', async () => {
  const before = client();
  before.write('1');
  await until(() => before.heard === '1', 'the echo');
  proxy.hang();
  before.write('2');
  const during = client();
  await once(during, 'connect');
  during.write('3');
  await until(() => proxy.connections === 2, 'the connection');
  expect([before.heard, during.heard, proxy.bytes]).toEqual(['1', '', 2]);
  await proxy.restore();
  await until(() => before.heard === '12' && during.heard === '3', 'what was held back');
});
