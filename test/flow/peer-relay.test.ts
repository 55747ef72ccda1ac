import { describe, expect, test } from '@jest/globals';
import { fieldValue, withoutFields } from '../../src/model/headers.js';
import type { UnknownOutcome } from '../../src/model/upload.js';
import { PeerSignature } from '../../src/proxy/peer-auth.js';
import { connect, openRequest, requestOnce, TRANSPORTS } from '../support/client.js';
import { connectH2 } from '../support/http2-client.js';
import type { RawExchange } from '../support/raw-origin.js';
import { randomBytes, sha256, until } from '../support/temporary.js';
import { onPeerFront, type PeerFront, SECRET } from '../support/test-listener.js';

const MIB = 1024 * 1024;
const ID = 'a'.repeat(32);
const TARGET = `/.uploads/${ID}?x=%2F..%2f`;

/** What the owner got of a request besides the signature. */
function linesOf({ headerLines }: RawExchange) {
  return withoutFields(headerLines, new Set(['rufh-peer']));
}

async function got({ owner }: PeerFront): Promise<RawExchange> {
  const exchange = await owner.exchange(0);
  await exchange.readBody();
  return exchange;
}

describe('a request to another node', () => {
  test('has the line, the fields and the body that the client sent, and one signature', async () => {
    await onPeerFront({}, async (front) => {
      const body = randomBytes(300_000);
      const headers = [
        ['Host', 'files.example'],
        ['x-CASE', 'a'],
        ['X-Case', 'b'],
        ['X-Forwarded-For', '192.0.2.7'],
        ['Authorization', 'Bearer x'],
        ['Upload-Offset', '7'],
        ['RUFH-Peer', 'made up by the client'],
        ['Content-Length', `${body.length}`],
      ] as const;
      await requestOnce(front.url, { method: 'PATCH', target: TARGET, headers, body });
      const exchange = await got(front);
      expect(exchange.requestLine).toBe(`PATCH ${TARGET} HTTP/1.1`);
      const ownHop = ['Connection', 'keep-alive'] as const;
      expect(linesOf(exchange)).toEqual([...headers.filter(([name]) => name !== 'RUFH-Peer'), ownHop]);
      expect(exchange.body.sha256).toBe(sha256(body));
    });
  });

  test('tells in its signature who the client is, whatever the client says', async () => {
    await onPeerFront({}, async (front) => {
      const headers = [['Host', 'files.example']] as const;
      const signature = new PeerSignature(SECRET, 'owner', Date.now);
      await requestOnce(front.url, { method: 'HEAD', target: TARGET, headers });
      const exchange = await got(front);
      const claim = signature.verify(exchange.header('RUFH-Peer'), {
        method: 'HEAD',
        target: TARGET,
        headers: exchange.headerLines,
      });
      const connection = {
        peerAddress: '127.0.0.1',
        encrypted: false,
        clientAddress: '127.0.0.1',
        peerIsTrusted: false,
        relaysInterim: true,
        isClientsOwn: true,
      };
      const client = { httpVersion: '1.1', scheme: 'http', authority: 'files.example', connection, hasNoLength: true };
      expect(claim).toEqual({ kind: 'request', to: 'owner', client });
    });
  });

  test('of unknown length stays of unknown length, with its trailers', async () => {
    await onPeerFront({}, async (front) => {
      const client = await connect(front.url);
      await client.sendHead('PATCH', TARGET, [
        ['Transfer-Encoding', 'chunked'],
        ['Trailer', 'X-Sum'],
      ]);
      await client.sendChunk('hello ');
      await client.sendChunk('world');
      await client.endChunks([['X-Sum', '11']]);
      const { status } = await client.readFinal();
      const exchange = await got(front);
      expect([status, exchange.header('Transfer-Encoding'), exchange.header('Content-Length')]).toEqual([
        200,
        'chunked',
        undefined,
      ]);
      expect(exchange.body.bytes.toString()).toBe('hello world');
      expect(exchange.body.trailers).toEqual([['X-Sum', '11']]);
      client.destroy();
    });
  });

  test('over HTTP/2 has its authority as Host', async () => {
    await onPeerFront({}, async (front) => {
      const client = await connectH2(front.url);
      const answer = await client.request({ method: 'PATCH', target: TARGET, body: 'hello' });
      const exchange = await got(front);
      expect([answer.status, exchange.body.bytes.toString()]).toEqual([200, 'hello']);
      expect(linesOf(exchange)).toEqual([
        ['host', new URL(front.url).host],
        ['Transfer-Encoding', 'chunked'],
        ['Connection', 'keep-alive'],
      ]);
      await client.close();
    });
  });
});

