import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { Haproxy } from '../support/haproxy.js';
import { TRANSPORTS } from '../support/open-request.js';
import { startProxy, type ProxyProcess } from '../support/proxy.js';
import { creationLines } from '../support/resumable-client.js';
import { startShippedHaproxy } from '../support/shipped-haproxy.js';
import { framed, Stage, type StagedProxy } from '../support/stage.js';
import { StageClient } from '../support/stage-client.js';
import { randomBytes, sha256 } from '../support/temporary.js';
import { told } from '../support/told.js';

const BYTES = randomBytes(100_000);
const { length } = BYTES;
const OK = { status: 200, lines: framed([], 'ok'), body: 'ok' };

/** One node, reached through HAProxy only. */
async function stageBehind(start: (node: ProxyProcess) => Promise<Haproxy>): Promise<Stage> {
  const config = 'trusted_proxies: [{ cidr: 127.0.0.1, relays_interim: true }]';
  return Stage.open({ config }, async (options): Promise<StagedProxy> => {
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
  let stage: Stage;

  beforeAll(async () => {
    stage = await stageBehind(start);
  });

  afterAll(async () => {
    await stage.close();
  });

  describe.each(TRANSPORTS)('over %s', (transport) => {
    test('a client hears where its upload goes on before it has sent a byte, and goes on there', async () => {
      const client = new StageClient(stage, transport, '8');
      const target = `/behind/${transport}`;
      const { request, upload } = await client.begin({ target, length });
      await request.send(BYTES.subarray(0, 30_000));
      request.leave('reset');
      const offset = await upload.offset();
      const answer = await upload.append(BYTES.subarray(offset), { offset, complete: true });
      expect(told(answer)).toEqual(client.expected.answered(OK, length));
      const [delivered, ...others] = stage.requestsFor(target);
      expect(delivered).toMatchObject({ size: length, sha256: sha256(BYTES) });
      expect(delivered!.header('Host')).toBe(stage.host);
      expect(others).toEqual([]);
    });

    test('a client that asks whether it may send is told where its upload is, and to go on', async () => {
      const client = new StageClient(stage, transport, '8');
      const target = `/behind/expecting/${transport}`;
      const headers = [
        ...creationLines(client.dialect, { complete: true }),
        ['Content-Length', `${length}`] as const,
        ['Expect', '100-continue'] as const,
      ];
      const request = await stage.begin(transport, { method: 'POST', target, headers });
      const interims = [await request.readInterim(), await request.readInterim()];
      expect(interims.map(({ status }) => status).sort()).toEqual([100, 104]);
      await request.send(BYTES);
      await request.end();
      const answer = await request.readFinal();
      const location = interims.find(({ status }) => status === 104)!.header('Location')!;
      expect(client.expected.answerHasLocation ? location : undefined).toBeUndefined();
      expect(told(answer)).toEqual(client.expected.answered(OK, length));
      expect(stage.requestsFor(target)).toMatchObject([{ size: length, sha256: sha256(BYTES) }]);
    });

    test('other requests pass through both', async () => {
      const answer = await stage.send(transport, { method: 'GET', target: `/behind/other/${transport}` });
      expect([answer.status, answer.body.toString()]).toEqual([200, 'ok']);
    });
  });
});
