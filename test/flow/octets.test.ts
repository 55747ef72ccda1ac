// Issue 9: octets above 0x7F in fields and reason phrases pass as they are (RFC 9110 §5.5), wherever they go.
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { startTestApp, type TestApp } from '../support/app.js';
import { type ByteByByte, startByteByByte } from '../support/byte-by-byte.js';
import { exchangeOver, TRANSPORTS, type Transport } from '../support/open-request.js';
import { connect } from '../support/raw-client.js';
import { answerOk, startRawOrigin, type RawExchange, type RawOrigin } from '../support/raw-origin.js';
import type { ResponseHead, WireRequest } from '../support/wire-response.js';

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
  await far.close();
  await origin.close();
  await asked.close();
});

/** The proxy, and where clients reach it. */
async function start({ isCut }: Cut, config = ''): Promise<{ app: TestApp; url: string }> {
  const app = await startTestApp({ origin: isCut ? far.url : origin.url, config });
  ends.push(() => app.stop());
  if (!isCut) return { app, url: app.url };
  const near = await startByteByByte(app.url);
  ends.push(() => near.close());
  return { app, url: near.url };
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
        { method: 'PUT', target: '/put', headers: [['Content-Length', '5'], ...LINES], body: 'hello' },
      ],
      ['an upload', upload('/upload', LINES)],
    ])('%s reaches the origin as it left', async (_, request) => {
      const { url } = await start(cut);
      expect((await exchangeOver(transport, url, request)).status).toBe(200);
      expect(ours(origin.exchanges[0]!)).toEqual(over(transport, LINES));
    });

    test.each(SHAPES)('an answer %s reaches the client, passed through, of an upload and kept', async (...shape) => {
      const { url } = await start(cut);
      origin.setScript(answering(...shape));
      const passed = await exchangeOver(transport, url, { method: 'GET', target: '/file' });
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
