import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { HttpOrigin } from '../../src/delivery/http-origin.js';
import type { HeaderLine } from '../../src/model/headers.js';
import { reasonPhrase } from '../../src/streams/node-http.js';
import { connect, exchangeOver, requestOnce, type Transport, TRANSPORTS } from '../support/client.js';
import { type ByteByByte, startByteByByte } from '../support/network.js';
import { PeerNodes } from '../support/peer-nodes.js';
import { answerOk, type RawExchange, type RawOrigin, startRawOrigin } from '../support/raw-origin.js';
import { temporaryDirectory, until } from '../support/temporary.js';
import { startTestApp } from '../support/test-proxy.js';
import { sendWithTrailers } from '../support/trailers.js';
import type { ResponseHead, WireRequest } from '../support/wire.js';

// Issue 9: octets above 0x7F in fields and reason phrases pass as they are (RFC 9110 §5.5), wherever they go.

/** UTF-8 as it stands in a field: one code unit an octet. */
const utf8 = (text: string): string => Buffer.from(text, 'utf8').toString('latin1');
const ALL = String.fromCharCode(...Array.from({ length: 128 }, (_, at) => 128 + at));

/** Characters of two, three and four octets, Latin-1, every octet beside the others and apart. */
const LINES: HeaderLine[] = [
  ['X-File-Name', utf8('żółw 漢字 🐢.jpg')],
  ['Content-Disposition', `attachment; filename="${utf8('żółw 漢字 🐢.pdf')}"`],
  ['X-Latin', 'J\xf6rg \xa9'],
  ['X-All', ALL],
  ['X-Again', '\xff'],
  ['x-again', '\x80'],
  ['X-Apart', ALL.split('').join(' ')],
  // Alone, where what is no character, or a space to JavaScript, could be lost: 100 of them would be too many for HTTP/2.
  ...['\x80', '\x85', '\xa0', '\xad', '\xc2', '\xff'].map((octet, at): HeaderLine => [`X-Alone-${at}`, octet]),
];
const NAMES = new Set(LINES.map(([name]) => name.toLowerCase()));
const PHRASES = [utf8('Zażółć 漢 🐢'), 'F\xfcr immer', ALL];

/** Those of `lines` that a test has put there, in their order. */
function ours({ headerLines }: Pick<ResponseHead, 'headerLines'>): HeaderLine[] {
  return headerLines.filter(([name]) => NAMES.has(name.toLowerCase()));
}

function over(transport: Transport, lines: readonly HeaderLine[]): HeaderLine[] {
  if (transport === 'HTTP/1.1') return [...lines];
  return lines.map(([name, value]) => [name.toLowerCase(), value]);
}

/** An answer in one write; where the length stands, and whether there is one, decides how Node writes a head. */
const SHAPES: readonly [name: string, before: HeaderLine[], after: HeaderLine[], body: string][] = [
  ['behind the length', [['Content-Length', '4']], [], 'body'],
  ['before the length', [], [['Content-Length', '4']], 'body'],
  ['with chunks', [], [['Transfer-Encoding', 'chunked']], '4\r\nbody\r\n0\r\n\r\n'],
  ['without content', [['Content-Length', '0']], [], ''],
];

interface Cut {
  readonly name: string;
  readonly isCut: boolean;
}
const PACKETS: readonly Cut[] = [
  { name: 'as they are written', isCut: false },
  { name: 'of one octet each', isCut: true },
];

const ends: (() => Promise<unknown>)[] = [];
const lastEnds: (() => Promise<unknown>)[] = [];
const proxies = new Map<string, { readonly url: string }>();
let origin: RawOrigin;
let asked: RawOrigin;
let far: ByteByByte;

beforeAll(async () => {
  origin = await startRawOrigin();
  asked = await startRawOrigin();
  far = await startByteByByte(origin.url);
});
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
  origin.setScript(answerOk);
  asked.setScript(answerOk);
  origin.exchanges.length = 0;
  asked.exchanges.length = 0;
});
afterAll(async () => {
  for (const end of lastEnds.reverse()) await end();
  await far.close();
  await origin.close();
  await asked.close();
});

