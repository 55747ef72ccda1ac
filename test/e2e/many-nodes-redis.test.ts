import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { exchangeOver } from '../support/client.js';
import { FlowClient } from '../support/flow-client.js';
import { type Haproxy, startShippedHaproxy } from '../support/front-proxies.js';
import { openNodes, type TestNodes } from '../support/nodes.js';
import { randomBytes, sha256, until } from '../support/temporary.js';
import type { TestProxy } from '../support/test-proxy.js';
import type { WireRequest, WireResponse } from '../support/wire.js';

const BYTES = randomBytes(30_000);

let proxy: TestProxy;
let nodes: TestNodes;
/** The configuration that we ship, in front of the same nodes. */
let haproxy: Haproxy;

beforeAll(async () => {
  ({ proxy, nodes } = await openNodes({ nodes: 2, bytes: 'shared' }));
  haproxy = await startShippedHaproxy(new Map(nodes.names.map((name) => [name, nodes.node(name)])));
});

afterAll(async () => {
  await haproxy.stop();
  await proxy.close();
});

function send(request: WireRequest): Promise<WireResponse> {
  return exchangeOver('HTTP/1.1', haproxy.url, request);
}

test('while Redis is away uploads are told when to come again, other requests pass, and afterwards it all goes on', async () => {
  const client = new FlowClient(proxy, 'HTTP/1.1', '8');
  const upload = await client.place({ target: '/redis/away', length: BYTES.length });
  await upload.append(BYTES.subarray(0, 10_000), { offset: 0, complete: false });

  await nodes.redis.kill();
  for (const name of nodes.names) await haproxy.untilNoticed(name, 'DOWN');
  for (let at = 0; at < 2; at++) {
    const refused = await send({ method: 'HEAD', target: upload.target });
    expect(refused.status).toBe(503);
    expect(Number(refused.header('Retry-After'))).toBeGreaterThan(0);
    const other = await send({ method: 'GET', target: '/redis/other' });
    expect([other.status, other.body.toString()]).toEqual([200, 'ok']);
  }

  await nodes.redis.restart();
  for (const name of nodes.names) await haproxy.untilNoticed(name, 'UP');
  await until(async () => (await upload.retrieve()).status === 204, 'the upload to be there again');
  expect(await upload.offset()).toBe(10_000);
  const answer = await upload.append(BYTES.subarray(10_000), { offset: 10_000, complete: true });
  expect(answer.status).toBe(200);
  expect(proxy.requestsFor('/redis/away')).toMatchObject([{ size: BYTES.length, sha256: sha256(BYTES) }]);
});
