import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { TRANSPORTS } from '../support/client.js';
import { comparable, FlowClient } from '../support/flow-client.js';
import { Haproxy, startShippedHaproxy } from '../support/front-proxies.js';
import { type ProxyProcess, startProxy } from '../support/proxy-process.js';
import { creationLines } from '../support/resumable-client.js';
import { randomBytes, sha256 } from '../support/temporary.js';
import { framed, type RunningProxy, TestProxy } from '../support/test-proxy.js';

const BYTES = randomBytes(100_000);
const { length } = BYTES;
const OK = { status: 200, lines: framed([], 'ok'), body: 'ok' };

/** One node, reached through HAProxy only. */
async function stageBehind(start: (node: ProxyProcess) => Promise<Haproxy>): Promise<TestProxy> {
  const config = 'trusted_proxies: [{ cidr: 127.0.0.1, relays_interim: true }]';
  return TestProxy.open({ config }, async (options): Promise<RunningProxy> => {
    const node = await startProxy(options);
    const haproxy = await start(node).catch(async (error: unknown) => {
      await node.stop();
      throw error;
    });
    const stop = async (): Promise<void> => {
      await haproxy.stop();
      await node.stop();
    };
    return { url: haproxy.url, data: node.data, log: node.log, isRelayed: true, stop };
  });
}

function ofTests({ url, adminUrl }: ProxyProcess): Promise<Haproxy> {
  return Haproxy.start([{ name: 'n1', address: new URL(url).host, admin: new URL(adminUrl).host }]);
}

function shipped(node: ProxyProcess): Promise<Haproxy> {
  return startShippedHaproxy(new Map([['n1', node]]));
}

describe.each([
  { whose: 'the tests’ own', start: ofTests },
  { whose: 'the one we ship', start: shipped },
])('behind HAProxy with $whose configuration', ({ start }) => {
  let proxy: TestProxy;

  beforeAll(async () => {
    proxy = await stageBehind(start);
  });

  afterAll(async () => {
    await proxy.close();
  });

  describe.each(TRANSPORTS)('over %s', (transport) => {
    test('a client hears where its upload goes on before it has sent a byte, and goes on there', async () => {
      const client = new FlowClient(proxy, transport, '8');
      const target = `/behind/${transport}`;
      const { request, upload } = await client.begin({ target, length });
      await request.send(BYTES.subarray(0, 30_000));
      request.leave('reset');
      const offset = await upload.offset();
      const answer = await upload.append(BYTES.subarray(offset), { offset, complete: true });
      expect(comparable(answer)).toEqual(client.expected.answered(OK, length));
      const [delivered, ...others] = proxy.requestsFor(target);
      expect(delivered).toMatchObject({ size: length, sha256: sha256(BYTES) });
      expect(delivered!.header('Host')).toBe(proxy.host);
      expect(others).toEqual([]);
    });

    test('a client that asks whether it may send is told where its upload is, and to go on', async () => {
      const client = new FlowClient(proxy, transport, '8');
      const target = `/behind/expecting/${transport}`;
      const headers = [
        ...creationLines(client.dialect, { complete: true }),
        ['Content-Length', `${length}`] as const,
        ['Expect', '100-continue'] as const,
      ];
      const request = await proxy.begin(transport, { method: 'POST', target, headers });
      const interims = [await request.readInterim(), await request.readInterim()];
      expect(interims.map(({ status }) => status).sort()).toEqual([100, 104]);
      await request.send(BYTES);
      await request.end();
      const answer = await request.readFinal();
      const location = interims.find(({ status }) => status === 104)!.header('Location')!;
      expect(client.expected.answerHasLocation ? location : undefined).toBeUndefined();
      expect(comparable(answer)).toEqual(client.expected.answered(OK, length));
      expect(proxy.requestsFor(target)).toMatchObject([{ size: length, sha256: sha256(BYTES) }]);
    });

    test('other requests pass through both', async () => {
      const answer = await proxy.send(transport, { method: 'GET', target: `/behind/other/${transport}` });
      expect([answer.status, answer.body.toString()]).toEqual([200, 'ok']);
    });
  });
});