/** Where clients reach a proxy with these settings; tests that want the same share one. */
async function start({ isCut }: Cut, config = ''): Promise<{ readonly url: string }> {
  const known = proxies.get(`${isCut} ${config}`);
  if (known) return known;
  const app = await startTestApp({ origin: isCut ? far.url : origin.url, config });
  lastEnds.push(() => app.stop());
  const near = isCut ? await startByteByByte(app.url) : undefined;
  if (near) lastEnds.push(() => near.close());
  proxies.set(`${isCut} ${config}`, near ?? app);
  return near ?? app;
}

const answering =
  (...[, before, after, body]: (typeof SHAPES)[number]) =>
  async (exchange: RawExchange, reason = PHRASES[0]!, status = 201): Promise<void> => {
    await exchange.readBody();
    const lines = [...before, ...LINES, ...after].map(([name, value]) => `${name}: ${value}\r\n`).join('');
    await exchange.write(`HTTP/1.1 ${status} ${reason}\r\n${lines}\r\n${exchange.method === 'HEAD' ? '' : body}`);
  };

const upload = (target: string, lines: readonly HeaderLine[] = []): WireRequest => ({
  method: 'POST',
  target,
  headers: [['Upload-Complete', '?1'], ['Upload-Draft-Interop-Version', '6'], ...lines],
  body: 'hello',
});

describe.each(TRANSPORTS)('over %s', (transport) => {
  describe.each(PACKETS)('in packets $name', (cut) => {
    test.each<[string, WireRequest]>([
      ['a request without content', { method: 'GET', target: '/get', headers: LINES }],
      ['a request with content', { method: 'POST', target: '/post', headers: LINES, body: 'hello' }],
      [
        'a request whose length stands first',
        {
          method: 'PUT',
          target: '/put',
          headers: [['Content-Length', '5'], ...LINES],
          body: 'hello',
        },
      ],
      ['an upload', upload('/upload', LINES)],
    ])('%s reaches the origin as it left', async (_, request) => {
      const { url } = await start(cut);
      expect((await exchangeOver(transport, url, request)).status).toBe(200);
      expect(ours(origin.exchanges[0]!)).toEqual(over(transport, LINES));
    });

    test.each(SHAPES)('an answer %s reaches the client, passed through and of an upload', async (...shape) => {
      const { url } = await start(cut);
      origin.setScript(answering(...shape));
      const passed = await exchangeOver(transport, url, {
        method: 'GET',
        target: '/file',
      });
      const given = await exchangeOver(transport, url, upload('/up'));
      for (const answer of [passed, given]) {
        expect([answer.status, answer.body.toString()]).toEqual([201, shape[3] === '' ? '' : 'body']);
        expect(ours(answer)).toEqual(over(transport, LINES));
        if (transport === 'HTTP/1.1') expect(answer.reason).toBe(PHRASES[0]);
      }
    });
  });
});

test.each(PACKETS)('heads that are sent before their content comes, in packets $name', async (cut) => {
  const { url } = await start(cut);
  origin.setScript(async (exchange) => {
    await exchange.readBytes(1);
    const lines = LINES.map(([name, value]) => `${name}: ${value}\r\n`).join('');
    await exchange.write(`HTTP/1.1 103 ${PHRASES[1]!}\r\n${lines}\r\n`);
    await exchange.write(`HTTP/1.1 200 ${PHRASES[2]!}\r\nContent-Length: 2\r\n${lines}\r\n`);
    await exchange.readBody();
    await exchange.write('ok');
  });
  for (const more of [[], [['Expect', '100-continue']]] satisfies HeaderLine[][]) {
    const client = await connect(url);
    ends.push(() => Promise.resolve(client.destroy()));
    await client.sendHead('POST', '/slow', [['Content-Length', '2'], ...LINES, ...more]);
    const exchange = await origin.exchange(origin.exchanges.length);
    expect(ours(exchange)).toEqual(LINES);
    await client.send('a');
    const interim = await client.readHead();
    expect([interim!.status, interim!.reason, ours(interim!)]).toEqual([103, PHRASES[1], LINES]);
    const head = await client.readHead();
    expect([head!.status, head!.reason, ours(head!)]).toEqual([200, PHRASES[2], LINES]);
    await client.send('b');
    expect((await client.bodyOf(head!).readAll()).toString()).toBe('ok');
  }
});

/** A target of its own for each upload that goes on with another request. */
const pathOf = (answer: ResponseHead): string => new URL(answer.header('Location')!).pathname;

