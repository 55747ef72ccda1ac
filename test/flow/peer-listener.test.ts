import { request as requestHttps } from 'node:https';
import { describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import type { RequestHead } from '../../src/model/request-head.js';
import { silentLog } from '../../src/observe/log.js';
import { type ClientFacts, type PeerClaim, PeerSignature, readPeerHead } from '../../src/proxy/peer-auth.js';
import { type PeerListenerOptions, startPeerListener } from '../../src/proxy/peer-listener.js';
import type { Exchange } from '../../src/server/exchange.js';
import { sendReply } from '../../src/server/response.js';
import { makeCertificate } from '../support/certificate.js';
import { onPeerFront, SECRET, TOLD_CLIENT } from '../support/peer-front.js';
import { connect, requestOnce } from '../support/raw-client.js';

const TARGET = '/.uploads/abc?x=1';
const LINE = { method: 'PATCH', target: TARGET };
const CLIENT: ClientFacts = { ...TOLD_CLIENT, httpVersion: '1.0' };
const CLAIM: PeerClaim = { kind: 'request', to: 'owner', client: CLIENT };
const sender = (secret = SECRET, now = (): number => Date.now()) => new PeerSignature(secret, 'entry', now);

interface Heard {
  readonly url: string;
  readonly heard: (RequestHead | 'files')[];
}

/** Tables are made before the listener is: nothing is signed before it began. */
const soon = (): number => Date.now() + 5000;

/** A listener that notes what it lets in. */
async function listening<T>(scene: (heard: Heard) => Promise<T>, tls?: PeerListenerOptions['tls']): Promise<T> {
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
    return await scene({ url: listener.url, heard });
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
