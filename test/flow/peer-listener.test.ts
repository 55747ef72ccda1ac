import { request as requestHttps } from 'node:https';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { Fault } from '../../src/model/fault.js';
import type { HeaderLine } from '../../src/model/headers.js';
import type { RequestHead } from '../../src/model/request-head.js';
import { silentLog } from '../../src/observe/log.js';
import { type ClientFacts, type PeerClaim, PeerSignature, readPeerHead } from '../../src/proxy/peer-auth.js';
import { type PeerListenerOptions, startPeerListener } from '../../src/proxy/peer-listener.js';
import type { Exchange } from '../../src/server/exchange.js';
import { sendReply } from '../../src/server/response.js';
import { connect, exchangeOver, openRequest, requestOnce, TRANSPORTS } from '../support/client.js';
import type { RawExchange } from '../support/raw-origin.js';
import { type RedisServer, startRedis } from '../support/redis-server.js';
import {
  appendLines,
  clientDialect,
  createUpload,
  ResumableUpload,
  versionLines,
} from '../support/resumable-client.js';
import {
  makeCertificate,
  serverPort,
  temporaryDirectory,
  type TemporaryDirectory,
  until,
} from '../support/temporary.js';
import { CLIENT_FACTS, onPeerFront, SECRET } from '../support/test-listener.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';