const create = (target: string, lines: readonly HeaderLine[] = []): WireRequest => ({
  method: 'POST',
  target,
  headers: [['Upload-Complete', '?0'], ['Upload-Draft-Interop-Version', '6'], ['Upload-Length', '5'], ...lines],
  body: 'hell',
});

const finish = (target: string, offset = 4): WireRequest => ({
  method: 'PATCH',
  target,
  headers: [
    ['Upload-Complete', '?1'],
    ['Upload-Draft-Interop-Version', '6'],
    ['Upload-Offset', `${offset}`],
    ['Content-Type', 'application/partial-upload'],
  ],
  body: offset === 4 ? 'o' : '',
});

test('a record keeps the octets of the request and of the answer through a restart, trailers of both included', async () => {
  const directory = await temporaryDirectory('rufh-octets-');
  ends.push(() => directory.remove());
  const open = () => startTestApp({ origin: origin.url, data: join(directory.path, 'data') });
  let app = await open();
  ends.push(() => app.stop());
  const path = pathOf(await requestOnce(app.url, create('/kept', LINES)));
  await app.stop();
  app = await open();
  origin.setScript(async (exchange) => {
    await exchange.readBody();
    const headers: HeaderLine[] = [...LINES, ['Transfer-Encoding', 'chunked'], ['Trailer', 'X-All']];
    await exchange.respond({
      status: 200,
      reason: ALL,
      headers,
      body: 'body',
      trailers: LINES.slice(2),
    });
  });
  const client = await connect(app.url);
  const { method, target, headers } = finish(path);
  await client.sendHead(method, target, [...headers!, ['Transfer-Encoding', 'chunked']]);
  await client.sendChunk('o');
  await client.endChunks([...LINES.slice(2), ['Content-Digest', 'x'], ['Content-Type', 'x'], ['Cookie', 'x']]);
  const answers = [await client.readFinal()];
  client.destroy();
  await app.stop();
  app = await open();
  answers.push(await requestOnce(app.url, finish(path, 5)));
  for (const answer of answers) {
    expect([answer.status, answer.reason, ours(answer)]).toEqual([200, ALL, LINES]);
    expect([answer.body.toString(), answer.header('Trailer')]).toEqual(['body', 'X-All']);
    expect(answer.trailers).toEqual(LINES.slice(2));
  }
  const [exchange] = origin.exchanges;
  expect(origin.exchanges).toHaveLength(1);
  expect([ours(exchange!), (await exchange!.readBody()).toString()]).toEqual([LINES, 'hello']);
  expect(exchange!.body.trailers).toEqual(LINES.slice(2));
  expect([exchange!.header('Content-Length'), exchange!.header('Trailer')?.startsWith('X-Latin, X-All')]).toEqual([
    undefined,
    true,
  ]);
});

const TRAILERS = LINES.filter(([name]) => name.toLowerCase() !== 'x-again').slice(2);

test.each(
  TRANSPORTS.flatMap((transport) =>
    ['spool', 'eager'].map((mode): [Transport, string, number] => [transport, mode, mode === 'eager' ? 0 : 8192]),
  ),
)('trailers of a body over %s follow the whole at the origin, delivery %s', async (transport, mode, most) => {
  const { url } = await start(PACKETS[0]!, `delivery: { mode: ${mode} }`);
  const answer = await sendWithTrailers(transport, url, upload('/trailers'), TRAILERS);
  const [exchange] = origin.exchanges;
  expect([answer.status, (await exchange!.readBody()).toString()]).toEqual([200, 'hello']);
  expect(exchange!.body.trailers).toEqual(over(transport, TRAILERS));
  // More of them than a record is to hold are left out, and the length is there again.
  if (most === 0) return;
  await sendWithTrailers(transport, url, upload('/too-many'), [['X-All', 'x'.repeat(most)]]);
  expect([origin.exchanges[1]!.header('Content-Length'), origin.exchanges[1]!.body.trailers]).toEqual(['5', []]);
});

