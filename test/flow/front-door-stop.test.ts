import { execFileSync } from 'node:child_process';
import { existsSync, statSync, writeFileSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { Exchange } from '../../src/server/exchange.js';
import { sendReply } from '../../src/server/response.js';
import { makeCertificate } from '../support/certificate.js';
import { closeDoors, ok, openDoor, tellHead, toldHead } from '../support/front-door.js';
import { connectH2 } from '../support/h2-client.js';
import { connect, requestOnce } from '../support/raw-client.js';
import { temporaryDirectory, type TemporaryDirectory, until, within } from '../support/temporary.js';

const tls = makeCertificate();
const answer = { status: 200, headers: [], body: 'done' };

afterEach(closeDoors);

function begin({ res }: Exchange): void {
  (res as ServerResponse).writeHead(200).write('begun');
}

describe.each([
  ['cleartext', undefined],
  ['TLS', tls],
])('a listener that stops, %s', (_what, secure) => {
  test('ends connections that nothing is under way on at once', async () => {
    const door = await openDoor(ok, { tls: secure });
    const [used, fresh, h2] = [await connect(door.url), await connect(door.url), await connectH2(door.url)];
    await used.request({ method: 'GET', target: '/' });
    await h2.request({ method: 'GET', target: '/' });
    await until(() => door.connections === 3, 'three connections');
    door.stopAccepting();
    await used.ended();
    await until(() => h2.session.destroyed, 'the HTTP/2 connection to end');
    await fresh.ended();
    await within(door.closed, 'the listener to be closed');
    await expect(connect(door.url)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  });

  test('lets the others end with their response, which says so', async () => {
    const waiting: Exchange[] = [];
    const door = await openDoor((exchange) => void waiting.push(exchange), { tls: secure });
    const [client, h2] = [await connect(door.url), await connectH2(door.url)];
    await client.sendHead('GET', '/');
    const asked = h2.start({ method: 'GET', target: '/' }, { endStream: true });
    await until(() => waiting.length === 2, 'two requests');
    door.stopAccepting();
    door.stopAccepting();
    for (const exchange of waiting) void sendReply(exchange, answer);
    const response = await client.readFinal();
    expect([response.body.toString(), response.header('connection')]).toEqual(['done', 'close']);
    await client.ended();
    expect((await asked.readFinal()).body.toString()).toBe('done');
    await until(() => h2.session.destroyed, 'the HTTP/2 connection to end');
    await within(door.closed, 'the listener to be closed');
  });

  test('leaves a response that is under way alone until it is told to end everything', async () => {
    const door = await openDoor((exchange) => begin(exchange), { tls: secure });
    const client = await connect(door.url);
    await client.sendHead('GET', '/');
    const head = await client.readHead();
    expect(head!.header('connection')).toBe('keep-alive');
    door.stopAccepting();
    expect(door.connections).toBe(1);
    door.destroyAll();
    await client.ended();
    await within(door.closed, 'the listener to be closed');
  });

  test('ends everything when it is told to', async () => {
    const door = await openDoor(() => undefined, { tls: secure });
    const [client, h2] = [await connect(door.url), await connectH2(door.url)];
    await client.sendHead('POST', '/', [['Content-Length', '10']]);
    const asked = h2.start({ method: 'POST', target: '/' });
    await asked.send('x');
    door.destroyAll();
    await client.ended();
    await asked.ended();
    await within(door.closed, 'the listener to be closed');
    expect(door.connections).toBe(0);
  });
});

test('a response that ends after the stop takes its kept connection with it', async () => {
  const waiting: Exchange[] = [];
  const door = await openDoor((exchange) => {
    waiting.push(exchange);
    begin(exchange);
  });
  const client = await connect(door.url);
  await client.sendHead('GET', '/');
  const head = await client.readHead();
  door.stopAccepting();
  waiting[0]!.res.end('ended');
  expect((await client.bodyOf(head!).readAll()).toString()).toBe('begunended');
  await client.ended();
  await within(door.closed, 'the listener to be closed');
});

test('a connection that has not said what it speaks is no reason to stay', async () => {
  const door = await openDoor(ok);
  const client = await connect(door.url);
  await client.send(Buffer.from('PRI *'));
  await until(() => door.connections === 1, 'the connection');
  door.stopAccepting();
  await client.ended();
  await within(door.closed, 'the listener to be closed');
});

describe('a Unix socket', () => {
  let directory: TemporaryDirectory;
  let path: string;

  beforeEach(async () => {
    directory = await temporaryDirectory();
    path = join(directory.path, 'front.sock');
  });
  afterEach(async () => {
    await closeDoors();
    await directory.remove();
  });
  const listen = (onRequest: (exchange: Exchange) => void = ok) =>
    openDoor(onRequest, { address: { kind: 'unix', path } });
  const ask = () => requestOnce('http://localhost/', { method: 'GET', target: '/' }, { socketPath: path });

  test('is listened on for its owner and group, and gone after the stop', async () => {
    const door = await listen(tellHead([{ cidr: 'unix', relaysInterim: true }]));
    expect(door.url).toBe(`unix:${path}`);
    expect(statSync(path).mode & 0o777).toBe(0o660);
    expect(toldHead(await ask())).toMatchObject({
      connection: { peerAddress: '', clientAddress: '', peerIsTrusted: true, relaysInterim: true },
    });
    door.stopAccepting();
    await within(door.closed, 'the listener to be closed');
    expect(existsSync(path)).toBe(false);
  });

  test('is trusted only when unix peers are', async () => {
    await listen(tellHead([{ cidr: '0.0.0.0/0', relaysInterim: true }]));
    expect(toldHead(await ask())).toMatchObject({ connection: { peerAddress: '', peerIsTrusted: false } });
  });

  test('that a killed process has left is replaced', async () => {
    const leave = `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`;
    expect(() => execFileSync(process.execPath, ['-e', leave])).toThrow();
    expect(existsSync(path)).toBe(true);
    await listen();
    expect((await ask()).status).toBe(200);
  });

  test('that is answered belongs to another process', async () => {
    await listen();
    await expect(listen()).rejects.toMatchObject({ code: 'EADDRINUSE' });
    expect((await ask()).status).toBe(200);
  });

  test('is never made in place of a file', async () => {
    writeFileSync(path, 'precious');
    await expect(listen()).rejects.toMatchObject({ code: 'EADDRINUSE' });
    expect(statSync(path).size).toBe(8);
  });
});
