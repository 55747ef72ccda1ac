import { describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { play, type Stage } from '../support/pass-through-front.js';
import { requestOnce } from '../support/raw-client.js';
import type { RawExchange } from '../support/raw-exchange.js';
import { answerOk } from '../support/raw-origin.js';
import { LEAVING, openTunnel } from '../support/tunnel-client.js';

describe('a refusal to switch', () => {
  const refusal =
    (status: number, headers: HeaderLine[] = []) =>
    (exchange: RawExchange): Promise<void> =>
      exchange.respond({ status, headers, body: 'first sign in' });

  const refused = async (stage: Stage) => {
    const client = await openTunnel(stage.front.url, 'bytes that nobody wants');
    const answer = await client.readFinal();
    await client.ended();
    return answer;
  };

  test('has a broken body with http-proxy alone', async () => {
    const script = refusal(401, [['Transfer-Encoding', 'chunked']]);
    await expect(play('bare', refused, { script })).rejects.toThrow('it ended with "first sign in"');
  });

  test.each([401, 426, 500])('of %i reaches the client whole', async (status) => {
    const fields: HeaderLine[] = [
      ['WWW-Authenticate', 'Basic'],
      ['www-authenticate', 'Bearer'],
    ];
    for (const framing of [[], [['Transfer-Encoding', 'chunked'] as const]]) {
      const answer = await play('ours', refused, { script: refusal(status, [...fields, ...framing]) });
      expect(answer.status).toBe(status);
      expect(answer.body.toString()).toBe('first sign in');
      expect(answer.headerLines.slice(0, 2)).toEqual(fields);
      expect(answer.header('connection')).toBe('close');
    }
  });

  test('comes from us when the origin cannot be reached', async () => {
    await play('ours', async (stage) => {
      await stage.origin.close();
      const answer = await refused(stage);
      expect(answer.status).toBe(502);
      expect(answer.header('content-type')).toBe('application/problem+json');
    });
  });

  test('comes from us when the origin is silent', async () => {
    const answer = await play('ours', refused, { script: () => undefined, timeoutMs: 100 });
    expect(answer.status).toBe(504);
  });

  test('is waited for with http-proxy alone, though the client has left', async () => {
    await play(
      'bare',
      async (stage) => {
        const client = await openTunnel(stage.front.url);
        const exchange = await stage.origin.exchange(0);
        client.destroy();
        await client.closed;
        stage.origin.setScript(answerOk);
        for (let round = 0; round < 20; round++) await requestOnce(stage.front.url, { method: 'GET', target: '/' });
        expect(exchange.socket.readableEnded || exchange.socket.destroyed).toBe(false);
      },
      { script: () => undefined },
    );
  });

  test.each(LEAVING)('is not waited for when the client has left (%s)', async (_, leave) => {
    await play(
      'ours',
      async (stage) => {
        const client = await openTunnel(stage.front.url);
        const exchange = await stage.origin.exchange(0);
        leave(client);
        await exchange.closed;
      },
      { script: () => undefined },
    );
  });
});