const KEPT: HeaderLine = ['X-Checksum', 'abc'];
/** What must not come behind a body, of each kind: of a connection, of framing, of a head, of an upload, misspelt. */
const NOT_IN_TRAILERS: Record<Transport, readonly string[]> = {
  'HTTP/1.1': ['Connection', 'Keep-Alive', 'TE', 'Trailer', 'Upgrade', 'Host'],
  'HTTP/2': ['content-encoding'],
};
const NEVER = [
  'Content-Type',
  'Authorization',
  'Cookie',
  'X_Checksum',
  'X_User',
  'Forwarded',
  'X-Forwarded-For',
  'Via',
];
const OF_UPLOADS = ['Upload-Offset', 'Upload-Complete', 'Tus-Resumable', 'Content-Digest'];

describe.each(TRANSPORTS)('a body over %s', (transport) => {
  const WAYS: readonly (readonly [string, string, string, readonly string[]])[] = [
    ['spooled', '', '/trailers', OF_UPLOADS],
    ['eager', 'delivery: { mode: eager }', '/trailers', OF_UPLOADS],
    ['an ordinary request that is spooled', 'plain_bodies: spool', '/plain', []],
    ['passed on', '', '/plain', []],
  ];

  test.each(WAYS)(
    '%s: nothing reaches the origin behind it that counts in a head only',
    async (_, config, target, more) => {
      const { url } = await start(PACKETS[0]!, config);
      const names = [...NOT_IN_TRAILERS[transport], ...NEVER, ...more].map((name) =>
        transport === 'HTTP/2' ? name.toLowerCase() : name,
      );
      const trailers = [...names.map((name): HeaderLine => [name, 'x']), KEPT];
      const about = target === '/plain' ? { method: 'POST', target, body: 'hello' } : upload(target);
      const answer = await sendWithTrailers(transport, url, about, trailers);
      const [exchange] = origin.exchanges;
      expect([answer.status, (await exchange!.readBody()).toString()]).toEqual([200, 'hello']);
      expect(exchange!.body.trailers).toEqual(over(transport, [KEPT]));
    },
  );
});

test('trailers follow also a body that is all there before the connection is', async () => {
  const client = new HttpOrigin();
  ends.push(() => client.close());
  const body = new PassThrough();
  body.end('hello');
  await until(() => body.readableLength === 5, 'the whole body');
  const request = { origin: origin.url, method: 'POST', target: '/', headers: [['Host', 'x']] } as const;
  const about = { content: { size: 5, body }, trailers: () => TRAILERS, timeoutMs: 5000, connection: 'fresh' } as const;
  await client.send({ ...request, ...about }, new AbortController().signal);
  expect(origin.exchanges[0]!.body.trailers).toEqual(TRAILERS);
});

test.each(TRANSPORTS)(
  'a node passes the octets on to the one that has the upload, and back, over %s',
  async (transport) => {
    const peers = await PeerNodes.open();
    ends.push(() => peers.close());
    const owner = await peers.node('owner-node-name');
    const entry = await peers.node('entry-node-name');
    peers.origin.answerWith({
      status: 200,
      reason: ALL,
      headers: LINES,
      body: 'ok',
    });
    const path = pathOf(await exchangeOver(transport, owner.url, create('/there', LINES)));
    const answer = await sendWithTrailers(transport, entry.url, finish(path), TRAILERS);
    const [request] = peers.origin.requests;
    expect(ours({ headerLines: request!.headers })).toEqual(over(transport, LINES));
    expect(request!.trailers).toEqual(over(transport, TRAILERS));
    expect(ours(answer)).toEqual(over(transport, LINES));
    if (transport === 'HTTP/1.1') expect(answer.reason).toBe(ALL);
  },
);

test('a reason phrase that older versions have decoded, or that nobody may write, does not cost the answer', () => {
  expect(reasonPhrase(200, 'Zażółć \ud83d\udc22')).toBe(utf8('Zażółć 🐢'));
  expect(reasonPhrase(404, 'a\x01b')).toBe('Not Found');
  expect(reasonPhrase(599, 'a\rb')).toBe('');
  expect(reasonPhrase(404)).toBe('Not Found');
});