describe('listener', () => {
  const TARGET = '/.uploads/abc?x=1';
  const LINE = { method: 'PATCH', target: TARGET };
  const CLIENT: ClientFacts = { ...CLIENT_FACTS, httpVersion: '1.0' };
  const CLAIM: PeerClaim = { kind: 'request', to: 'owner', client: CLIENT };
  const sender = (secret = SECRET, now = (): number => Date.now()) => new PeerSignature(secret, 'entry', now);

  interface Heard {
    readonly url: string;
    readonly heard: (RequestHead | 'files')[];
  }

  /** Tables are made before the listener is: nothing is signed before it began. */
  const soon = (): number => Date.now() + 5000;

  /** A listener that notes what it lets in. */
  async function listening<T>(scenario: (heard: Heard) => Promise<T>, tls?: PeerListenerOptions['tls']): Promise<T> {
    const heard: Heard['heard'] = [];
    const answer = (exchange: Exchange, what: Heard['heard'][number]): void => {
      heard.push(what);
      exchange.req.resume();
      void sendReply(exchange, { status: 200, headers: [], body: 'ok' });
    };
    const listener = await startPeerListener(
      {
        address: { kind: 'tcp', host: '127.0.0.1', port: 0 },
        signature: new PeerSignature(SECRET, 'owner', Date.now),
        log: silentLog(),
        tls,
      },
      {
        onRequest: (exchange, client) => answer(exchange, readPeerHead(exchange.req, client) as RequestHead),
        onFiles: (exchange) => answer(exchange, 'files'),
      },
    );
    try {
      return await scenario({ url: listener.url, heard });
    } finally {
      listener.destroyAll();
      await listener.closed;
    }
  }

  const HOST: HeaderLine = ['Host', 'internal'];
  const FIVE: HeaderLine = ['Content-Length', '5'];

  /** These lines, and the signature for a request with them. */
  const signed = (claim: PeerClaim, lines: readonly HeaderLine[] = [HOST], by = sender()): HeaderLine[] => [
    ...lines,
    ['RUFH-Peer', by.sign(claim, { ...LINE, headers: lines })],
  ];

  describe('the internal listener', () => {
    test('believes a signed request what it says of its client, and nothing that stands beside it', async () => {
      await listening(async ({ url, heard }) => {
        const headers = signed(CLAIM, [HOST, ['X-Forwarded-For', '203.0.113.9'], ['Content-Length', '0']]);
        expect((await requestOnce(url, { ...LINE, headers })).status).toBe(200);
        expect(heard).toEqual([
          {
            ...LINE,
            path: '/.uploads/abc',
            httpVersion: '1.0',
            scheme: 'https',
            authority: 'files.example',
            headers: headers.slice(0, 2),
            contentLength: undefined,
            hasBody: false,
            expectsContinue: false,
            connection: CLIENT.connection,
          },
        ]);
      });
    });

    test('keeps a length of zero that the client announced itself', async () => {
      await listening(async ({ url, heard }) => {
        const claim: PeerClaim = { ...CLAIM, client: { ...CLIENT, hasNoLength: false } };
        await requestOnce(url, { ...LINE, headers: signed(claim, [HOST, ['Content-Length', '0']]) });
        expect(heard[0]).toMatchObject({ contentLength: 0, hasBody: false });
      });
    });

    test('tells what another node wants for itself from what a client wants', async () => {
      await listening(async ({ url, heard }) => {
        await requestOnce(url, { ...LINE, headers: signed({ kind: 'files', to: 'owner' }) });
        expect(heard).toEqual(['files']);
      });
    });

    test.each<[string, string, HeaderLine[]]>([
      ['is not signed', 'unsigned', [HOST, FIVE]],
      ['is signed with another secret', 'forged', signed(CLAIM, [HOST, FIVE], sender('another'))],
      [
        'was signed long ago',
        'old',
        signed(
          CLAIM,
          [HOST, FIVE],
          sender(SECRET, () => Date.now() - 40_000),
        ),
      ],
      [
        'is signed for another node',
        'misdirected',
        signed({ ...CLAIM, to: 'third' }, [HOST, FIVE], sender(SECRET, soon)),
      ],
      ['is signed twice', 'forged', [...signed(CLAIM, [HOST, FIVE]), signed(CLAIM)[1]!]],
      ['a node of an older version signed', 'version', [HOST, FIVE, ['RUFH-Peer', `1.1.e30.${'A'.repeat(43)}`]]],
      [
        'is signed for another length',
        'forged',
        [...signed(CLAIM, [HOST, ['Content-Length', '4']]).slice(2), HOST, FIVE],
      ],
      [
        'is signed for a body without a length',
        'forged',
        [HOST, FIVE, signed(CLAIM, [HOST, ['Transfer-Encoding', 'chunked']])[2]!],
      ],
      ['is signed with another field', 'forged', [HOST, FIVE, ['Upload-Offset', '6'], signed(CLAIM, [HOST, FIVE])[2]!]],
    ])('lets nothing in that %s', async (_, why, headers) => {
      await listening(async ({ url, heard }) => {
        const answer = await requestOnce(url, { ...LINE, headers, body: 'hello' });
        expect([answer.status, answer.body.toString(), answer.header('RUFH-Peer')]).toEqual([403, '', why]);
        expect(heard).toEqual([]);
      });
    });

    // Issue 9, §5: what one node signed for another is good once.
    test('lets no signature be used twice, whatever the body is', async () => {
      await listening(async ({ url, heard }) => {
        const headers = signed(CLAIM, [HOST, FIVE]);
        expect((await requestOnce(url, { ...LINE, headers, body: 'hello' })).status).toBe(200);
        for (const body of ['hello', 'EVIL!']) {
          const again = await requestOnce(url, { ...LINE, headers, body });
          expect([again.status, again.header('RUFH-Peer')]).toEqual([403, 'replayed']);
        }
        expect(heard).toHaveLength(1);
      });
    });

    test('lets no signature be used for another method or target', async () => {
      await listening(async ({ url, heard }) => {
        const headers = signed(CLAIM);
        expect((await requestOnce(url, { method: 'DELETE', target: TARGET, headers })).status).toBe(403);
        expect((await requestOnce(url, { method: 'PATCH', target: '/.uploads/abd', headers })).status).toBe(403);
        expect(heard).toEqual([]);
      });
    });

    test('changes to no other protocol', async () => {
      await listening(async ({ url }) => {
        const client = await connect(url);
        const headers = signed(CLAIM, [HOST, ['Connection', 'Upgrade'], ['Upgrade', 'websocket']]);
        await client.sendHead('GET', TARGET, headers);
        await client.ended();
      });
    });
  });

  describe('over mutual TLS', () => {
    const ours = makeCertificate();
    const tls = { ...ours, ca: ours.cert };

    function status(url: string, identity: object): Promise<number> {
      return new Promise((resolve, reject) => {
        const host: HeaderLine = ['Host', new URL(url).host];
        const headers = { 'RUFH-Peer': sender().sign(CLAIM, { ...LINE, headers: [host, ['Content-Length', '0']] }) };
        const options = { ...identity, method: 'PATCH', ca: ours.cert, headers, agent: false } as const;
        requestHttps(new URL(TARGET, url), { ...options, checkServerIdentity: () => undefined }, (response) => {
          response.resume();
          resolve(response.statusCode!);
        })
          .on('error', reject)
          .end();
      });
    }

    test('it speaks with nodes that have a certificate of the cluster, and with nobody else', async () => {
      await listening(async ({ url, heard }) => {
        expect(await status(url, ours)).toBe(200);
        await expect(status(url, {})).rejects.toThrow(/certificate|reset|closed|hang up/i);
        expect(heard).toHaveLength(1);
      }, tls);
    });

    const relayedWith = (url: string, mine: object): Promise<number | 'nothing'> => {
      const owners = { find: () => Promise.resolve({ url, silentMs: 0 }) };
      return onPeerFront({ owners, tls: mine }, (front) =>
        requestOnce(front.url, LINE).then(
          ({ status }) => status,
          () => 'nothing',
        ),
      );
    };

    test('a relay gets through with its certificate alone', async () => {
      await listening(async ({ url, heard }) => {
        expect(await relayedWith(url, { ...ours, ca: ours.cert })).toBe(200);
        // Whom it asks is a stranger to it.
        expect(await relayedWith(url, {})).toBe(503);
        // It is a stranger itself, and finds out when it has sent its request.
        expect(await relayedWith(url, { ca: ours.cert })).not.toBe(200);
        expect(heard).toHaveLength(1);
      }, tls);
    });
  });
});