describe('what the owner says', () => {
  const INTERIMS = [102, 104, 104];

  async function announce(exchange: RawExchange): Promise<void> {
    await exchange.interim(102);
    await exchange.interim(104, [['Upload-Offset', '5']]);
    await exchange.interim(104, [['Upload-Offset', '9']]);
    await exchange.readBody();
    const headers = [
      ['X-Twice', '1'],
      ['x-twice', '2'],
      ['Transfer-Encoding', 'chunked'],
      ['Trailer', 'X-Sum'],
    ] as const;
    await exchange.respond({ status: 201, reason: 'Made', headers, body: 'answer', trailers: [['X-Sum', '6']] });
  }

  test.each(TRANSPORTS)(
    'reaches a client over %s, interim responses in order and while the body is held',
    async (by) => {
      await onPeerFront({ script: announce }, async ({ url }) => {
        const request = await openRequest(by, url, { method: 'PATCH', target: TARGET, headers: [['Te', 'trailers']] });
        for (const status of INTERIMS) expect((await request.readInterim()).status).toBe(status);
        await request.send('hello');
        await request.end();
        const answer = await request.readFinal();
        const reason = by === 'HTTP/1.1' ? 'Made' : '';
        expect([answer.status, answer.reason, answer.body.toString()]).toEqual([201, reason, 'answer']);
        expect(answer.interims.at(-1)!.headerLines.map(([, value]) => value)).toContain('9');
        expect(fieldValue(answer.headerLines, 'x-twice')).toBe('1, 2');
        expect(answer.trailers.map(([name, value]) => [name.toLowerCase(), value])).toEqual([['x-sum', '6']]);
        await request.close();
      });
    },
  );

  test('decides whether a body that waits for 100 is wanted', async () => {
    const script = async (exchange: RawExchange): Promise<void> => {
      const isWanted = exchange.header('X-Wanted') === 'yes';
      if (isWanted) {
        await exchange.interim(100);
        await exchange.readBody();
      }
      await exchange.respond({ status: isWanted ? 200 : 409, body: 'told' });
    };
    await onPeerFront({ script }, async ({ url, owner }) => {
      const head = [
        ['Expect', '100-continue'],
        ['Content-Length', '5'],
      ] as const;
      const wanted = await connect(url);
      await wanted.sendHead('PATCH', TARGET, [...head, ['X-Wanted', 'yes']]);
      expect((await wanted.readInterim()).status).toBe(100);
      await wanted.send(Buffer.from('hello'));
      expect((await wanted.readFinal()).status).toBe(200);
      const unwanted = await connect(url);
      await unwanted.sendHead('PATCH', TARGET, [...head, ['X-Wanted', 'no']]);
      const answer = await unwanted.readFinal();
      expect([answer.status, answer.interims.length]).toEqual([409, 0]);
      expect(owner.exchanges[1]!.body.size).toBe(0);
      wanted.destroy();
      unwanted.destroy();
    });
  });

  test('reaches a client that is still sending', async () => {
    const script = async (exchange: RawExchange): Promise<void> => {
      await exchange.readBytes(65_536);
      await exchange.respond({ status: 413, headers: [['Connection', 'close']], body: 'too large' });
      exchange.end();
      exchange.socket.destroy();
    };
    await onPeerFront({ script }, async ({ url }) => {
      const answer = await requestOnce(url, { method: 'PATCH', target: TARGET, body: Buffer.alloc(8 * MIB) });
      expect([answer.status, answer.body.toString()]).toEqual([413, 'too large']);
    });
  });
});

describe('bytes that nobody takes', () => {
  test.each(TRANSPORTS)('stay with a client over %s as long as the owner does not read', async (by) => {
    let release = (): void => undefined;
    const released = new Promise<void>((resolve) => (release = resolve));
    const script = async (exchange: RawExchange): Promise<void> => {
      await released;
      await exchange.readBody();
      await exchange.respond({ status: 204 });
    };
    await onPeerFront({ script }, async ({ url, owner }) => {
      const size = 64 * MIB;
      const request = await openRequest(by, url, { method: 'PATCH', target: TARGET });
      let sent = 0;
      const sending = (async () => {
        for (; sent < size; sent += MIB) await request.send(Buffer.alloc(MIB));
        await request.end();
      })();
      let seen = -1;
      let calm = 0;
      await until(() => {
        calm = sent === seen ? calm + 1 : 0;
        seen = sent;
        return calm > 40;
      }, 'an end of the growth');
      expect(sent).toBeLessThan(32 * MIB);
      release();
      await sending;
      expect((await request.readFinal()).status).toBe(204);
      expect(owner.exchanges[0]!.body.size).toBe(size);
      await request.close();
    });
  });
});