describe.each(PACKETS)('in packets $name', (cut) => {
  const authorizing = (): string =>
    `authorize: { forward_auth: { url: "${asked.url}/check", copy_headers: [X-Latin, X-All, Content-Disposition] } }`;
  const said = async (exchange: RawExchange, status: number): Promise<void> =>
    answering(...SHAPES[0]!)(exchange, PHRASES[2], status);

  test('whoever is asked for the right to upload sees the fields, and what is copied reaches the origin', async () => {
    const { url } = await start(cut, authorizing());
    asked.setScript((exchange) => said(exchange, 200));
    await requestOnce(url, upload('/files', LINES.slice(0, 1)));
    expect(ours(asked.exchanges[0]!)).toEqual(LINES.slice(0, 1));
    expect(ours(origin.exchanges[0]!)).toEqual([...LINES.slice(0, 1), ...LINES.slice(1, 4)]);
  });

  test.each(TRANSPORTS)('its refusal reaches the client over %s', async (transport) => {
    const { url } = await start(cut, `authorize: { forward_auth: "${asked.url}/check" }`);
    asked.setScript((exchange) => said(exchange, 403));
    const refused = await exchangeOver(transport, url, upload('/files'));
    expect([refused.status, ours(refused)]).toEqual([403, over(transport, LINES)]);
    if (transport === 'HTTP/1.1') expect(refused.reason).toBe(PHRASES[2]);
  });

  test('the origin that is asked beforehand sees the fields, and its refusal reaches the client', async () => {
    const { url } = await start(cut, 'authorize: { preflight: true }');
    origin.setScript(async (exchange) => {
      const lines = LINES.map(([name, value]) => `${name}: ${value}\r\n`).join('');
      await exchange.write(`HTTP/1.1 422 ${ALL}\r\nContent-Length: 2\r\n${lines}Connection: close\r\n\r\nno`);
      exchange.end();
    });
    const refused = await requestOnce(url, upload('/files', [['Content-Length', '5'], ...LINES]));
    expect([refused.status, refused.reason, ours(refused)]).toEqual([422, ALL, LINES]);
    expect(ours(origin.exchanges[0]!)).toEqual(LINES);
  });

  test.each(TRANSPORTS)('what the origin says to OPTIONS reaches the client over %s', async (transport) => {
    const { url } = await start(cut);
    origin.setScript((exchange) => said(exchange, 200));
    const answer = await exchangeOver(transport, url, {
      method: 'OPTIONS',
      target: '/files',
      headers: LINES,
    });
    expect(ours(answer)).toEqual(over(transport, LINES));
    expect(ours(origin.exchanges[0]!)).toEqual(over(transport, LINES));
  });

  test('a change of protocol takes the fields along, both ways', async () => {
    const { url } = await start(cut);
    const lines: HeaderLine[] = [['Connection', 'Upgrade'], ['Upgrade', 'x'], ...LINES];
    origin.setScript(async (exchange) => {
      const text = lines.map(([name, value]) => `${name}: ${value}\r\n`).join('');
      await exchange.write(`HTTP/1.1 101 ${ALL}\r\n${text}\r\n`);
    });
    const client = await connect(url);
    ends.push(() => Promise.resolve(client.destroy()));
    await client.sendHead('GET', '/switch', lines);
    const answer = await client.readFinal();
    expect([answer.status, answer.reason, ours(answer)]).toEqual([101, ALL, LINES]);
    expect(ours(origin.exchanges[0]!)).toEqual(LINES);
  });
});

test.each([utf8('text/plain; title="żółw 漢 🐢"'), 'text/plain; title="J\xf6rg"', `text/plain; title="${ALL}"`])(
  'a gate and a form get the octets of %j',
  async (type) => {
    const multipart = 'delivery: { framing: { field: file } }';
    const form = await start(PACKETS[0]!, multipart);
    await requestOnce(form.url, upload('/form', [['Content-Type', type]]));
    expect((await origin.exchanges[0]!.readBody()).toString('latin1')).toContain(`\r\nContent-Type: ${type}\r\n`);
    const service = await start(PACKETS[0]!, `delivery: { gate: { http: "${asked.url}" } }`);
    await requestOnce(service.url, upload('/gate', [['Content-Type', type]]));
    expect(asked.exchanges[0]!.header('Content-Type')).toBe(type);
    const command = `delivery: { gate: { command: [/bin/sh, -c, 'printf %s "$UPLOAD_CONTENT_TYPE $0"; exit 1', ok] } }`;
    const refusing = await start(PACKETS[0]!, command);
    const answer = await requestOnce(refusing.url, upload('/gate', [['Content-Type', type]]));
    expect([answer.status, answer.body.toString('latin1')]).toEqual([422, `${type} ok`]);
  },
);