describe('unreachable nodes', () => {
  const TARGET = `/.uploads/${'a'.repeat(32)}`;
  const PATCH = { method: 'PATCH', target: TARGET, body: Buffer.alloc(200_000) };

  const at = (url: string, silentMs = 0) => ({ find: () => Promise.resolve({ url, silentMs }) });

  async function nobody(): Promise<string> {
    return `http://127.0.0.1:${await serverPort()}`;
  }

  describe('an owner that cannot be reached', () => {
    test.each(TRANSPORTS)('is told of as unavailable over %s, also to who sends a body', async (by) => {
      await onPeerFront({ owners: at(await nobody(), 59_999) }, async ({ url, refused }) => {
        expect((await exchangeOver(by, url, PATCH)).status).toBe(503);
        expect((await exchangeOver(by, url, { method: 'HEAD', target: TARGET })).status).toBe(503);
        expect(refused).toEqual(['unavailable', 'unavailable']);
      });
    });

    test('any more, although a connection to it was open, is told of as well', async () => {
      let end = (): Promise<void> => Promise.resolve();
      const script = (exchange: RawExchange): Promise<void> =>
        exchange.index === 0 ? exchange.respond({ status: 204 }) : end();
      await onPeerFront({ script }, async ({ url, owner, refused }) => {
        end = () => owner.close();
        expect((await requestOnce(url, { method: 'HEAD', target: TARGET })).status).toBe(204);
        expect((await requestOnce(url, { method: 'HEAD', target: TARGET })).status).toBe(503);
        expect(refused).toEqual(['unavailable']);
      });
    });

    test('and has been silent for too long has lost its uploads', async () => {
      await onPeerFront({ owners: at(await nobody(), 60_000) }, async ({ url, refused }) => {
        expect((await requestOnce(url, PATCH)).status).toBe(404);
        expect(refused).toEqual(['unknown-upload']);
      });
    });

    test('and that nobody remembers has lost them too', async () => {
      await onPeerFront({ owners: { find: () => Promise.resolve(undefined) } }, async ({ url, refused }) => {
        expect((await requestOnce(url, PATCH)).status).toBe(404);
        expect(refused).toEqual(['unknown-upload']);
      });
    });

    test('but was silent only for the store is asked all the same', async () => {
      await onPeerFront({}, async (front) => {
        await onPeerFront({ owners: at(front.owner.url, 10 * 60_000) }, async ({ url, refused }) => {
          expect((await requestOnce(url, PATCH)).status).toBe(200);
          expect(refused).toEqual([]);
        });
      });
    });

    test.each(TRANSPORTS)('because it stands still, connected as it is, is not waited for over %s', async (by) => {
      const silent = (): Promise<void> => new Promise(() => undefined);
      await onPeerFront({ script: silent }, async ({ owner }) => {
        await onPeerFront({ owners: at(owner.url, 20_000), checkIntervalMs: 10 }, async ({ url, refused }) => {
          expect((await exchangeOver(by, url, PATCH)).status).toBe(503);
          expect((await exchangeOver(by, url, { method: 'HEAD', target: TARGET })).status).toBe(503);
          expect(refused).toEqual(['unavailable', 'unavailable']);
        });
        await onPeerFront({ owners: at(owner.url, 60_000), checkIntervalMs: 10 }, async ({ url, refused }) => {
          expect((await exchangeOver(by, url, { method: 'HEAD', target: TARGET })).status).toBe(404);
          expect(refused).toEqual(['unknown-upload']);
        });
      });
    });

    test('because it stands still, and was given up meanwhile, has lost its uploads', async () => {
      const looks: number[] = [];
      const forgotten = (url: string) => ({
        find: () => Promise.resolve(looks.push(looks.length) === 1 ? { url, silentMs: 0 } : undefined),
      });
      await onPeerFront({ script: () => new Promise(() => undefined) }, async ({ owner }) => {
        await onPeerFront({ owners: forgotten(owner.url), checkIntervalMs: 10 }, async ({ url, refused }) => {
          expect((await requestOnce(url, PATCH)).status).toBe(404);
          expect(refused).toEqual(['unknown-upload']);
        });
      });
    });

    test('is waited for as long as it is heard of, or nobody is', async () => {
      const looks: number[] = [];
      const heard = (url: string) => ({
        find: () => {
          looks.push(looks.length);
          if (looks.length % 2 === 0) return Promise.reject(new Fault('STORE_UNAVAILABLE', 'away', true));
          return Promise.resolve({ url, silentMs: looks.length === 1 ? 0 : 30_000 });
        },
      });
      const afterLooks = async (exchange: RawExchange): Promise<void> => {
        await until(() => looks.length > 8, 'looks at whether the owner is heard of');
        await exchange.respond({ status: 200, body: 'late' });
      };
      await onPeerFront({ script: afterLooks }, async ({ owner }) => {
        await onPeerFront({ owners: heard(owner.url), checkIntervalMs: 10 }, async ({ url }) => {
          expect((await requestOnce(url, PATCH)).status).toBe(200);
        });
      });
    });

    test('because its machine says nothing is not waited for', async () => {
      // Nobody speaks TLS there: the connection never comes to be, as with a machine that is gone.
      const sockets: Socket[] = [];
      const server = createServer((socket) => void sockets.push(socket));
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
      const { port } = server.address() as AddressInfo;
      try {
        const owners = at(`https://127.0.0.1:${port}`);
        await onPeerFront({ owners, connectTimeoutMs: 100 }, async ({ url, refused }) => {
          expect((await requestOnce(url, PATCH)).status).toBe(503);
          expect(refused).toEqual(['unavailable']);
        });
      } finally {
        for (const socket of sockets) socket.destroy();
        server.close();
      }
    });
  });

  describe('what answers in place of the owner', () => {
    test.each(['forged', 'old', 'misdirected'])(
      'and calls our signature %s says nothing to the client',
      async (why) => {
        const script = (exchange: RawExchange) => exchange.respond({ status: 403, headers: [['RUFH-Peer', why]] });
        await onPeerFront({ script }, async ({ url, refused }) => {
          expect((await requestOnce(url, { method: 'HEAD', target: TARGET })).status).toBe(503);
          expect(refused).toEqual(['unavailable']);
        });
      },
    );

    test('is the owner, when its 403 is for the client', async () => {
      await onPeerFront({ script: (exchange) => exchange.respond({ status: 403, body: 'no' }) }, async ({ url }) => {
        const answer = await requestOnce(url, { method: 'GET', target: TARGET });
        expect([answer.status, answer.body.toString()]).toEqual([403, 'no']);
      });
    });
  });
});