describe('who leaves', () => {
  const silent = (): void => undefined;

  const UNKNOWN = ['RUFH-Unknown-End', `3 ${ID}`] as const;

  test.each(TRANSPORTS)(
    'over %s: what the client was told is noted when it has all of it, and no earlier',
    async (by) => {
      const noted: UnknownOutcome[] = [];
      const clientKnows = (end: UnknownOutcome): Promise<void> => {
        noted.push(end);
        return Promise.resolve();
      };
      let goOn = (): void => undefined;
      const held = new Promise<void>((resolve) => (goOn = resolve));
      const script = async (exchange: RawExchange): Promise<void> => {
        await exchange.readBody();
        const isPartly = exchange.header('X-Partly') !== undefined;
        if (!isPartly) return exchange.respond({ status: 503, headers: [UNKNOWN], body: 'unknown' });
        await exchange.write(`HTTP/1.1 503 No\r\n${UNKNOWN.join(': ')}\r\nContent-Length: 7\r\n\r\nunk`);
        await held;
        exchange.reset();
      };
      await onPeerFront({ script, onUnknownOutcomeReported: clientKnows }, async ({ url, running }) => {
        const partly = await openRequest(by, url, { method: 'PATCH', target: TARGET, headers: [['X-Partly', '1']] });
        await partly.end();
        await until(() => running() === 1, 'its exchange');
        partly.leave('reset');
        goOn();
        await until(() => running() === 0, 'the end of the exchange');
        expect(noted).toEqual([]);
        await partly.close();
        const request = await openRequest(by, url, { method: 'PATCH', target: TARGET });
        await request.end();
        const { status, headerLines, body } = await request.readFinal();
        expect([status, body.toString()]).toEqual([503, 'unknown']);
        expect(fieldValue(headerLines, UNKNOWN[0])).toBeUndefined();
        await until(() => noted.length > 0, 'the note');
        expect(noted).toEqual([{ id: ID, attempt: 3 }]);
        await request.close();
      });
    },
  );

  test.each(TRANSPORTS)('over %s: when the client goes, its request to the owner ends at once', async (by) => {
    await onPeerFront({ script: silent }, async ({ url, owner, running }) => {
      const headers = [['Content-Length', '1000']] as const;
      const request = await openRequest(by, url, { method: 'PATCH', target: TARGET, headers });
      await request.send('hello');
      const exchange = await owner.exchange(0);
      await exchange.readBytes(5);
      request.leave('reset');
      await exchange.closed;
      await until(() => running() === 0, 'the end of the exchange');
      await request.close();
    });
  });

  test.each(TRANSPORTS)(
    'over %s: an owner that ends the connection without an answer ends it for the client',
    async (by) => {
      const script = async (exchange: RawExchange): Promise<void> => {
        await exchange.readBytes(5);
        exchange.socket.destroy();
      };
      await onPeerFront({ script }, async ({ url, refused }) => {
        const headers = [['Content-Length', '1000']] as const;
        const request = await openRequest(by, url, { method: 'PATCH', target: TARGET, headers });
        await request.send('hello');
        await request.givenUp();
        expect(refused).toEqual([]);
        await request.close();
      });
    },
  );

  test('an owner that ends the connection within its answer ends it for the client', async () => {
    const script = async (exchange: RawExchange): Promise<void> => {
      await exchange.write('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf');
      exchange.reset();
    };
    await onPeerFront({ script }, async ({ url }) => {
      await expect(requestOnce(url, { method: 'GET', target: TARGET })).rejects.toThrow(/closed|reset/i);
    });
  });

  test('a node that stops ends what brings a body, and lets the others have their answers', async () => {
    let answer = (): void => undefined;
    const asked = new Promise<void>((resolve) => (answer = resolve));
    const script = async (exchange: RawExchange): Promise<void> => {
      if (exchange.method === 'HEAD') await asked;
      if (exchange.method === 'HEAD') await exchange.respond({ status: 204 });
    };
    await onPeerFront({ script }, async ({ url, owner, relay }) => {
      const headers = [['Content-Length', '1000']] as const;
      const bringing = await openRequest('HTTP/1.1', url, { method: 'PATCH', target: TARGET, headers });
      const waiting = requestOnce(url, { method: 'HEAD', target: TARGET });
      await until(() => owner.exchanges.length === 2, 'both requests');
      relay.drain();
      await bringing.givenUp();
      answer();
      expect((await waiting).status).toBe(204);
      await bringing.close();
    });
  });
});
