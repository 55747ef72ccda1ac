import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { exchangeOver, TRANSPORTS, type Transport } from '../support/client.js';
import { appendLines, clientDialect, creationLines, DIALECTS, versionLines } from '../support/resumable-client.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import { expectTus, FILE, STREAM, TUS } from '../support/tus-client.js';
import type { WireResponse } from '../support/wire.js';

// An upload may continue in another protocol than it began with, because its client was updated meanwhile.

let origin: TestOrigin;
let app: TestApp;
beforeAll(async () => {
  origin = await startTestOrigin();
  app = await startTestApp({ origin: origin.url });
});
afterAll(async () => {
  await app.stop();
  await origin.close();
});
beforeEach(() => {
  origin.requests.length = 0;
  origin.answerWith({ status: 201, body: 'stored' });
});

const PROTOCOLS = ['tus', ...DIALECTS] as const;
type ProtocolName = (typeof PROTOCOLS)[number];

/** The request lines of a client of one protocol. */
interface Client {
  readonly creation: (length: number | undefined) => HeaderLine[];
  readonly retrieval: readonly HeaderLine[];
  readonly append: (offset: number, complete: boolean) => HeaderLine[];
}

function clientOf(name: ProtocolName): Client {
  if (name === 'tus')
    return {
      creation: (length) => [
        TUS,
        STREAM,
        length === undefined ? ['Upload-Defer-Length', '1'] : ['Upload-Length', String(length)],
      ],
      retrieval: [TUS],
      append: (offset, complete) => [
        TUS,
        STREAM,
        ['Upload-Offset', String(offset)],
        // Where the length was deferred, the end is where the client says so.
        ...(complete ? [['Upload-Length', String(FILE.length)] as const] : []),
      ],
    };
  const dialect = clientDialect(name);
  return {
    creation: (length) => creationLines(dialect, { complete: false, length }),
    retrieval: versionLines(dialect),
    append: (offset, complete) => appendLines(dialect, { offset, complete }),
  };
}

/** The status of an append that more is to follow. A client without a version gets that of the upload's creation. */
function appendedStatus(name: ProtocolName, creator: ProtocolName): number {
  if (name === 'tus') return 204;
  const isStored = name === 'final' && creator !== 'tus' && creator !== '3';
  return clientDialect(isStored ? creator : name).appendedStatus;
}

/** Each response is that of its request's protocol, and nothing of the other is in it. */
function expectOnly(name: ProtocolName, response: WireResponse): void {
  const names = response.headerLines.map(([line]) => line.toLowerCase());
  const ofTus = names.filter((line) => line.startsWith('tus-'));
  const ofDrafts = names.filter((line) =>
    ['upload-complete', 'upload-incomplete', 'upload-draft-interop-version'].includes(line),
  );
  expect([ofTus.length > 0, ofDrafts.length > 0]).toEqual(name === 'tus' ? [true, false] : [false, true]);
}

const PAIRS = PROTOCOLS.flatMap((from) => PROTOCOLS.filter((to) => to !== from).map((to) => [from, to] as const));

async function continueUpload(
  transport: Transport,
  [from, to]: readonly [ProtocolName, ProtocolName],
  length: number | undefined,
): Promise<void> {
  const [first, second] = [clientOf(from), clientOf(to)];
  const send = (method: string, target: string, headers: readonly HeaderLine[], body?: Uint8Array) => {
    const size: HeaderLine[] = body === undefined ? [] : [['Content-Length', String(body.length)]];
    return exchangeOver(transport, app.url, { method, target, headers: [...headers, ...size], body });
  };
  const created = await send('POST', '/files', first.creation(length), FILE.subarray(0, 1000));
  expect(created.status).toBe(201);
  const target = new URL(created.header('Location')!).pathname;
  const offsetFor = async ({ retrieval }: Client): Promise<string | undefined> =>
    (await send('HEAD', target, retrieval)).header('Upload-Offset');
  expect(await offsetFor(second)).toBe('1000');
  const appended = await send('PATCH', target, second.append(1000, false), FILE.subarray(1000, 2000));
  expect(appended.status).toBe(appendedStatus(to, from));
  expectOnly(to, appended);
  // And back.
  expect(await offsetFor(first)).toBe('2000');
  const conflict = await send('PATCH', target, first.append(1000, true), FILE.subarray(1000));
  expect([conflict.status, conflict.header('Upload-Offset')]).toEqual([409, '2000']);
  expectOnly(from, conflict);
  const last = await send('PATCH', target, first.append(2000, true), FILE.subarray(2000));
  expect([last.status, last.body.toString()]).toEqual([201, 'stored']);
  expectOnly(from, last);
  // Either is told that it is over.
  expect([await offsetFor(first), await offsetFor(second)]).toEqual(['3000', '3000']);
  expect(origin.requests.map(({ body }) => body.equals(FILE))).toEqual([true]);
}

test.each(PAIRS)('from %s to %s and back', (from, to) => continueUpload('HTTP/1.1', [from, to], FILE.length));

describe.each(PAIRS.filter((pair) => pair.includes('tus')))('from %s to %s and back', (from, to) => {
  test('over HTTP/2', () => continueUpload('HTTP/2', [from, to], FILE.length));
  test('with a length that comes last', () => continueUpload('HTTP/1.1', [from, to], undefined));
});

// TUSKit appends by upload tasks, and URLSession adds its own fields to each of those: "this is all of it".
describe.each([
  ['3', ['Upload-Incomplete', '?0']],
  ['5', ['Upload-Complete', '?1']],
  ['6', ['Upload-Complete', '?1']],
] as [string, HeaderLine][])('TUSKit on an iOS that speaks interop %s is a client of tus', (version, complete) => {
  test.each(TRANSPORTS)('over %s', async (transport) => {
    const send = async (method: string, target: string, headers: readonly HeaderLine[], body?: Uint8Array) => {
      const response = await exchangeOver(transport, app.url, { method, target, headers: [TUS, ...headers], body });
      expectOnly('tus', response);
      // A 104 would let URLSession resume beneath TUSKit.
      expect(response.interims).toEqual([]);
      return response;
    };
    const metadata: HeaderLine = ['Upload-Metadata', 'filename YS5wbmc=,filetype aW1hZ2UvcG5n'];
    const creation: HeaderLine[] = [
      ['Upload-Extension', 'creation'],
      ['Upload-Length', '3000'],
      metadata,
      ['Content-Length', '0'],
    ];
    const created = await send('POST', '/files', creation, new Uint8Array());
    expectTus(created, 201);
    const target = new URL(created.header('Location')!).pathname;
    const append = (from: number, to: number) =>
      send(
        'PATCH',
        target,
        [
          ['Upload-Draft-Interop-Version', version],
          complete,
          STREAM,
          ['Upload-Offset', String(from)],
          ['Content-Length', String(to - from)],
        ],
        FILE.subarray(from, to),
      );
    expectTus(await append(0, 1000), 204);
    const head = await send('HEAD', target, []);
    expectTus(head, 200);
    expect([head.header('Upload-Offset'), head.header('Upload-Length')]).toEqual(['1000', '3000']);
    expectTus(await append(1000, 2000), 204);
    expectTus(await append(1000, 2000), 409);
    const last = await append(2000, 3000);
    expectTus(last, 201);
    expect([last.header('Upload-Offset'), last.body.toString()]).toEqual(['3000', 'stored']);
    expect(origin.requests.map(({ body }) => body.equals(FILE))).toEqual([true]);
    expect(origin.requests[0]!.header('Content-Type')).toBe('image/png');
    expectTus(await send('DELETE', target, []), 204);
  });
});