describe('no relay', () => {
  const DIALECT = clientDialect('10');

  let redis: RedisServer;
  let origin: TestOrigin;
  let apps: TestApp[];
  let disks: TemporaryDirectory[];
  let upload: ResumableUpload;

  beforeEach(async () => {
    redis = await startRedis();
    origin = await startTestOrigin({ status: 201, body: 'kept' });
    apps = [];
    disks = [await temporaryDirectory('rufh-disk-'), await temporaryDirectory('rufh-disk-')];
    const owner = await startNode(0);
    upload = await createUpload(DIALECT, (request) => requestOnce(owner.url, request), {
      method: 'POST',
      target: '/files',
    });
    await upload.append(Buffer.from('half'), { offset: 0, complete: false });
  });

  afterEach(async () => {
    await stopAll();
    await origin.close();
    await redis.stop();
    for (const disk of disks) await disk.remove();
  });

  async function startNode(disk: number, shared = false): Promise<TestApp> {
    const config = `store: { type: redis, url: "${redis.url}" }\nspool: { shared: ${shared} }\n`;
    const app = await startTestApp({ origin: origin.url, config, data: disks[disk]!.path });
    apps.push(app);
    return app;
  }

  async function stopAll(): Promise<void> {
    await Promise.all(apps.splice(0).map((app) => app.stop()));
  }

  async function askedAt(app: TestApp) {
    const head = await requestOnce(app.url, { method: 'HEAD', target: upload.target, headers: versionLines(DIALECT) });
    return [head.status, head.header('Retry-After')];
  }

  async function finishAt(app: TestApp): Promise<number> {
    const there = new ResumableUpload(DIALECT, (request) => requestOnce(app.url, request), upload.url);
    return (await there.finish(Buffer.from('half and half'))).status;
  }

  const errors = (app: TestApp) => app.log.filter(({ level }) => level === 'error').map(({ msg }) => msg);

  test('a node without a way to the others keeps its hands off their uploads, and says once what to set', async () => {
    const other = await startNode(1);
    expect(await askedAt(other)).toEqual([503, '30']);
    const there = new ResumableUpload(DIALECT, (request) => requestOnce(other.url, request), upload.url);
    expect((await there.append(Buffer.from(' and half'), { offset: 4, complete: true })).status).toBe(503);
    const page = await requestOnce(other.url, { method: 'GET', target: `${upload.target}/status` });
    expect([page.status, page.header('Content-Type')]).toEqual([503, 'application/problem+json']);
    expect(errors(other)).toEqual([expect.stringMatching(/set `cluster` on every node/)]);
    expect(await finishAt(apps[0]!)).toBe(201);
    expect(origin.requests.map(({ body }) => body.toString())).toEqual(['half and half']);
  });

  test('a client that would take a 503 for the end loses its connection instead', async () => {
    const other = await startNode(1);
    const agent = ['User-Agent', 'App/1 CFNetwork/1494.0.7 Darwin/23.4.0'] as const;
    const headers = [...appendLines(DIALECT, { offset: 4, complete: true }), agent, ['Content-Length', '9'] as const];
    const request = await openRequest('HTTP/1.1', other.url, { method: 'PATCH', target: upload.target, headers });
    await request.givenUp();
  });

  test('a spool that is said to be shared by mistake loses nothing of what its node had', async () => {
    await stopAll();
    const mistaken = await startNode(0, true);
    expect(await askedAt(mistaken)).toEqual([503, '30']);
    expect(errors(mistaken)).toEqual([expect.stringMatching(/`spool.shared` is true on this one/)]);
    await stopAll();
    expect(await finishAt(await startNode(0))).toBe(201);
  });
});
