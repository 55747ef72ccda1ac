import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { exchangeOver, openRequest, TRANSPORTS } from '../support/open-request.js';
import type { PeerNode } from '../support/peer-node.js';
import { PeerStage } from '../support/peer-stage.js';
import { appendLines, clientDialect, creationLines } from '../support/resumable-client.js';
import { requestOnce } from '../support/raw-client.js';
import { untilSpooled } from '../support/spooled.js';
import type { WireResponse } from '../support/wire-response.js';

const OWNER_TIMEOUT_MS = 60_000;
const dialect = clientDialect('10');
const version = ['Upload-Draft-Interop-Version', '10'] as const;

let stage: PeerStage;
let owner: PeerNode;
let entry: PeerNode;
let path: string;

beforeEach(async () => {
  stage = await PeerStage.open(OWNER_TIMEOUT_MS);
  owner = await stage.node('owner');
  entry = await stage.node('entry');
  const headers = creationLines(dialect, { complete: false, length: 1000 });
  const created = await requestOnce(owner.url, { method: 'POST', target: '/files', headers, body: '' });
  path = new URL(created.header('Location')!).pathname;
});
afterEach(() => stage.close());

function head(): Promise<WireResponse> {
  return requestOnce(entry.url, { method: 'HEAD', target: path, headers: [version] });
}

function problemOf({ body }: WireResponse): unknown {
  return JSON.parse(body.toString());
}

describe('the node that has the bytes is gone', () => {
  beforeEach(() => owner.stop());

  test('its uploads are unavailable for a while, and then there are none', async () => {
    stage.cluster.nodes.set('owner', { silentMs: OWNER_TIMEOUT_MS - 1 });
    const early = await head();
    expect([early.status, early.header('Retry-After')]).toEqual([503, '5']);
    stage.cluster.nodes.set('owner', { silentMs: OWNER_TIMEOUT_MS });
    expect((await head()).status).toBe(404);
  });

  test.each(TRANSPORTS)('an append over %s hears it in a problem, and so does who asks for the status', async (by) => {
    const headers = appendLines(dialect, { offset: 0, complete: true });
    const append = await exchangeOver(by, entry.url, {
      method: 'PATCH',
      target: path,
      headers,
      body: 'x'.repeat(1000),
    });
    expect([append.status, append.header('Content-Type')]).toEqual([503, 'application/problem+json']);
    expect(problemOf(append)).toMatchObject({ status: 503, title: 'Service Unavailable' });
    const status = await exchangeOver(by, entry.url, { method: 'GET', target: `${path}/status` });
    expect([status.status, status.header('Retry-After')]).toEqual([503, '5']);
  });

  test('a client that would take a 503 for the end loses its connection instead', async () => {
    const agent = ['User-Agent', 'App/1 CFNetwork/1494.0.7 Darwin/23.4.0'] as const;
    const headers = [
      ...appendLines(dialect, { offset: 0, complete: true }),
      agent,
      ['Content-Length', '1000'] as const,
    ];
    const request = await openRequest('HTTP/1.1', entry.url, { method: 'PATCH', target: path, headers });
    await request.givenUp();
    await request.close();
  });

  test('web pages are still told what they may send', async () => {
    const headers = [
      ['Origin', 'https://app.example'],
      ['Access-Control-Request-Method', 'PATCH'],
    ] as const;
    const answer = await requestOnce(entry.url, { method: 'OPTIONS', target: path, headers });
    expect(answer.status).toBe(204);
  });
});

test.each(TRANSPORTS)('a node that stops within an append over %s ends its connection', async (by) => {
  const headers = appendLines(dialect, { offset: 0, complete: true });
  const request = await openRequest(by, entry.url, { method: 'PATCH', target: path, headers });
  await request.send('hello');
  await untilSpooled(owner.data, new URL(path, owner.url).href, 5);
  await owner.stop();
  await request.givenUp();
  await request.close();
});

test('two nodes that take each other for the owner do not play ball with a request', async () => {
  stage.cluster.nodes.set('third', { url: owner.peerUrl });
  const lease = await stage.cluster.leases.take(path.split('/').at(-1)!);
  await stage.cluster.store.move(path.split('/').at(-1)!, lease.token, 'third');
  await lease.release();
  // What answers at that address is no "third".
  expect((await head()).status).toBe(503);
  stage.cluster.nodes.set('third', { url: entry.peerUrl });
  expect((await head()).status).toBe(503);
});

test('a node that is leaving takes no new uploads, and goes on with those it has', async () => {
  owner.entry.refuseNewUploads();
  const headers = creationLines(dialect, { complete: false, length: 10 });
  const creation = await requestOnce(owner.url, { method: 'POST', target: '/files', headers, body: '' });
  expect([creation.status, creation.header('Retry-After')]).toEqual([503, '1']);
  const append = appendLines(dialect, { offset: 0, complete: true });
  const answer = await requestOnce(entry.url, {
    method: 'PATCH',
    target: path,
    headers: append,
    body: 'x'.repeat(1000),
  });
  expect(answer.status).toBe(200);
});
